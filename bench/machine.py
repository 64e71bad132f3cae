"""What machine, and what software, a run was on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from datasets.errors import Unavailable
from loaders import versions

WAIT_POLICY = "OMP_WAIT_POLICY"
NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
LIBRARIES = ("torch", "torchvision", "scipy", "torchmetrics", *versions.STORED)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's name, as Linux gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def filesystem(folder: Path) -> str:
    """The type of the file system that ``folder`` is on."""
    return _mount(folder)[0]


def mount_options(folder: Path) -> str:
    """How it is mounted, but for options that name a folder."""
    return ",".join(option for option in _mount(folder)[1].split(",") if "/" not in option)


def _mount(folder: Path) -> tuple[str, str]:
    """Type and options."""
    folder = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    found = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return (found.fstype, found.opts) if found else ("unknown", "")


def limits(root: Path = Path("/")) -> dict[str, str]:
    """What may make this machine slower, or its figures vary more, than its processor's name says; only what it tells.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    cpu = root / "sys/devices/system/cpu"
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    turbo = {"0": "on", "1": "off"}.get(_text(cpu / "intel_pstate/no_turbo"), "")
    found = {
        "online_processors": _text(cpu / "online"),
        "cgroup_cores": f"{int(quota) / int(period):g}" if quota.isdigit() and period.isdigit() else "",
        "governor": _text(cpu / "cpu0/cpufreq/scaling_governor"),
        "turbo": turbo or {"1": "on", "0": "off"}.get(_text(cpu / "cpufreq/boost"), ""),
        "transparent_huge_pages": _chosen(_text(root / "sys/kernel/mm/transparent_hugepage/enabled")),
    }
    return {name: value for name, value in found.items() if value}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _chosen(words: str) -> str:
    """Of ``always [madvise] never`` the one in brackets."""
    return words.partition("[")[2].partition("]")[0]


def gpu() -> str:
    """The first NVIDIA GPU's name, without touching it; empty where there is none."""
    for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"^Model:\s*(.+)$", card.read_text(encoding="utf-8"), re.MULTILINE)
        return found[1].strip() if found else "NVIDIA GPU"
    # Some sandboxes and WSL2 have no such files, and a card all the same.
    return "NVIDIA GPU" if any(Path(node).exists() for node in NODES) else ""


def driver() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"Module.*?\s(\d+\.[\d.]+)", text)
    return found[1] if found else ""


def device(asked: str | None, say: Callable[[str], object]) -> str:
    """Where models train: as asked for, else ``cuda`` where torch can use a GPU, else ``cpu``.

    Args:
        asked: ``cpu``, ``cuda``, or None.
        say: told of a GPU that is there and can't be used.

    Raises:
        Unavailable: ``cuda`` was asked for and torch can't use one.
    """
    if asked == "cpu" or (asked is None and not gpu()):
        return "cpu"
    from loaders.gpu import availability  # only now: the command line does without torch where there is no GPU

    found = availability()
    if found.ok:
        return "cuda"
    if asked is not None:
        raise Unavailable("cuda", found.reason, "say --device cpu to train on the processor")
    say(f"there is an NVIDIA GPU here that torch can't use: {found.reason}. Models train on the CPU")
    return "cpu"


def wait_policy() -> str:
    """How OpenMP's threads wait for each other in runs: as the user's environment has it, else ``passive``.

    By default they spin, and where anything else takes a core for a moment (a loader's thread, a neighbour) each of a step's
    many barriers lasts until the kernel gives it back: a step then takes several times as long. Passive ones sleep.
    Read when a process loads OpenMP, so it has to stand in the environment that the fork server is started in.
    """
    return os.environ.get(WAIT_POLICY, "passive")


def emulates_bfloat16() -> bool:
    """Whether the GPU computes bfloat16 by way of float32: before compute capability 8.0."""
    import torch

    return not torch.cuda.is_bf16_supported(including_emulation=False)


def _cuda() -> str:
    import torch

    return torch.version.cuda or ""


def environment(stores: Path, *, threads: int, device: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """What stands in ``environment.json``: facts of the machine, no names of people, hosts or folders."""
    gibibytes = round(psutil.virtual_memory().total / 2**30)
    own = versions.installed(LIBRARIES)
    return {
        "machine": ", ".join(filter(None, [processor(), f"{cores()} cores", f"{gibibytes} GiB", gpu()])),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": own.get("torch", "unknown"),
        "loadstone": own.get("loadstone", "unknown"),
        "affinity": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        **limits(),
        "store_filesystem": filesystem(stores),
        "store_mount_options": mount_options(stores),
        "threads": threads,
        "device": device,
        **({"driver": driver(), "cuda": _cuda()} if device == "cuda" else {}),
        "openmp_wait_policy": wait_policy(),
        "versions": own,
        "notes": list(notes),
    }
