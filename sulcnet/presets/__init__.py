"""Presets: values of all options under one name, one file per preset; the built-in values stand beside the options."""
