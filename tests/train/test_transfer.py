"""Copies run beside the step before, and memory stays as it is until they are done."""

from __future__ import annotations

import weakref

import pytest
import torch

from tests.loaders.fake_gpu import ProcessGpu
from tests.train.conftest import CPU, Batches, HandMade
from train.loop import Task, Trainer
from train.protocol import protocol
from train.transfer import HELD, Transfer


def test_a_copy_is_made_beside_and_waited_for(batches: Batches) -> None:
    """Each copy is marked on the side stream, and the training stream waits for that mark before it has the batch."""
    gpu = ProcessGpu()
    place = Transfer(CPU, gpu)
    for batch in batches(32):
        placed = place(batch)
        assert torch.equal(placed.images, batch.images)
        assert torch.equal(placed.labels, batch.labels)
    assert gpu.log[:4] == [("mark", 1, "side"), ("join", 1, 2), ("mark", 2, "side"), ("join", 2, 2)]


def test_memory_is_held_until_its_copy_is_done(batches: Batches) -> None:
    """An engine may fill a batch's memory again once nobody holds it; the copy is waited for before it is let go."""
    gpu = ProcessGpu()
    place = Transfer(CPU, gpu)
    made = [HandMade(batch.images.clone(), batch.labels.clone(), batch.indices) for batch in (*batches(40), *batches(40))]
    watched = [weakref.ref(batch.images) for batch in made]
    while made:
        place(made.pop(0))
    assert [what for what in gpu.log if what[0] == "settle"] == [("settle", 1), ("settle", 2)]
    assert [ref() is None for ref in watched] == [True, True, False, False]
    assert HELD == 2


def test_on_a_cpu_nothing_moves(batches: Batches) -> None:
    """A batch is where it is wanted already."""
    batch = batches(80)[0]
    assert Transfer(CPU)(batch).images.data_ptr() == batch.images.data_ptr()


def trained(task: Task, name: str, batches: list[HandMade]) -> Trainer:
    """resnet8 after one pass over ``batches``."""
    trainer = Trainer("resnet8", protocol(name), task, len(batches), seed=1, device=CPU)
    for batch in batches:
        trainer.step(trainer.place(batch), 0)
    return trainer


def test_bfloat16_computes_in_it_and_keeps_float32_weights(task: Task, batches: Batches) -> None:
    """``+bf16`` gives nearly the losses of float32, not the same; weights and logits stay float32."""
    full, half = (trained(task, name, batches(20)) for name in ("quick", "quick+bf16"))
    assert half.losses != full.losses
    assert half.losses == pytest.approx(full.losses, rel=0.1)
    assert {weight.dtype for weight in half.network.parameters()} == {torch.float32}
    assert half.evaluate(batches(20)).accuracy == pytest.approx(full.evaluate(batches(20)).accuracy, abs=0.2)


def test_the_compiled_network_is_the_one_that_trains(task: Task, batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    """``+compile`` trains and evaluates through torch.compile; without it nothing is compiled."""
    calls: list[int] = []

    def compiled(network: torch.nn.Module, *, dynamic: bool) -> object:
        assert not dynamic
        return lambda images: calls.append(len(images)) or network(images)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    trained(task, "quick", batches(40))
    assert calls == []
    trained(task, "quick+compile", batches(40)).evaluate(batches(80))
    assert calls == [40, 40, 80]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_what_was_copied(batches: Batches) -> None:
    """From pinned memory, the strides and the numbers arrive."""
    place = Transfer(torch.device("cuda"))
    for batch in batches(16):
        images = batch.images.permute(0, 2, 3, 1).contiguous().pin_memory().permute(0, 3, 1, 2)
        placed = place(HandMade(images, batch.labels.pin_memory(), batch.indices))
        assert placed.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(placed.images.cpu(), batch.images)
