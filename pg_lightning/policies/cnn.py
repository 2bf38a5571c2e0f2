"""Convolutional network for images: ``[T, channels, height, width]`` -> features ``[T, F]``."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

Layers = Sequence[tuple[int, int, int, int]]
"""Channels, kernel size, stride and padding of each convolution."""

ATARI: Layers = ((16, 8, 4, 0), (32, 4, 2, 0))
"""Convolutions of Mnih et al. (2013), "Playing Atari with Deep Reinforcement Learning"."""

SMALL: Layers = ((16, 3, 1, 1), (32, 3, 2, 1))
"""Convolutions for images that the larger kernels would shrink to a few numbers."""

ATARI_SIDE = 36
"""Shortest side, in pixels, of images that get the Atari network."""


class CNNBody(nn.Sequential):
    """Convolutions with ReLUs, flattened at the end; orthogonal weights with gain √2, biases 0.

    Args:
        shape: channels, height and width of the images.
        layers: channels, kernel size, stride and padding of each convolution; by default the small Atari network, for
            images with a side of less than 36 pixels an even smaller one.

    Attributes:
        num_outputs: numbers per image, F.

    Raises:
        ValueError: the images are too small for the layers, or these are no such numbers.

    >>> CNNBody((4, 84, 84)).num_outputs, CNNBody((1, 8, 8)).num_outputs
    (2592, 512)
    """

    def __init__(self, shape: tuple[int, int, int], layers: Layers | None = None) -> None:
        if layers is None:
            layers = ATARI if min(shape[1:]) >= ATARI_SIDE else SMALL
        for layer in layers:
            if [*map(type, layer)] != [int] * 4 or min(layer[:3]) < 1 or layer[3] < 0:
                raise ValueError(
                    "layers are (channels, kernel size, stride, padding), whole numbers of at least 1, 1, 1 and 0, not "
                    f"{layer!r}"
                )
        sizes = [shape[0], *(channels for channels, *_ in layers)]
        modules: list[nn.Module] = []
        for (inputs, outputs), (_, kernel, stride, padding) in zip(pairwise(sizes), layers, strict=True):
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding)
            nn.init.orthogonal_(convolution.weight, math.sqrt(2))
            nn.init.zeros_(convolution.get_parameter("bias"))
            modules += [convolution, nn.ReLU()]
        super().__init__(*modules, nn.Flatten())
        try:
            with torch.no_grad():
                self.num_outputs = self(torch.zeros(1, *shape)).shape[1]
        except RuntimeError as error:
            raise ValueError(
                f"images of {shape[1]} x {shape[2]} pixels are too small for the layers {layers}"
            ) from error
