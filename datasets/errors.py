"""The errors of the whole project, in one tree.

Each says what, where and the remedy in one line, keeps its parts as attributes, and carries the exit status that the
command line ends with.

LoadstoneError                       1  something asked for failed
├── Unavailable                      1  a backend can't run here
├── PathRefused                      1  the code path asked for by name can't serve
├── DeviceRefused                    1  a GPU can't do what was asked
├── RunFailed                        1  a run's process died or ran out of time
├── UsageError                       2  the call or the TOML file is wrong
│   ├── UnknownName                     (with the nearest right one)
│   └── ExperimentInvalid
├── VerificationFailed               3  a store does not hold what its manifest says
├── DataError                        4  a data set, store or database can't be used
│   ├── DatasetMissing
│   ├── DatasetCorrupt
│   ├── DatasetUnverified
│   ├── DownloadFailed
│   ├── StoreMissing
│   ├── StoreIncomplete
│   ├── StoreVersion
│   ├── StoreCorrupt
│   ├── SampleCorrupt
│   └── DatabaseError
└── RoomError                        5  no room, or no permission to write
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar


class LoadstoneError(Exception):
    """The root of the tree; ``str()`` of it is the one line a user reads."""

    exit_status: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message and attributes, so that an error crosses a process boundary whatever its ``__init__``."""
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(kind: type[LoadstoneError], message: str, parts: dict[str, Any]) -> LoadstoneError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(parts)
    return error


class Unavailable(LoadstoneError):
    """A backend can't run on this machine; ``reason`` and ``remedy`` say why and what would help."""

    def __init__(self, name: str, reason: str, remedy: str = "") -> None:
        self.name, self.reason, self.remedy = name, reason, remedy
        super().__init__(f"{name} is unavailable: {reason}" + (f"; {remedy}" if remedy else ""))


class PathRefused(LoadstoneError):
    """A code path was asked for by name and can't serve; falling back would measure something else."""

    def __init__(self, backend: str, path: str, reason: str) -> None:
        self.backend, self.path, self.reason = backend, path, reason
        super().__init__(f"{backend} can't be read by {path!r}: {reason}; ask for {backend!r} to let it choose")


class DeviceRefused(LoadstoneError):
    """A GPU has no room, or can't register memory; where another way serves, it is taken instead."""


class RunFailed(LoadstoneError):
    """A run's process died, or ran longer than it may."""


class UsageError(LoadstoneError):
    """The call or the TOML file is wrong."""

    exit_status = 2


class UnknownName(UsageError):
    """A name that nothing answers to; ``nearest`` is the known name most like it, or None."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        self.known = tuple(sorted(known))
        close = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5)
        self.nearest = close[0] if close else None
        hint = f"did you mean {self.nearest!r}? " if self.nearest else ""
        super().__init__(f"no {kind} is called {name!r}; {hint}known: {', '.join(self.known)}")


class ExperimentInvalid(UsageError):
    """A TOML file that isn't an experiment."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where}: {what}")


class VerificationFailed(LoadstoneError):
    """A store was read back and differs from its manifest."""

    exit_status = 3

    def __init__(self, root: Path, what: str) -> None:
        self.root, self.what = root, what
        super().__init__(f"{root} does not hold what its manifest says: {what}; pack it again with `loadstone pack --force`")


class DataError(LoadstoneError):
    """A data set, store or database can't be used."""

    exit_status = 4


class DatasetMissing(DataError):
    """The data set's files are not where they were looked for."""

    def __init__(self, name: str, where: Path, remedy: str) -> None:
        self.name, self.where, self.remedy = name, where, remedy
        super().__init__(f"{name} is not in {where}; {remedy}")


class DatasetCorrupt(DataError):
    """A file of the data set is cut short, damaged, or no picture."""

    def __init__(self, name: str, where: Path, what: str, remedy: str = "") -> None:
        self.name, self.where, self.what, self.remedy = name, where, what, remedy
        super().__init__(f"{name}: {where}: {what}" + (f"; {remedy}" if remedy else ""))


class DatasetUnverified(DataError):
    """The files can't be shown to be the publisher's."""

    def __init__(self, name: str, where: Path, what: str) -> None:
        self.name, self.where, self.what = name, where, what
        super().__init__(f"{name}: {where}: {what}; use --allow-unverified to read it all the same (the record will say so)")


class DownloadFailed(DataError):
    """The publisher's server could not be reached, or sent something else."""

    def __init__(self, name: str, url: str, what: str) -> None:
        self.name, self.url, self.what = name, url, what
        super().__init__(f"{name}: {url}: {what}; put the files into --data-dir by hand, or try again later")


class StoreMissing(DataError):
    """No store stands where one was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        super().__init__(f"{root} holds no store; make one with `loadstone pack`")


class StoreIncomplete(DataError):
    """A store whose packing never finished."""

    def __init__(self, root: Path) -> None:
        self.root = root
        super().__init__(f"{root} was never finished; remove it, or run `loadstone pack --force` again")


class StoreVersion(DataError):
    """A store of another format version."""

    def __init__(self, root: Path, found: object, wanted: int) -> None:
        self.root, self.found, self.wanted = root, found, wanted
        super().__init__(f"{root} is of format version {found}, this is {wanted}; pack it again with `loadstone pack --force`")


class StoreCorrupt(DataError):
    """A store whose files do not fit its manifest."""

    def __init__(self, root: Path, what: str) -> None:
        self.root, self.what = root, what
        super().__init__(f"{root} is damaged: {what}; pack it again with `loadstone pack --force`")


class SampleCorrupt(DataError):
    """One sample can't be read or decoded; ``index`` is its place in the split."""

    def __init__(self, root: Path, split: str, index: int, what: str) -> None:
        self.root, self.split, self.index, self.what = root, split, index, what
        super().__init__(f"{root}: sample {index} of {split}: {what}; check the store with `loadstone verify {root}`")


class DatabaseError(DataError):
    """A database server is down, refuses, or lacks the table. Never carries a password."""

    def __init__(self, server: str, what: str, remedy: str) -> None:
        self.server, self.what, self.remedy = server, what, remedy
        super().__init__(f"PostgreSQL at {server}: {what}; {remedy}")


class RoomError(LoadstoneError):
    """No room, or no permission to write."""

    exit_status = 5

    def __init__(self, where: Path, error: OSError) -> None:
        self.where = where
        super().__init__(f"{where}: {error.strerror or error}; free some room or name another folder")
