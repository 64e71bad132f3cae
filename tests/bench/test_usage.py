"""What a run costs is counted over all its processes."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.running import gpu_usage, noise, pinning, usage
from bench.running.usage import Meter, Sampler, Used


@pytest.fixture
def child() -> Iterator[int]:
    """A child that holds 64 MiB, has worked for a moment, and waits."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        held = np.ones(64 << 20, np.uint8)
        end = time.process_time() + 0.1
        while time.process_time() < end:
            held[:1000].sum()
        os.write(writes, b"x")
        signal.pause()
    os.read(reads, 1)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reads)
    os.close(writes)


def test_children_that_live_count(child: int) -> None:
    """A worker that is still there has worked, and holds memory, as one that has ended."""
    assert usage.tree(os.getpid()).count(child) == 1
    assert usage.used([child]).cpu_seconds >= 0.1
    assert usage.pss_bytes(child) >= 64 << 20
    assert usage.pss_bytes(os.getpid()) >= usage.pss_bytes(child)


def test_a_process_that_is_gone_counts_nothing() -> None:
    """It may end between two looks."""
    gone = 2**22 + 1
    assert usage.used([gone]) == Used()
    assert usage.pss_bytes(gone) == 0


def test_a_meter_goes_on_over_a_server_s_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the old server used stays counted, what the new one used before it served does not count."""
    counts = {1: 100, 7: 50, 8: 1000}
    monkeypatch.setattr(usage, "used", lambda roots: Used(0.0, sum(counts[root] for root in roots)))
    meter = Meter(1, 7)
    counts[7] += 5
    meter.pause()
    counts[1] += 2
    meter.replace(8)
    counts[8] += 30
    assert meter.read().bytes_read == 35


def test_the_most_that_was_seen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of looks taken while it ran, and the run's own at its end; GPU figures only where there are any."""
    sizes = iter([3, 9, 4])
    monkeypatch.setattr(usage, "pss_bytes", lambda _: next(sizes))
    busy = iter([(0.5, 10), None, (1.0, 30)])
    sampler = Sampler(1, lambda: next(busy))
    assert sampler.fields(0) == {"peak_pss_bytes": None}
    for _ in range(3):
        sampler.look()
    assert sampler.fields(5) == {"peak_pss_bytes": 9, "gpu_utilisation": 0.75, "gpu_bytes": 30}
    assert sampler.fields(12)["peak_pss_bytes"] == 12


class NVMLError(Exception):
    """As NVML raises it."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module like ``pynvml`` with two GPUs; a handle is what it was asked for by."""
    module: Any = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetHandleByUUID = lambda name: name
    module.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu={0: 25, 1: 75, "GPU-b": 75}[handle])
    module.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=2**30)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


@pytest.mark.parametrize(("visible", "busy"), [("", 0.25), ("1,0", 0.75), ("GPU-b", 0.75)])
def test_the_gpu_that_cuda_sees_is_watched(nvml: Any, visible: str, busy: float) -> None:
    """NVML counts all GPUs, CUDA those that the environment names."""
    assert gpu_usage.watch("cuda", {"CUDA_VISIBLE_DEVICES": visible})() == (busy, 2**30)


def test_without_nvml_nothing_is_told(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the CPU, no package, no driver, and a driver that fails: the record has no such fields."""

    def fail(*_: object) -> None:
        raise NVMLError

    assert gpu_usage.watch("cpu")() is None
    look = gpu_usage.watch("cuda", {})
    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", fail)
    assert look() is None
    monkeypatch.setattr(nvml, "nvmlInit", fail)
    assert gpu_usage.watch("cuda", {})() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_usage.watch("cuda", {})() is None


@pytest.mark.parametrize(
    ("seconds", "seen", "disturbed"),
    [
        (9.0, [], False),
        (1.5, [1.0] * 4, False),
        (1.6, [1.0] * 4, True),
        (1.6, [1.0, 1.0, 9.0, 9.0, 9.0], True),
        (2.0, [1.9, 2.0], False),
    ],
)
def test_calm_is_what_the_quicker_quarter_was(seconds: float, seen: list[float], disturbed: bool) -> None:
    """A machine that is busy most of the time does not make that its calm."""
    assert noise.is_disturbed(seconds, seen) is disturbed


def test_the_reference_does_fixed_work() -> None:
    """It says how long it took, whatever that is."""
    assert noise.Reference()() > 0


def test_every_pool_has_the_threads_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's, OpenMP's, the BLAS's and OpenCV's, where it is imported; and children are told."""
    import torch

    before = torch.get_num_threads()
    opencv: Any = types.ModuleType("cv2")
    kept: list[int] = []
    opencv.setNumThreads, opencv.getNumThreads = kept.append, lambda: kept[-1]
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        monkeypatch.setenv(name, "9")
    try:
        found = pinning.pin(1)
        assert {"torch", "opencv"} <= set(found)
        assert set(found.values()) == {1}
        assert os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        pinning.pin(before)
