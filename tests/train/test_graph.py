"""A captured training step trains as the same steps taken one by one; needs a GPU, and says so where there is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from datasets.errors import Unavailable
from train.clock import Clock
from train.loop import Batch, Task, Trainer
from train.protocol import protocol

Batches = Callable[[int], list[Batch]]


def test_a_graph_needs_a_gpu(task: Task) -> None:
    """On a CPU there are no launches to save: the option is refused rather than ignored."""
    with pytest.raises(Unavailable, match="only a CUDA device"):
        Trainer("resnet8", protocol("thesis+graph"), task, steps_per_epoch=3, seed=1, device=torch.device("cpu"))


def test_the_option_names_itself() -> None:
    """A recipe with a graph is another one than without, and one without is what it was before there were graphs."""
    assert protocol("he2016+graph").digest != protocol("he2016").digest
    assert protocol("he2016+graph").graphed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_trains_alike(task: Task, batches: Batches) -> None:
    """Losses of some epochs, learning rates and a smaller last batch included, follow those of steps taken one by one."""
    device, losses = torch.device("cuda"), []
    for name in ("thesis", "thesis+graph"):
        recipe = protocol(name).model_copy(update={"epochs": 4, "batch_size": 32})
        trainer = Trainer("resnet8", recipe, task, steps_per_epoch=len(batches(32)), seed=1, device=device)
        for epoch in range(4):
            trainer.train_epoch(batches(32), epoch, Clock.of(device))
        losses.append(trainer.losses)
    eager, graphed = losses
    assert len(eager) == len(graphed)
    np.testing.assert_allclose(graphed[:6], eager[:6], rtol=0.02)
    assert np.mean(graphed[-3:]) < 0.8 * np.mean(graphed[:3])
