"""Lists and reads a data set's files; every error names the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datasets.errors import DataError, DatasetCorrupt, DatasetMissing


class File(NamedTuple):
    """One file of a tree.

    Attributes:
        path: relative to the tree's root, parts joined by ``/``.
        size: in bytes.
        mtime_ns: time of the last change, in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int


def scan(name: str, root: Path, under: str = "") -> list[File]:
    """Every file of ``root/under``, at any depth, sorted by folder, then by file name.

    Hidden files and folders are left out; links are followed, except those that lead back up.

    Raises:
        DatasetMissing: there is no such folder.
        DatasetCorrupt: a folder can't be read, or a link leads nowhere; names it.
    """
    found: list[File] = []
    pending = [under]
    while pending:
        for path, entry in _entries(name, root, pending.pop()):
            if entry.is_dir():
                if not (entry.is_symlink() and _leads_up(entry.path)):
                    pending.append(path)
            elif entry.is_file():
                status = entry.stat()
                found.append(File(path, status.st_size, status.st_mtime_ns))
            elif entry.is_symlink():
                raise DatasetCorrupt(name, Path(entry.path), "is a link to nothing", "mend or remove it")
    return sorted(found, key=lambda file: file.path.rpartition("/")[::2])


def subfolders(name: str, root: Path) -> list[str]:
    """The names of the folders right in ``root``, sorted, hidden ones left out.

    Raises:
        DatasetMissing: there is no such folder.
        DatasetCorrupt: it can't be read.
    """
    return sorted(path for path, entry in _entries(name, root, "") if entry.is_dir())


def _entries(name: str, root: Path, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What lies right in ``root/folder``, hidden things left out: path relative to ``root``, and entry."""
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield (f"{folder}/{entry.name}" if folder else entry.name), entry
    except OSError as error:
        raise unreadable(name, root / folder, error) from error


def _leads_up(link: str) -> bool:
    return Path(link).parent.resolve().is_relative_to(Path(link).resolve())


def read_bytes(name: str, path: Path) -> bytes:
    """A file's content.

    Raises:
        DatasetMissing: it is not there.
        DatasetCorrupt: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(name, path, error) from error


def read_lines(name: str, path: Path) -> list[str]:
    """A text file's lines, without those that are blank.

    Raises:
        DatasetMissing: it is not there.
        DatasetCorrupt: it can't be read, or is no text.
    """
    try:
        text = read_bytes(name, path).decode()
    except UnicodeDecodeError as error:
        raise DatasetCorrupt(name, path, "is no UTF-8 text", again(name, path.parent)) from error
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def unreadable(name: str, path: Path, error: OSError) -> DataError:
    """The error for a file or folder that the system would not read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DatasetMissing(f"{name}'s {path.name}", path.parent, "put it back, or get the data set again")
    return DatasetCorrupt(name, path, f"can't be read ({error.strerror or error})", "check its permissions and the disk")


def again(name: str, folder: Path) -> str:
    """The remedy for files that are damaged or gone."""
    return f"remove {folder} and run `loadstone download {name}`"


def file_md5(path: Path) -> str:
    """A file's MD5 as hex digits; it finds damage, it does not keep out forgers.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fingerprint(files: Iterable[File]) -> str:
    """SHA-256 over path, size and time of last change of every file, sorted: changes when a file does."""
    return _digest(f"{path}\0{size}\0{mtime}" for path, size, mtime in files)


def listing(files: Iterable[File]) -> str:
    """SHA-256 over path and size of every file, sorted: stays equal when a tree is copied."""
    return _digest(f"{path}\0{size}" for path, size, _ in files)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256(os.fsencode("\n".join(sorted(lines)))).hexdigest()
