"""Batches made by hand: what training is tested on, without a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from train.loop import Task, prepare_torch

CPU = torch.device("cpu")


class HandMade(NamedTuple):
    """What a loader's batch is to training."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: npt.NDArray[np.int64]


Batches = Callable[[int], list[HandMade]]


@pytest.fixture
def task() -> Task:
    """Four classes of 16 x 16 colour pictures."""
    return Task(classes=4, size=(16, 16), channels=3, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture
def batches() -> Batches:
    """``batches(size)``: the same 80 pictures in batches of ``size``, each class bright in a channel (or in none)."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 4, 80)
    pictures = generator.integers(0, 120, (80, 16, 16, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, :, :] += np.array([100 * (label == channel) for channel in range(3)], dtype=np.uint8)

    def cut(size: int) -> list[HandMade]:
        places = [np.arange(start, min(start + size, 80)) for start in range(0, 80, size)]
        return [HandMade(torch.from_numpy(pictures[at]).permute(0, 3, 1, 2), torch.from_numpy(labels[at]), at) for at in places]

    return cut


@pytest.fixture
def _torch_as_in_a_run() -> Iterator[None]:
    """One thread and deterministic operations, and everything as it was afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    prepare_torch(1, CPU)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
