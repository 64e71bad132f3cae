"""How busy an NVIDIA GPU is, and how much of its memory is taken, through NVML (``nvidia-ml-py``, an extra)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any


def watch(device: str, environment: Mapping[str, str] = os.environ) -> Callable[[], tuple[float, int] | None]:
    """What tells, each time it is called, the first visible GPU's utilisation in [0, 1] and its memory taken in bytes.

    Both are of the whole device: of this run alone only where nothing else uses it. It tells None for a run on the CPU, and
    where NVML is not there: the record then has no such fields.
    """
    if not device.startswith("cuda"):
        return _nothing
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return _nothing
    try:
        nvml.nvmlInit()
        handle = _handle(nvml, environment.get("CUDA_VISIBLE_DEVICES", ""))
    except nvml.NVMLError:
        return _nothing

    def look() -> tuple[float, int] | None:
        try:
            busy, memory = nvml.nvmlDeviceGetUtilizationRates(handle).gpu, nvml.nvmlDeviceGetMemoryInfo(handle).used
        except nvml.NVMLError:
            return None
        return busy / 100, int(memory)

    return look


def _handle(nvml: Any, visible: str) -> Any:
    """NVML counts all GPUs of the machine, CUDA only those that the environment names."""
    first = visible.split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


def _nothing() -> None:
    return None
