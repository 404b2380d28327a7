"""Patches of prepared cases: where they lie, how they vary, how they reach the loop."""
