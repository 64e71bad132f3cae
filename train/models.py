"""The networks: the CIFAR forms of two papers, and torchvision's with a stem for small pictures.

Every network takes float32 (B, C, H, W) and returns logits, float32 (B, classes), for any height and width (but ``linear``).

Our own do in place what they can, which trains more images a second on a CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from train.registry import Family, entry

# At this size and above the CIFAR forms halve the picture in their stem, and so cost what they cost at half the size.
STRIDED_STEM_FROM = 64
# Below this size torchvision's stem, which divides by four, would leave the last stage less than 3 x 3 pixels.
LARGE_STEM_FROM = 96

GROWTH = 12

Size = tuple[int, int]


def build(name: str, classes: int, size: tuple[int, int], channels: int = 3) -> nn.Module:
    """Make a network with fresh weights (He initialisation), in channels-last format on the CPU.

    Weights are drawn from torch's global generator: the caller seeds it.

    Args:
        name: a key of ``train.registry.MODELS``.
        classes: width of the last layer.
        size: (height, width) in pixels of the pictures it will be given; the shorter side chooses the stem, and ``linear``
            takes no other size.
        channels: 3 or 1.

    Raises:
        UnknownName: no model is called ``name``.
    """
    model = entry(name)
    network = _BUILDERS[model.family](model.depth, classes, size, channels)
    return network.to(memory_format=torch.channels_last)


class Linear(nn.Module):
    """One layer on the normalised values of every pixel: a training that costs next to nothing, and so shows loading."""

    def __init__(self, values: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(values, classes)

    def forward(self, images: Tensor) -> Tensor:
        # In the order in which a channels-last batch lies: a view.
        return cast(Tensor, self.head(images.permute(0, 2, 3, 1).flatten(1)))


class CifarResNet(nn.Module):
    """6n + 2 layers: a 3 x 3 stem, and three stages of n blocks with 16, 32 and 64 channels.

    Source: He et al. 2016, section 4.2.
    """

    def __init__(self, depth: int, classes: int, stem_stride: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.stem = _conv(channels, 16, stem_stride)
        self.norm = nn.BatchNorm2d(16)
        widths = [16] * (blocks + 1) + [32] * blocks + [64] * blocks
        self.blocks = nn.Sequential(*(BasicBlock(before, after) for before, after in itertools.pairwise(widths)))
        self.head = nn.Linear(64, classes)
        _he_init(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.norm(self.stem(images)), inplace=True))
        return cast(Tensor, self.head(features.mean(dim=(2, 3))))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; where the width doubles, the picture halves.

    Source: He et al. 2016, figure 2 and section 3.3.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = after // before
        self.conv1 = _conv(before, after, self.stride)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = _conv(after, after)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(features)), inplace=True)
        return F.relu(self.norm2(self.conv2(inner)).add_(shortcut(features, self.stride)), inplace=True)


def shortcut(features: Tensor, stride: int) -> Tensor:
    """Option A: the identity, taken at every ``stride``-th pixel and padded with channels of zeros; no parameters."""
    if stride == 1:
        return features
    missing = features.shape[1] * (stride - 1)
    return F.pad(features[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, missing))


class CifarDenseNet(nn.Module):
    """3n + 4 layers: a 3 x 3 stem of 16 channels, and three dense blocks of n layers with growth 12.

    Source: Huang et al. 2017, section 3, "Implementation Details"; without dropout, which the paper leaves out where
    pictures are augmented.
    """

    def __init__(self, depth: int, classes: int, stem_stride: int, channels: int) -> None:
        super().__init__()
        layers = (depth - 4) // 3
        width = 16
        stages: list[nn.Module] = [_conv(channels, width, stem_stride)]
        for block in range(3):
            if block:
                stages.append(_transition(width))
            stages += [DenseLayer(width + GROWTH * layer) for layer in range(layers)]
            width += GROWTH * layers
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)
        _he_init(self)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.stages(images)), inplace=True)
        return cast(Tensor, self.head(features.mean(dim=(2, 3))))


class DenseLayer(nn.Module):
    """Norm, ReLU and a 3 x 3 convolution, whose ``GROWTH`` channels are put behind the layer's input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = _conv(width, GROWTH)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features, self.conv(F.relu(self.norm(features), inplace=True))), dim=1)


def _transition(width: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, kernel_size=1, bias=False), nn.AvgPool2d(2)
    )


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)


def _he_init(network: nn.Module) -> None:
    """He et al. 2015, arXiv:1502.01852: both papers' weights for convolutions; torch's own for the rest."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _linear(_: int, classes: int, size: Size, channels: int) -> nn.Module:
    return Linear(size[0] * size[1] * channels, classes)


def _cifar_resnet(depth: int, classes: int, size: Size, channels: int) -> nn.Module:
    return CifarResNet(depth, classes, _stem_stride(size), channels)


def _cifar_densenet(depth: int, classes: int, size: Size, channels: int) -> nn.Module:
    return CifarDenseNet(depth, classes, _stem_stride(size), channels)


def _stem_stride(size: Size) -> int:
    return 2 if min(size) >= STRIDED_STEM_FROM else 1


def _resnet(depth: int, classes: int, size: Size, channels: int) -> nn.Module:
    network = torchvision.models.get_model(f"resnet{depth}", num_classes=classes)
    network.conv1 = _stem(network.conv1, size, channels)
    if min(size) < LARGE_STEM_FROM:
        network.maxpool = nn.Identity()
    return cast(nn.Module, network)


def _densenet(depth: int, classes: int, size: Size, channels: int) -> nn.Module:
    network = torchvision.models.get_model(f"densenet{depth}", num_classes=classes)
    network.features.conv0 = _stem(network.features.conv0, size, channels)
    if min(size) < LARGE_STEM_FROM:
        network.features.pool0 = nn.Identity()
    return cast(nn.Module, network)


def _stem(published: nn.Conv2d, size: Size, channels: int) -> nn.Conv2d:
    """The published stem, or one that fits small pictures or another number of channels."""
    large = min(size) >= LARGE_STEM_FROM
    if large and channels == published.in_channels:
        return published
    if large:
        stem = nn.Conv2d(channels, published.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    else:
        stem = _conv(channels, published.out_channels)
    _he_init(stem)
    return stem


_BUILDERS: dict[Family, Callable[[int, int, Size, int], nn.Module]] = {
    "cifar_densenet": _cifar_densenet,
    "cifar_resnet": _cifar_resnet,
    "densenet": _densenet,
    "linear": _linear,
    "resnet": _resnet,
}
