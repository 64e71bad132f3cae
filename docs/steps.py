"""How long a training step takes on a GPU, with and without a graph: batches in place, no loader. Run it from the root."""

from __future__ import annotations

import time

import numpy as np
import torch

from train.clock import Clock
from train.loop import Task, Trainer, prepare_torch
from train.protocol import protocol
from train.transfer import PlacedBatch

TASK = Task(10, (32, 32), 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
STEPS = [
    ("resnet20", "he2016"),
    ("resnet20", "he2016+graph"),
    ("resnet20", "he2016+bf16+graph"),
    ("resnet18", "quick+batch512+bf16"),
    ("resnet18", "quick+batch512+bf16+graph"),
    ("resnet20", "quick+batch512+bf16+graph"),
]
WARM_UP, TIMED = 15, 60


def seconds(model: str, name: str, device: torch.device) -> float:
    """Seconds a step, augmentation included, mean of ``TIMED``."""
    count = protocol(name).batch_size
    trainer = Trainer(model, protocol(name), TASK, 1000, 1, device)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    batch = PlacedBatch(pixels, torch.randint(0, 10, (count,), device=device), np.arange(count))
    for _ in range(WARM_UP):
        trainer.step(batch, 0)
    sync = Clock.of(device).sync
    sync()
    began = time.perf_counter()
    for _ in range(TIMED):
        trainer.step(batch, 0)
    sync()
    return (time.perf_counter() - began) / TIMED


if __name__ == "__main__":
    gpu = torch.device("cuda")
    prepare_torch(8, gpu)
    for model, name in STEPS:
        took = seconds(model, name, gpu)
        print(f"| `{model}` | `{name}` | {took * 1e3:.2f} | {protocol(name).batch_size / took:,.0f} |")  # noqa: T201
