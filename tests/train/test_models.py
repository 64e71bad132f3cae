"""The networks are the papers'."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from datasets.errors import UnknownName
from train.models import BasicBlock, CifarDenseNet, CifarResNet, build, shortcut
from train.registry import MODELS

ROOT = Path(__file__).parents[2]


def parameters(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("resnet20", 10, 0.27e6),  # He et al. 2016, table 6
        ("resnet56", 10, 0.85e6),  # the same
        ("densenet40", 10, 1.0e6),  # Huang et al. 2017, table 2, k = 12
    ],
)
def test_cifar_networks_have_the_parameters_of_their_papers(name: str, classes: int, published: float) -> None:
    """A network in its CIFAR form is as large as its paper's table says, to the digits that it prints."""
    digits = 2 if published < 1e6 else 1
    assert round(parameters(build(name, classes, (32, 32))) / 1e6, digits) == published / 1e6


@pytest.mark.parametrize(("name", "expected"), [("resnet8", 75_290), ("resnet20", 269_722), ("resnet56", 853_018)])
def test_resnet_parameters_are_those_counted_by_hand(name: str, expected: int) -> None:
    """Convolutions without biases, two numbers a normed channel, one linear layer, and nothing in the shortcuts."""
    n = (MODELS[name].depth - 2) // 6
    stem = 3 * 9 * 16 + 2 * 16
    stages = sum(2 * n * (9 * w * w + 2 * w) for w in (16, 32, 64)) - 9 * 16 * 32 - 9 * 32 * 64
    assert parameters(build(name, 10, (32, 32))) == stem + stages + 65 * 10 == expected


@pytest.mark.parametrize(("name", "expected"), [("densenet22", 270_706), ("densenet40", 1_019_722)])
def test_densenet_parameters_are_those_counted_by_hand(name: str, expected: int) -> None:
    """Layers of growth 12 in three blocks, transitions that keep the width, one norm and linear layer at the end."""
    n, width = (MODELS[name].depth - 4) // 3, 16
    count = 3 * 9 * 16
    for block in range(3):
        for _ in range(n):
            count += 2 * width + 9 * width * 12
            width += 12
        count += (2 * width + width * width) if block < 2 else (2 * width + 10 * width + 10)
    assert parameters(build(name, 10, (32, 32))) == count == expected


@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", 11_689_512), ("resnet50", 25_557_032), ("densenet121", 7_978_856)]
)
def test_large_networks_have_the_parameters_torchvision_documents(name: str, published: int) -> None:
    """At ImageNet's size and classes they are torchvision's own, stem included."""
    assert parameters(build(name, 1000, (224, 224))) == published


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_page_on_protocols_has_every_model(name: str) -> None:
    """``docs/protocols.md`` has a row for each, with the parameters it really has."""
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert f"| `{name}` | {parameters(build(name, 10, (32, 32))):,} |" in page


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (224, 224), (28, 44)])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_classifies_every_size(name: str, size: tuple[int, int], channels: int) -> None:
    """A batch of any picture size, square or not, RGB or grey, becomes one logit a class."""
    model = build(name, 7, size, channels).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, channels, *size)).shape == (1, 7)


@pytest.mark.parametrize(("size", "pixels"), [(32, 32), (63, 63), (64, 32)])
def test_cifar_forms_halve_the_picture_from_64_pixels(size: int, pixels: int) -> None:
    """At 64 pixels and more the stem has stride 2, so that the picture costs what its half costs."""
    resnet, densenet = build("resnet8", 10, (size, size)), build("densenet22", 10, (size, size))
    assert isinstance(resnet, CifarResNet)
    assert isinstance(densenet, CifarDenseNet)
    picture = torch.zeros(1, 3, size, size)
    assert resnet.stem(picture).shape[2:] == (pixels, pixels)
    assert densenet.stages[0](picture).shape[2:] == (pixels, pixels)


@pytest.mark.parametrize(("size", "kernel", "pooled"), [(32, 3, False), (95, 3, False), (96, 7, True), (224, 7, True)])
def test_torchvision_stem_is_small_below_96_pixels(size: int, kernel: int, pooled: bool) -> None:
    """Small pictures meet a 3 x 3 convolution of stride 1 and no max-pool; others the published stem."""
    model = build("resnet18", 10, (size, size))
    assert isinstance(model.conv1, nn.Conv2d)
    assert model.conv1.kernel_size == (kernel, kernel)
    assert isinstance(model.maxpool, nn.MaxPool2d) == pooled


def test_shortcut_has_no_parameters() -> None:
    """Where the width doubles, a block holds two convolutions and two norms, and no third."""
    assert [type(part) for part in BasicBlock(16, 32).children()] == [nn.Conv2d, nn.BatchNorm2d] * 2


def test_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros() -> None:
    """Option A: the first channels are the picture's own pixels, the new ones are zero."""
    features = torch.randn(2, 16, 5, 6, generator=torch.Generator().manual_seed(0))
    short = shortcut(features, 2)
    assert torch.equal(short[:, :16], features[:, :, ::2, ::2])
    assert short.shape == (2, 32, 3, 3)
    assert not short[:, 16:].any()


def test_weights_lie_channels_last() -> None:
    """Convolutions meet channels-last pictures in their own layout."""
    weights = next(build("resnet20", 10, (32, 32)).parameters())
    assert weights.is_contiguous(memory_format=torch.channels_last)


def test_unknown_model_names_the_nearest() -> None:
    """A slip of the pen gets the right name."""
    with pytest.raises(UnknownName, match="did you mean 'resnet20'") as caught:
        build("resnet_20", 10, (32, 32))
    assert caught.value.nearest == "resnet20"


def test_names_are_sorted_and_need_no_torch() -> None:
    """``loadstone list models`` and ``--help`` answer without the second that importing torch takes."""
    code = "import sys, train.protocol, train.registry as r; assert 'torch' not in sys.modules; print(*r.MODELS)"
    names = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert names == sorted(MODELS) == list(MODELS)
