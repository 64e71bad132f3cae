"""What a run costs the machine: processor time, bytes read from the disk, memory; of a process and all below it."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# How often memory is looked at, at most; and the most of one core that looking may take: a look at much memory takes long,
# since the kernel goes through all of it, so it is then taken less often (docs/method.md has figures).
SAMPLE_SECONDS = 0.5
SAMPLE_SHARE = 0.005

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Used:
    """Processor seconds, and bytes read from the disk; since the processes began."""

    cpu_seconds: float = 0.0
    bytes_read: int = 0

    def __sub__(self, other: Used) -> Used:
        return Used(self.cpu_seconds - other.cpu_seconds, self.bytes_read - other.bytes_read)

    def __add__(self, other: Used) -> Used:
        return Used(self.cpu_seconds + other.cpu_seconds, self.bytes_read + other.bytes_read)


def tree(root: int) -> list[int]:
    """A process and all below it that are there, as the kernel lists them: no look at every process of the machine."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            for thread in (_PROC / str(pid) / "task").iterdir():
                with contextlib.suppress(OSError):
                    found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def used(roots: Iterable[int]) -> Used:
    """By these processes and all below them, those that have ended and were waited for included."""
    total = Used()
    for root in roots:
        for pid in tree(root):
            total = total + Used(_cpu_seconds(pid), _bytes_read(pid))
    return total


def _cpu_seconds(pid: int) -> float:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    # proc(5): after the name, which may hold anything, utime to cstime are fields 14 to 17 of the whole line.
    return sum(map(int, text.rpartition(")")[2].split()[11:15])) / _TICKS


def _bytes_read(pid: int) -> int:
    """The kernel adds a child's count to its parent's when that waits for it, so ended children are in it."""
    try:
        found = re.search(r"^read_bytes: (\d+)", (_PROC / str(pid) / "io").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def pss_bytes(root: int) -> int:
    """Memory of a process and all below it, shared pages divided among their users."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
            total += sum(1024 * int(size) for size in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))
    return total


class Meter:
    """Counts what processes use between two looks; a server may end and another take its place."""

    def __init__(self, root: int, server: int | None) -> None:
        self._root, self._server = root, server
        self._begin, self._before = self._now(), Used()

    def _now(self) -> Used:
        return used([self._root] if self._server is None else [self._root, self._server])

    def replace(self, server: int | None) -> None:
        """The server was stopped, and this one serves from now on; what the old one did while it stopped is lost."""
        self._server = server
        self._begin = self._now()

    def pause(self) -> None:
        """Before the server is stopped: what was used until now is kept."""
        self._before, self._begin = self.read(), self._now()

    def read(self) -> Used:
        """Since the meter was made."""
        return self._before + (self._now() - self._begin)


class Sampler:
    """Looks at a run's processes from outside, now and then, in a thread of this process; a context manager.

    Args:
        root: the run's process.
        gpu: asked each time too: see ``bench.running.gpu_usage``.
        seconds: between two looks, or longer: see ``SAMPLE_SHARE``.
    """

    def __init__(self, root: int, gpu: Callable[[], tuple[float, int] | None], seconds: float = SAMPLE_SECONDS) -> None:
        self._root, self._gpu, self._seconds = root, gpu, seconds
        self._peak = 0
        self._gpu_seen: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loadstone sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = self._seconds
        while not self._ended.wait(pause):
            begin = time.thread_time()
            self.look()
            pause = max(self._seconds, (time.thread_time() - begin) / SAMPLE_SHARE)

    def look(self) -> None:
        """Look once."""
        self._peak = max(self._peak, pss_bytes(self._root))
        if (seen := self._gpu()) is not None:
            self._gpu_seen.append(seen)

    def fields(self, at_end: int) -> dict[str, Any]:
        """Of the record; ``at_end`` is the memory that the run itself saw when it was done."""
        found: dict[str, Any] = {"peak_pss_bytes": max(self._peak, at_end) or None}
        if self._gpu_seen:
            busy, held = zip(*self._gpu_seen, strict=True)
            found |= {"gpu_utilisation": sum(busy) / len(busy), "gpu_bytes": max(held)}
        return found
