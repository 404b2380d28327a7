"""MONAI's SwinUNETR, feature size 24 (15.70 M parameters in 3-D): the default network."""

from sulcnet.networks._swin import swin_unetr

OVERHEADS = (("none", 1.25), ("attention", 1.07), ("stages", 1.2))
NETWORK = swin_unetr(features=24, overheads=OVERHEADS)
