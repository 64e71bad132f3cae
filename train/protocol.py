"""The training recipes: frozen values with a digest, the source of every number beside it. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal

import pydantic

from datasets.errors import UnknownName
from loaders.manifest import Frozen

Schedule = Literal["multistep", "one_cycle"]


class Protocol(Frozen):
    """One recipe: stochastic gradient descent on cross-entropy, over crops and flips, for a number of epochs.

    Every batch is used, the last and smaller one of an epoch too. Figures come from all epochs but the first, which
    starts workers and touches everything for the first time.

    Attributes:
        epochs: the first one included.
        batch_size: images a step.
        learning_rate: the highest of the schedule.
        momentum, nesterov, weight_decay: of ``torch.optim.SGD``; weight decay applies to every parameter.
        schedule: ``multistep`` multiplies by ``decay`` at each of ``milestones``; ``one_cycle`` rises and falls once.
        milestones: fractions of all steps, ascending.
        rise: fraction of all steps in which one_cycle rises.
        start_divisor: one_cycle starts at ``learning_rate / start_divisor``.
        end_divisor: one_cycle ends at its start divided by this.
        padding_divisor: a picture is padded by its height and width over this, rounded down, and cropped back.
        flip: mirror every other picture, by chance.
        image_size: height and width in pixels that pictures of differing sizes are cropped to.
        val_limit: validation images that are evaluated, after the last epoch; None is all of them.
        precision: ``bfloat16`` computes what torch.autocast computes so in it; weights and updates stay float32.
        compiled: by torch.compile.
        graphed: steps of whole batches are captured as a CUDA graph and replayed; needs a CUDA device.
        augmented_load: in mode ``load``, which has no model, batches are cropped, flipped and normalised too.
        loss: what is minimised.
    """

    name: str
    description: str
    epochs: int = pydantic.Field(ge=2)
    batch_size: int = pydantic.Field(ge=1)
    learning_rate: float = pydantic.Field(gt=0)
    momentum: float = pydantic.Field(ge=0, lt=1)
    nesterov: bool
    weight_decay: float = pydantic.Field(ge=0)
    schedule: Schedule
    milestones: tuple[float, ...] = ()
    decay: float = pydantic.Field(default=0.1, gt=0, le=1)
    rise: float = pydantic.Field(default=0.3, ge=0, lt=1)
    start_divisor: float = pydantic.Field(default=25.0, ge=1)
    end_divisor: float = pydantic.Field(default=1e4, ge=1)
    padding_divisor: int = pydantic.Field(default=8, ge=1)
    flip: bool = True
    image_size: int = pydantic.Field(default=64, ge=8)
    val_limit: int | None = pydantic.Field(default=None, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    compiled: bool = False
    graphed: bool = False
    augmented_load: bool = False
    loss: Literal["cross_entropy"] = "cross_entropy"

    @property
    def measured_epochs(self) -> int:
        """Epochs that figures come from."""
        return self.epochs - 1

    @property
    def digest(self) -> str:
        """SHA-256 over the recipe as canonical JSON, without its name and description: equal digests train alike."""
        recipe = self.model_dump(mode="json", exclude={"name", "description"})
        if self.graphed is False:  # recipes are older than the field, and what they say has not changed
            del recipe["graphed"]
        return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def steps_per_epoch(self, images: int) -> int:
        """Batches of an epoch, the last and smaller one included."""
        return math.ceil(images / self.batch_size)

    def padding(self, size: tuple[int, int]) -> tuple[int, int]:
        """Pixels of padding at (top and bottom, left and right) of a picture of ``size``: 4 at 32 pixels, 8 at 64."""
        return size[0] // self.padding_divisor, size[1] // self.padding_divisor

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of ``step``, counted from 0, of a training of ``steps``; past its end, the last step's."""
        step = min(step, steps - 1)
        if self.schedule == "multistep":
            passed = sum(step >= fraction * steps for fraction in self.milestones)
            return self.learning_rate * self.decay**passed
        return self._one_cycle(step, steps)

    def _one_cycle(self, step: int, steps: int) -> float:
        """Source: the two cosine phases of ``torch.optim.lr_scheduler.OneCycleLR``."""
        start = self.learning_rate / self.start_divisor
        peak, last = self.rise * steps - 1, steps - 1
        if step <= peak:
            return _cosine(start, self.learning_rate, step / peak if peak else 1.0)
        return _cosine(self.learning_rate, start / self.end_divisor, (step - peak) / (last - peak))


