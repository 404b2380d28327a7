"""A patch discriminator: is this piece of an image real? Used by adversarial pre-training, never exported."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sulcnet.networks._network import layer

SLOPE = 0.2  # of the leaky ReLU, as pix2pix


class Critic(nn.Module):
    """Give one logit per piece of an image, (B, C, X, Y, Z) -> (B, 1, X/8, Y/8, Z/8); above 0 means real.

    Isola et al. 2017 (arXiv 1611.07004): three strided convolutions, so that texture is judged and not anatomy. There
    is no norm over voxels: it would let one half of an image decide about the other. Spectral norm (Miyato et al. 2018,
    arXiv 1802.05957) bounds how steep the critic is; its vectors of power iteration are buffers, move with each pass in
    training mode, and are saved for resume.

    Args:
        features: channels after the first convolution; they double twice.
        spectral: divide each weight by its largest singular value.
    """

    def __init__(
        self, ndim: int, in_channels: int, features: int = 16, spectral: bool = True
    ):
        super().__init__()
        bound = spectral_norm if spectral else lambda module: module
        convolution = layer("Conv", ndim)
        self.layers = nn.Sequential()
        inputs = in_channels
        for width in (features, 2 * features, 4 * features):
            self.layers.append(
                bound(convolution(inputs, width, 4, stride=2, padding=1))
            )
            self.layers.append(nn.LeakyReLU(SLOPE, inplace=True))
            inputs = width
        self.layers.append(bound(convolution(inputs, 1, 3, padding=1)))

    def forward(self, image: Tensor) -> Tensor:
        """Judge images of at least 8 voxels per axis."""
        return self.layers(image)
