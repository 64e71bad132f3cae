"""The models by name, readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datasets.errors import UnknownName

Family = Literal["cifar_densenet", "cifar_resnet", "densenet", "linear", "resnet"]


@dataclass(frozen=True)
class ModelEntry:
    """What is known of a model before it is built.

    Attributes:
        family: which builder of ``train.models`` makes it.
        depth: layers with weights, as the paper counts them.
        description: one line. paper: where the network comes from; empty for none.
        speed: about how many images of 32 pixels it trains a second on two cores of a virtual machine, for estimates.
        gpu_speed: the same on one H100, in bfloat16, steps as graphs (docs/gpu.md); None where it was not measured.
    """

    family: Family
    depth: int
    description: str
    paper: str
    speed: float
    gpu_speed: float | None = None


HE = "He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385"
HUANG = "Huang et al. 2017, Densely Connected Convolutional Networks, arXiv:1608.06993"

_RESNET = "CIFAR form, shortcuts without parameters (option A)"
_DENSENET = "CIFAR form, growth 12, no bottleneck, no compression"
_LARGE = "torchvision's; stem of 3 x 3, stride 1, no max-pool below 96 pixels"

MODELS: dict[str, ModelEntry] = {
    "densenet121": ModelEntry("densenet", 121, _LARGE, f"{HUANG}, table 1", speed=15),
    "densenet22": ModelEntry("cifar_densenet", 22, f"{_DENSENET}; a shorter densenet40", f"{HUANG}, section 3", speed=290),
    "densenet40": ModelEntry("cifar_densenet", 40, _DENSENET, f"{HUANG}, table 2", speed=46),
    "linear": ModelEntry(
        "linear", 1, "one fully connected layer on the pixels: a training that shows loading", "", speed=34_000
    ),
    "resnet18": ModelEntry("resnet", 18, _LARGE, f"{HE}, table 1", speed=60, gpu_speed=55_000),
    "resnet20": ModelEntry("cifar_resnet", 20, _RESNET, f"{HE}, table 6", speed=850, gpu_speed=60_000),
    "resnet50": ModelEntry("resnet", 50, _LARGE, f"{HE}, table 1", speed=20),
    "resnet56": ModelEntry("cifar_resnet", 56, _RESNET, f"{HE}, table 6", speed=200),
    "resnet8": ModelEntry("cifar_resnet", 8, f"{_RESNET}; the smallest of the family", f"{HE}, section 4.2", speed=1900),
}


def entry(name: str) -> ModelEntry:
    """The model called ``name``.

    Raises:
        UnknownName: there is none; carries the nearest right one.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise UnknownName("model", name, MODELS) from None
