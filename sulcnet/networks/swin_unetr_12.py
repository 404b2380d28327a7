"""MONAI's SwinUNETR, feature size 12 (4.08 M parameters in 3-D): the smaller network of the paper's ablation."""

from sulcnet.networks._swin import swin_unetr

NETWORK = swin_unetr(features=12, overheads=(("none", 1.69),))
