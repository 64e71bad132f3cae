"""Batches held in place: what the model alone is timed on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they import torch, and the command line imports this module for an estimate
    from loaders.engine import Batch
    from train.transfer import PlacedBatch

# Enough that weights, not one batch, are what caches hold; and not much of a machine's memory.
BATCHES, BYTES = 16, 64 * 2**20
# A long epoch is compared with no more steps of the model alone than this.
ALONE_STEPS = 64


class Held:
    """The first batches of an epoch and its last, which may be smaller, on the device of the run.

    Args:
        place: brings a batch there.
        steps: batches of an epoch.
    """

    def __init__(self, place: Callable[[Batch], PlacedBatch], steps: int) -> None:
        self._place, self._steps = place, steps
        self._batches: list[PlacedBatch] = []

    def keeping(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of one epoch as they come, some of them kept: copies, since an engine may fill a batch again."""
        left = BYTES
        for number, batch in enumerate(batches):
            last = number == self._steps - 1
            if last or (number < BATCHES - 1 and left > 0):
                left -= batch.images.nbytes
                images, labels, indices = batch.images.clone(), batch.labels.clone(), batch.indices.copy()
                self._batches.append(self._place(batch._replace(images=images, labels=labels, indices=indices)))
            yield batch

    def repeated(self, most: int | None = None) -> Iterator[PlacedBatch]:
        """As many batches as an epoch has, its last one last; where ``most`` are fewer, so many of the others."""
        *others, last = self._batches
        if most is not None and most < self._steps:
            return itertools.islice(itertools.cycle(others or [last]), most)
        return itertools.chain(itertools.islice(itertools.cycle(others or [last]), self._steps - 1), [last])
