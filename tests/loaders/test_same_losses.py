"""The loss curve is the same bit for bit, whatever the pictures are stored in and however they are read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch

from loaders import loader, order
from loaders.manifest import Content
from loaders.order import Draws, Indices
from tests.loaders.conftest import Packed
from tests.loaders.sources import SIDE, Expected, expected
from tests.loaders.test_contract import PAIRS
from train.clock import Clock
from train.loop import Batch, Task, Trainer
from train.protocol import protocol

pytestmark = pytest.mark.usefixtures("_torch_as_in_a_run")

CPU = torch.device("cpu")
SEED, BATCH, EPOCHS = 3, 16, 2
QUICK = protocol("quick").model_copy(update={"batch_size": BATCH, "epochs": EPOCHS, "image_size": SIDE})
COUNTS = {"train": 40, "val": 4}
WAYS: tuple[tuple[Literal["torch", "threads"], int], ...] = (("torch", 0), ("torch", 2), ("threads", 2))
SETS: dict[str, Expected] = {
    "raw": expected("raw", name="cifar", size=(32, 32), counts=COUNTS),
    "jpeg-differing": expected("jpeg", name="photos", differing=True, size=(24, 21), counts=COUNTS),
}


class HandMade(NamedTuple):
    """A batch that no loader made."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: Indices


def hand_made(wanted: Expected, epoch: int) -> list[HandMade]:
    """An epoch's batches, straight from the source's examples."""
    places = order.order(COUNTS["train"], SEED, epoch)
    made = []
    for start in range(0, len(places), BATCH):
        at = places[start : start + BATCH]
        images = torch.from_numpy(wanted.batch("train", list(at), Draws(SEED, epoch, training=True)))
        labels = torch.from_numpy(np.array(wanted.labels["train"], dtype=np.int64)[at])
        made.append(HandMade(images.permute(0, 3, 1, 2), labels, at))
    return made


def trained(content: Content, epochs: Iterable[Iterable[Batch]]) -> tuple[float, ...]:
    """The loss of every step."""
    steps = -(-COUNTS["train"] // BATCH)
    trainer = Trainer("resnet8", QUICK, Task.of(content, QUICK), steps_per_epoch=steps, seed=SEED, device=CPU)
    for epoch, batches in enumerate(epochs):
        trainer.train_epoch(batches, epoch, Clock.of(CPU))
    return trainer.losses


@cache
def wanted_losses(kind: str) -> tuple[float, ...]:
    """The losses without any store."""
    wanted = SETS[kind]
    content = Content.of(wanted.source.info, wanted.codec)
    return trained(content, (hand_made(wanted, epoch) for epoch in range(EPOCHS)))


@pytest.mark.parametrize(("way", "kind"), [pair for pair in PAIRS if pair[1] in SETS], ids=lambda part: part)
def test_losses_are_the_same_bit_for_bit(way: str, kind: str, packed: Packed) -> None:
    """Every backend, by item and by batch, by 0 and 2 workers or 2 threads, gives the losses of batches made by hand."""
    store = packed(way, f"losses-{kind}", SETS[kind])
    fetches: tuple[Literal["item", "batch"], ...] = ("item", "batch")
    for fetch in fetches:
        for engine, workers in WAYS:
            if engine not in store.engines:
                continue
            with loader(
                store,
                batch_size=BATCH,
                seed=SEED,
                image_size=SIDE,
                engine=engine,
                fetch=fetch,
                workers=workers,
            ) as batches:
                losses = trained(store.content, (batches for _ in range(EPOCHS)))
            assert losses == wanted_losses(kind), (fetch, engine, workers)


@pytest.mark.parametrize("kind", SETS)
def test_losses_depend_on_what_is_delivered(kind: str) -> None:
    """One level of one channel of one picture changes the losses: equal losses are no accident of coarse numbers."""
    wanted = SETS[kind]
    content = Content.of(wanted.source.info, wanted.codec)
    epochs = [hand_made(wanted, epoch) for epoch in range(EPOCHS)]
    epochs[0][1].images[5, 2, 9, 9] ^= 1
    losses = trained(content, epochs)
    assert losses != wanted_losses(kind)
    assert len(losses) == len(wanted_losses(kind)) == 6
