"""Training learns, says what it did, and does the same again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from datasets.errors import RunFailed, UnknownName
from loaders.manifest import Content
from train.clock import Clock, EpochTimes
from train.loop import Batch, Task, Trainer
from train.protocol import Protocol, protocol

CPU = torch.device("cpu")
CLOCK = Clock.of(CPU)

pytestmark = pytest.mark.usefixtures("_torch_as_in_a_run")

Batches = Callable[[int], list[Batch]]


@pytest.fixture
def short() -> Protocol:
    """The recipe of ``thesis`` in four epochs of small batches."""
    return protocol("thesis").model_copy(update={"epochs": 4, "batch_size": 32})


def trainer(short: Protocol, task: Task, seed: int = 1, model: str = "resnet8") -> Trainer:
    return Trainer(model, short, task, steps_per_epoch=3, seed=seed, device=CPU)


def train(new: Trainer, batches: list[Batch]) -> list[EpochTimes]:
    return [new.train_epoch(batches, epoch, CLOCK) for epoch in range(new.protocol.epochs)]


def test_training_learns(short: Protocol, task: Task, batches: Batches) -> None:
    """On classes told apart by their colour the loss falls, and most pictures are then put right."""
    new = trainer(short, task)
    train(new, batches(32))
    assert np.mean(new.losses[-3:]) < 0.7 * np.mean(new.losses[:3])
    scores = new.evaluate(batches(32))
    assert scores.accuracy > 0.7
    assert scores.macro_f1 > 0.6


@pytest.mark.parametrize("model", ["resnet8", "densenet22"])
def test_the_same_seed_gives_the_same_losses_bit_for_bit(model: str, short: Protocol, task: Task, batches: Batches) -> None:
    """Two runs of the same batches differ in nothing, whatever was drawn from torch's generator in between."""
    first = trainer(short, task, model=model)
    first.train_epoch(batches(32), 0, CLOCK)
    torch.rand(3)
    second = trainer(short, task, model=model)
    second.train_epoch(batches(32), 0, CLOCK)
    assert first.losses == second.losses
    assert first.evaluate(batches(32)) == second.evaluate(batches(32))


def test_losses_do_not_depend_on_what_delivers_the_batches(short: Protocol, task: Task, batches: Batches) -> None:
    """A generator of another type, whose memory is laid out anew, trains to the same bits as a list."""

    class Other(NamedTuple):
        indices: npt.NDArray[np.int64]
        labels: torch.Tensor
        images: torch.Tensor

    def generator() -> Iterator[Batch]:
        for batch in batches(32):
            pixels = batch.images.permute(0, 2, 3, 1).numpy().copy()
            yield Other(batch.indices.copy(), batch.labels.clone(), torch.from_numpy(pixels).permute(0, 3, 1, 2))

    one, other = trainer(short, task), trainer(short, task)
    one.train_epoch(batches(32), 0, CLOCK)
    other.train_epoch(generator(), 0, CLOCK)
    assert one.losses == other.losses


def test_another_seed_gives_other_losses(short: Protocol, task: Task, batches: Batches) -> None:
    """The seed is of the weights and the draws."""
    one, other = trainer(short, task, seed=1), trainer(short, task, seed=2)
    for each in (one, other):
        each.train_epoch(batches(32), 0, CLOCK)
    assert one.losses != other.losses


def test_a_trainer_leaves_torchs_generator_alone(short: Protocol, task: Task) -> None:
    """Making a model draws from a generator of its own."""
    before = torch.get_rng_state()
    trainer(short, task)
    assert torch.equal(before, torch.get_rng_state())


def test_the_last_batch_is_kept(short: Protocol, task: Task, batches: Batches) -> None:
    """Of 80 pictures in batches of 32 the last 16 are learnt from, and evaluated."""
    new = trainer(short, task)
    times = new.train_epoch(batches(32), 0, CLOCK)
    assert len(new.losses) == 3
    assert times.images == 80
    assert new.evaluate(batches(32)).images == 80


def test_evaluation_changes_nothing(short: Protocol, task: Task, batches: Batches) -> None:
    """Training goes on after an evaluation as it would have without it."""
    plain, watched = trainer(short, task), trainer(short, task)
    for epoch in range(2):
        plain.train_epoch(batches(32), epoch, CLOCK)
        watched.train_epoch(batches(32), epoch, CLOCK)
        watched.evaluate(batches(32))
    assert plain.losses == watched.losses


def test_a_rehearsal_is_forgotten(short: Protocol, task: Task, batches: Batches) -> None:
    """Weights, statistics, momentum, rate and losses go on as if it had not been; it takes the steps that it is given."""
    plain, rehearsed = trainer(short, task), trainer(short, task)
    for epoch in range(2):
        plain.train_epoch(batches(32), epoch, CLOCK)
        rehearsed.train_epoch(batches(32), epoch, CLOCK)
        assert rehearsed.rehearse(batches(16), epoch, CLOCK).images == 80
    assert plain.losses == rehearsed.losses
    assert plain.evaluate(batches(32)) == rehearsed.evaluate(batches(32))


