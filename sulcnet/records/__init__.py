"""The contracts between commands: frozen dataclasses, JSON in and out, no torch."""
