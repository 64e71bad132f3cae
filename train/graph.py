"""A training step as one CUDA graph: its kernels are launched at once rather than one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from datasets.errors import Unavailable

# Steps that run as they are before the step is captured: the optimiser makes its state, and libraries choose their kernels.
EAGER_STEPS = 3


class Graphed:
    """A step of whole batches, captured once and then replayed; a smaller batch, the last of an epoch, runs as it is.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html, section CUDA Graphs.

    Args:
        step: of images, uint8 (B, C, H, W), and labels, int64 (B,), on the device; returns a loss. Reads nothing else that
            changes from step to step, but in tensors that stay where they are.
        device: of CUDA.

    Raises:
        Unavailable: the device is not one of CUDA's.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> None:
        if device.type != "cuda":
            raise Unavailable("+graph", "only a CUDA device captures graphs", "leave the option out, or train on a GPU")
        self._step, self._done = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images, self._labels, self._loss = (torch.empty(0, device=device) for _ in range(3))

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a step, in memory of its own."""
        if self._graph is not None and images.shape == self._images.shape:
            self._images.copy_(images)
            self._labels.copy_(labels)
            self._graph.replay()
            return self._loss.clone()
        if self._graph is None and self._done == EAGER_STEPS:
            self._capture(images, labels)
            return self(images, labels)
        self._done += 1
        return self._step(images, labels)

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Record a step without taking it."""
        self._images, self._labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        # Threads that load may use the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._loss = self._step(self._images, self._labels)
        self._graph = graph
