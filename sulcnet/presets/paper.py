"""The source paper's patch, batch, losses and rates (Mamalakis et al. 2024, arXiv 2405.19204)."""

from sulcnet.options import Preset

PRESET = Preset()
