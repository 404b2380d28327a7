"""The improved defaults."""

from sulcnet.options import Preset

PRESET = Preset(base="")