def test_evaluation_does_not_depend_on_batches(short: Protocol, task: Task, batches: Batches) -> None:
    """Pictures are judged alone, not augmented, and with the statistics that training left."""
    new = trainer(short, task)
    new.train_epoch(batches(32), 0, CLOCK)
    assert new.evaluate(batches(32)) == new.evaluate(batches(7))


def test_evaluation_is_outside_the_span(short: Protocol, task: Task, batches: Batches) -> None:
    """An epoch's clock is read for its training alone."""
    readings: list[float] = []

    def now() -> float:
        readings.append(float(len(readings)))
        return readings[-1]

    new = trainer(short, task)
    new.train_epoch(batches(32), 0, Clock(now=now, sync=lambda: None))
    count = len(readings)
    new.evaluate(batches(32))
    assert len(readings) == count


def test_the_schedule_sets_the_rate_of_every_step(short: Protocol, task: Task, batches: Batches) -> None:
    """Over all epochs the optimiser sees the protocol's rates, step by step, and stays at the last one after its end."""
    new = trainer(short, task)
    seen: list[float] = []
    new.optimiser.register_step_post_hook(lambda *_: seen.append(new.optimiser.param_groups[0]["lr"]))
    train(new, batches(32))
    new.train_epoch(batches(32)[:1], 4, CLOCK)
    assert seen == [short.rate(number, 12) for number in range(13)]
    assert seen[12] == seen[11]


def test_optimiser_is_the_protocols(task: Task) -> None:
    """Momentum, Nesterov and weight decay are the recipe's, for every parameter."""
    new = Trainer("resnet8", protocol("huang2017"), task, 1, 0, CPU)
    (group,) = new.optimiser.param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"], group["dampening"]) == (0.9, True, 1e-4, 0)
    assert len(group["params"]) == len(list(new.network.parameters()))


def test_a_loss_that_is_not_finite_is_an_error(short: Protocol, task: Task, batches: Batches) -> None:
    """Training that has broken down stops at the end of its epoch and names the first such step."""
    new = trainer(short.model_copy(update={"learning_rate": 1e30}), task)
    with pytest.raises(RunFailed, match=r"resnet8 under thesis: the loss of step \d is (nan|inf)"):
        new.train_epoch(batches(32), 0, CLOCK)


def test_cropped_pictures_are_mirrored_only(short: Protocol, task: Task, batches: Batches) -> None:
    """Pictures of differing sizes were cropped when they were read; each reaches the model whole, or mirrored."""
    new = trainer(short, dataclasses.replace(task, cropped=True))
    batch = new.place(batches(32)[0])
    shown = new._augmented(batch, 0)
    plain = (batch.images / 255 - 0.5) / 0.25
    for one, other in zip(shown, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-6) or torch.allclose(one, other.flip(2), atol=1e-6)


@pytest.mark.parametrize(("shape", "size", "cropped"), [((32, 40, 1), (32, 40), False), (None, (224, 224), True)])
def test_a_task_is_read_off_a_stores_content(shape: tuple[int, int, int] | None, size: tuple[int, int], cropped: bool) -> None:
    """Pictures of one size keep it; those of differing sizes come in the protocol's."""
    content = Content(
        dataset="shapes",
        fingerprint="0",
        verification="own",
        codec="raw",
        shape=shape,
        channels=1,
        classes=("a", "b"),
        counts={"train": 1},
        mean=(0.5,),
        std=(0.2,),
    )
    assert Task.of(content, protocol("thesis")) == Task(2, size, 1, (0.5,), (0.2,), cropped)


def test_grey_pictures_that_are_not_square_train(short: Protocol) -> None:
    """One channel and two different sides are as good as three and one."""
    task = Task(classes=2, size=(12, 20), channels=1, mean=(0.5,), std=(0.25,))
    pixels = torch.zeros(4, 12, 20, 1, dtype=torch.uint8)

    class Grey(NamedTuple):
        images: torch.Tensor
        labels: torch.Tensor
        indices: npt.NDArray[np.int64]

    new = trainer(short, task)
    new.train_epoch([Grey(pixels.permute(0, 3, 1, 2), torch.tensor([0, 1, 0, 1]), np.arange(4))], 0, CLOCK)
    assert len(new.losses) == 1


def test_unknown_model_is_refused(short: Protocol, task: Task) -> None:
    """The name is looked up before anything is built."""
    with pytest.raises(UnknownName):
        trainer(short, task, model="vgg")