def _cosine(start: float, end: float, part: float) -> float:
    """From ``start`` (part 0) to ``end`` (part 1) along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


HE2016 = Protocol(
    name="he2016",
    description="The CIFAR recipe of the ResNet paper, 164 epochs",
    # He et al. 2016, arXiv:1512.03385, section 4.2: "weight decay of 0.0001 and momentum of 0.9 ... mini-batch size of
    # 128 ... learning rate of 0.1, divide it by 10 at 32k and 48k iterations, and terminate training at 64k".
    batch_size=128,
    learning_rate=0.1,
    momentum=0.9,
    nesterov=False,
    weight_decay=1e-4,
    schedule="multistep",
    # 64,000 iterations of the 391 that 50,000 images make are 163.7 epochs: 164, with the drops at the same fractions
    # (32,062 and 48,093). Other data sets get as many epochs, and so other numbers of iterations.
    epochs=164,
    milestones=(0.5, 0.75),
    decay=0.1,
    # "4 pixels are padded on each side, and a 32 x 32 crop is randomly sampled from the padded image or its flip".
    padding_divisor=8,
)

HUANG2017 = Protocol(
    name="huang2017",
    description="The CIFAR recipe of the DenseNet paper, 300 epochs",
    # Huang et al. 2017, arXiv:1608.06993, section 4.2: "batch size 64 for 300 epochs ... initial learning rate is set to
    # 0.1, and is divided by 10 at 50% and 75% of the total number of training epochs ... weight decay of 1e-4 and a
    # Nesterov momentum of 0.9 without dampening". Augmentation (section 4.1) is that of He et al., so no dropout.
    epochs=300,
    batch_size=64,
    learning_rate=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    schedule="multistep",
    milestones=(0.5, 0.75),
    decay=0.1,
    padding_divisor=8,
)

THESIS = Protocol(
    name="thesis",
    description="The fixed recipe of the comparison, for every data set and model, 10 epochs",
    # Ours: ten epochs give nine measured ones, and one cycle trains well in so few (Smith and Topin 2018,
    # arXiv:1708.07120).
    epochs=10,
    batch_size=128,
    # Both papers' rate for CIFAR; also what the 0.4 at batch 512 of Page 2018, "How to Train Your ResNet", part 3, is at
    # batch 128 by the linear scaling rule (Goyal et al. 2017, arXiv:1706.02677, section 2.1).
    learning_rate=0.1,
    momentum=0.9,
    nesterov=True,
    # Page 2018, as above; Zagoruyko and Komodakis 2016, arXiv:1605.07146, section 3. Larger than He's, which is tuned
    # for 164 epochs at a falling rate.
    weight_decay=5e-4,
    schedule="one_cycle",
    # The defaults of torch.optim.lr_scheduler.OneCycleLR; momentum is not cycled.
    rise=0.3,
    start_divisor=25.0,
    end_divisor=1e4,
    padding_divisor=8,
    # The customary ImageNet crop: Krizhevsky et al. 2012, section 4.1.
    image_size=224,
)

THESIS_CPU = THESIS.model_copy(
    update={
        "name": "thesis-cpu",
        "description": "The recipe of thesis for resnet20 and densenet22 on a processor, 4 epochs",
        "epochs": 4,
        "image_size": 64,
    }
)

QUICK = THESIS.model_copy(
    update={
        "name": "quick",
        "description": "The recipe of thesis in 1 warm-up and 2 measured epochs, evaluated on 256 images",
        "epochs": 3,
        "image_size": 64,
        "val_limit": 256,
    }
)

PROTOCOLS: dict[str, Protocol] = {each.name: each for each in (HE2016, HUANG2017, QUICK, THESIS, THESIS_CPU)}


OPTIONS: dict[str, dict[str, Any]] = {
    "augmented": {"augmented_load": True},
    "batch256": {"batch_size": 256},
    "batch4096": {"batch_size": 4096},
    "batch512": {"batch_size": 512},
    "bf16": {"precision": "bfloat16"},
    "compile": {"compiled": True},
    "graph": {"graphed": True},
}
"""What may be added to a protocol's name, after a ``+`` each, in alphabetical order: ``thesis+bf16+compile``.

The batch sizes are for ``load``: 256 is what loaders are compared at, and a bus is measured by large batches.
"""


def protocol(name: str) -> Protocol:
    """The protocol called ``name``, with the options that its name ends with.

    Raises:
        UnknownName: there is no such protocol or option; carries the nearest right one.
    """
    base, *options = name.split("+")
    if base not in PROTOCOLS:
        raise UnknownName("protocol", base, PROTOCOLS)
    for option in options:
        if option not in OPTIONS:
            raise UnknownName("protocol option", option, OPTIONS)
    if options != sorted(set(options)):
        raise UnknownName("protocol", name, ["+".join([base, *sorted(set(options))])])
    changed = {key: value for option in options for key, value in OPTIONS[option].items()}
    return PROTOCOLS[base].model_copy(update={**changed, "name": name})
