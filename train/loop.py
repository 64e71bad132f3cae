"""Training and evaluation: batches in, losses and scores out."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from datasets.errors import RunFailed
from loaders.augment import Augment
from loaders.manifest import Content
from loaders.order import Indices
from train.augment import Normaliser, PadCropFlip, mean_level
from train.clock import Clock, EpochTimes, time_epoch
from train.graph import Graphed
from train.metrics import Scorer, Scores
from train.models import build
from train.protocol import Protocol
from train.transfer import PlacedBatch, Transfer


class Batch(typing.Protocol):
    """What training needs of a batch.

    Attributes:
        images: uint8 (B, C, H, W), channels-last.
        labels: int64 (B,), class indices.
        indices: int64 (B,) on the CPU, the samples' places in their split.
    """

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def indices(self) -> Indices: ...


@dataclass(frozen=True)
class Task:
    """What is learnt, as far as a model sees it.

    Attributes:
        classes: number of them.
        size: (height, width) of the pictures in a batch, in pixels.
        channels: 3 or 1.
        mean, std: of the training pictures per channel, in [0, 1] units.
        cropped: pictures were cropped at random before they formed a batch, and are only mirrored here.
    """

    classes: int
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cropped: bool = False

    @classmethod
    def of(cls, content: Content, protocol: Protocol) -> Task:
        """The task that a store's content sets; pictures of differing sizes come in the protocol's image size."""
        size = content.shape[:2] if content.shape else (protocol.image_size, protocol.image_size)
        return cls(len(content.classes), size, content.channels, content.mean, content.std, cropped=content.shape is None)


def prepare_torch(threads: int, device: torch.device) -> None:
    """Set torch's global state for a run: called once by the run's process, before any work.

    On the CPU, operations are deterministic and use ``threads`` threads: then the same batches give the same losses bit
    for bit. On a GPU deterministic operations would be other, slower ones than users train with; they are left as they are,
    and float32 is float32, not TF32.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    # It would write into every buffer that is about to be filled anyway, in the loaders too.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # As people who care for speed train. The first step of each shape tries cuDNN's algorithms: that epoch is not measured.
    torch.backends.cudnn.benchmark = device.type == "cuda"


def augment(protocol: Protocol, task: Task) -> Augment:
    """What the protocol has done to the pictures of a task."""
    padding = (0, 0) if task.cropped else protocol.padding(task.size)
    return Augment(padding, mean_level(task.mean), protocol.flip)


class Augmentation:
    """Crops, flips and normalises the batches of a task, on the device that they lie on.

    Args:
        seed: of every crop and flip.
        done: whether batches come cropped and flipped, so that they are only normalised.
    """

    def __init__(self, protocol: Protocol, task: Task, seed: int, device: torch.device, *, done: bool = False) -> None:
        self._done = done
        self._crop = PadCropFlip(augment(protocol, task), task.size, seed, device)
        self.normalised = Normaliser(task.mean, task.std, device)
        """Pictures as evaluation sees them: float32 (B, C, H, W), channels-last."""

    def __call__(self, batch: Batch, epoch: int) -> Tensor:
        """The batch as training sees it: float32 (B, C, H, W), channels-last."""
        return self.normalised(self.cropped(batch, epoch))

    def cropped(self, batch: Batch, epoch: int) -> Tensor:
        """Its pictures cropped and mirrored: uint8 (B, C, H, W), channels-last."""
        return batch.images if self._done else self._crop(batch.images, batch.indices, epoch)


