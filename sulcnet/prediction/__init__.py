"""A trained run at work: load it, predict folders, score what was predicted."""
