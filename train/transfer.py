"""Batches to the device of the run: on a stream of its own, so that copies run beside the step before."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loaders.gpu import CudaGpu, Gpu
from loaders.order import Indices

# Batches whose memory must stay as it is, since their copies may not be done.
HELD = 2


class PlacedBatch(NamedTuple):
    """A batch whose images and labels are on the device of the run; see ``train.loop.Batch``."""

    images: Tensor
    labels: Tensor
    indices: Indices


class Transfer:
    """Brings batches to a device; returns before a copy from pinned memory is done, and lets the device wait for it.

    Copies are asked for on a side stream, and the stream that trains waits for each before its step. So of a copy only
    what the step before does not cover shows on the training stream, as ``copy``.

    Args:
        device: of the run.
        gpu: what copies are asked of; None where ``device`` is the CPU, and for CUDA the device itself.
    """

    def __init__(self, device: torch.device, gpu: Gpu | None = None) -> None:
        self._device = device
        self._gpu: Gpu | None = CudaGpu() if gpu is None and device.type == "cuda" else gpu
        self._held: deque[tuple[Any, Any]] = deque()

    def __call__(self, batch: Any) -> PlacedBatch:
        """The batch on the device, in the strides that it had; one that is there already is itself."""
        gpu = self._gpu
        if batch.images.device.type == self._device.type != "cpu":
            return batch  # type: ignore[no-any-return]
        if gpu is None:
            return PlacedBatch(batch.images.to(self._device), batch.labels.to(self._device), batch.indices)
        with gpu.beside():
            images = batch.images.to(self._device, non_blocking=True)
            labels = batch.labels.to(self._device, non_blocking=True)
            mark = gpu.mark()
        gpu.join(mark, images, labels)
        # An engine may fill the memory of a batch again once nobody holds it.
        self._held.append((mark, batch))
        if len(self._held) > HELD:
            gpu.settle(self._held.popleft()[0])
        return PlacedBatch(images, labels, batch.indices)