class Trainer:
    """A model in training: weights, optimiser, schedule, and the losses so far.

    Args:
        model: a key of ``train.registry.MODELS``.
        protocol: the training recipe.
        task: what is learnt.
        steps_per_epoch: batches of an epoch: the schedule spans ``protocol.epochs`` of them.
        seed: of the first weights and of every crop and flip. Torch's global generator is left as it was.
        device: where the model is.
        augmented: whether batches come cropped and flipped already.

    Raises:
        UnknownName: no model has that name. Unavailable: the protocol wants a CUDA graph, and the device is none of CUDA's.
    """

    def __init__(
        self,
        model: str,
        protocol: Protocol,
        task: Task,
        steps_per_epoch: int,
        seed: int,
        device: torch.device,
        *,
        augmented: bool = False,
    ) -> None:
        self.name, self.protocol, self.task, self.seed, self.device = model, protocol, task, seed, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(model, task.classes, task.size, task.channels)
        self.network = network.to(device)
        self._forward = torch.compile(self.network, dynamic=False) if protocol.compiled else self.network
        self._bfloat16 = protocol.precision == "bfloat16"
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=protocol.learning_rate,
            momentum=protocol.momentum,
            nesterov=protocol.nesterov,
            weight_decay=protocol.weight_decay,
            fused=device.type == "cuda" or None,
        )
        if protocol.graphed:
            for group in self.optimiser.param_groups:
                group["lr"] = torch.tensor(protocol.learning_rate, device=device)  # a captured step reads it there
        self._learn = Graphed(self._learned, device) if protocol.graphed else self._learned
        self._steps = protocol.epochs * steps_per_epoch
        self._augmented = Augmentation(protocol, task, seed, device, done=augmented)
        self.place = Transfer(device)
        """A batch on the device of the run."""
        self._pending: list[Tensor] = []
        self._losses: list[float] = []

    @property
    def losses(self) -> tuple[float, ...]:
        """The training loss of every step so far; reading it waits for the device."""
        if self._pending:
            self._losses += torch.stack(self._pending).tolist()
            self._pending = []
        return tuple(self._losses)

    def train_epoch(self, batches: Iterable[Batch], epoch: int, clock: Clock) -> EpochTimes:
        """Train on every batch, the last and smaller one too, and say where the time went.

        Raises:
            RunFailed: no batch came, or a loss is not finite; names the step.
        """
        times = time_epoch(batches, self.place, lambda batch: self.step(batch, epoch), clock)
        self.check_losses()
        return times

    def rehearse(self, batches: Iterable[Batch], epoch: int, clock: Clock) -> EpochTimes:
        """Train on every batch as ``train_epoch`` does, then forget it: weights, optimiser and losses are as before.

        Only after a step: the optimiser has no state to go back to before its first one.
        """
        tensors = [*self.network.parameters(), *self.network.buffers()]
        tensors += [value for state in self.optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
        kept, losses = [each.detach().clone() for each in tensors], self.losses
        try:
            return time_epoch(batches, self.place, lambda batch: self.step(batch, epoch), clock)
        finally:
            # In place: a captured graph holds their addresses.
            with torch.no_grad():
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.copy_(value)
            self._pending, self._losses = [], list(losses)

    def step(self, batch: PlacedBatch, epoch: int) -> int:
        """Learn from one batch, without waiting for the device; returns the number of its images."""
        rate = self.protocol.rate(len(self._losses) + len(self._pending), self._steps)
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._pending.append(self._learn(self._augmented.cropped(batch, epoch), batch.labels))
        return len(batch.images)

    def _learned(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch that is cropped and mirrored, after one step of the optimiser."""
        loss = F.cross_entropy(self._logits(self._augmented.normalised(images)), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()

    def _logits(self, images: Tensor) -> Tensor:
        """float32 (B, classes); in bfloat16 up to here, where the protocol says so."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits: Tensor = self._forward(images)
        return logits.float()

    def check_losses(self) -> None:
        """Raise if training has broken down.

        Raises:
            RunFailed: a loss is not finite; names the first such step.
        """
        for step, loss in enumerate(self.losses):
            if not math.isfinite(loss):
                raise RunFailed(
                    f"{self.name} under {self.protocol.name}: the loss of step {step} is {loss}; "
                    "check the pictures with `loadstone verify`, or train with a lower learning rate"
                )

    def evaluate(self, batches: Iterable[Batch]) -> Scores:
        """Accuracy and macro-F1 on every picture of ``batches``, none of them augmented; weights stay as they are."""
        scorer = Scorer(self.task.classes, self.device)
        self.network.eval()
        try:
            with torch.inference_mode():
                for batch in map(self.place, batches):
                    scorer.add(self._logits(self._augmented.normalised(batch.images)), batch.labels)
        finally:
            self.network.train()
        return scorer.scores()
