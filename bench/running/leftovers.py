"""What killed runs leave on this machine, and its removal at the next start."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_SCRATCH = "loadstone-run-"
_TORCH = re.compile(r"torch_(\d+)_")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Python's temporary folder meanwhile: one that this process holds locked, and removes when it ends.

    For multiprocessing, which keeps its sockets where the temporary folder was when it first needed one: a killed process
    can't remove them, and a lock that is free tells the next start that it may.
    """
    folder = _folder(os.getpid())
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


@functools.cache
def _folder(_process: int) -> Path:
    folder = _locked_for_good()
    # After multiprocessing has removed its own folder in it, at -100.
    util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-200)
    return folder


def _locked_for_good() -> Path:
    """A new folder, locked to the end of the process; another process's sweep may come before the lock and take it away."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder
            os.close(handle)


def sweep() -> list[str]:
    """Remove what killed runs of this account left; returns what it was, in words."""
    folders = [folder for folder in _own(Path(tempfile.gettempdir()), f"{_SCRATCH}*") if _removed(folder)]
    memory = [file for file in _own(SHARED_MEMORY, "torch_*") if _is_orphan(file)]
    for file in memory:
        file.unlink(missing_ok=True)
    found = [f"{len(folders)} temporary folder{'' if len(folders) == 1 else 's'}"] if folders else []
    return found + ([f"{len(memory)} piece{'' if len(memory) == 1 else 's'} of shared memory"] if memory else [])


def _own(parent: Path, pattern: str) -> list[Path]:
    """What lies in ``parent`` and is this account's; it may be gone by now."""
    found = []
    for path in sorted(parent.glob(pattern)):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and not path.is_symlink():
                found.append(path)
    return found


def _removed(folder: Path) -> bool:
    """Remove a folder unless the process that made it lives: its lock says so."""
    try:
        with locked(folder):
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock.

    Raises:
        BlockingIOError: another process holds it. OSError: the folder can't be opened.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _is_orphan(file: Path) -> bool:
    """PyTorch names a piece of shared memory after its maker, and removes the name at once: a kill may come in between."""
    named = _TORCH.match(file.name)
    return named is not None and not Path(f"/proc/{named[1]}").exists()
