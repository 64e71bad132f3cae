"""Downloads a publisher's archive, checks it, and unpacks it without letting a member out of its folder.

Nothing half done stands under a final name: a file or folder is made as ``<name>.partial`` and renamed when whole. A lock
lets only one process at a time do this for a folder; the system frees it when that process dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import json
import lzma
import os
import shutil
import socket
import stat
import tarfile
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from datasets.errors import DatasetCorrupt, DatasetUnverified, DownloadFailed, RoomError
from datasets.tree import File, file_md5, listing, scan

SEAL = ".loadstone-seal.json"
TIMEOUT_SECONDS = 10.0

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

# All that reading a damaged or encrypted archive was seen or is documented to raise.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Archive:
    """A file that a publisher distributes.

    Attributes:
        url: where it is; its last part is the file's name.
        md5: of the whole file, as hex digits.
        folder: the one folder at its top, which is its place in the data folder too.
    """

    url: str
    md5: str
    folder: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


def download(name: str, archive: Archive, data_dir: Path) -> None:
    """Fetch ``archive`` into ``data_dir`` and unpack it there; nothing is done where its folder stands already.

    The archive itself is kept, and used instead of the network when it is there and its MD5 is right.

    Raises:
        DownloadFailed: the server could not be reached, or sent something else.
        DatasetCorrupt: the archive can't be unpacked.
        RoomError: no room, or no permission to write.
    """
    with _locked(data_dir, archive.folder):
        if not (data_dir / archive.folder).exists():
            path = data_dir / archive.file
            if not (path.is_file() and file_md5(path) == archive.md5):
                _fetch(name, archive, path)
            _unpack(name, archive, data_dir, whole=True)


def unpack(name: str, archive: Archive, data_dir: Path, *, allow_unverified: bool = False) -> None:
    """Check the archive in ``data_dir`` and unpack it there; nothing is done where its folder stands already.

    Raises:
        DatasetUnverified: its MD5 is not the published one, and ``allow_unverified`` is not set.
        DatasetCorrupt: it can't be read to its end, or a member would leave the folder.
        RoomError: no room, or no permission to write.
    """
    with _locked(data_dir, archive.folder):
        if (data_dir / archive.folder).exists():
            return
        path = data_dir / archive.file
        try:
            md5 = file_md5(path)
        except OSError as error:
            raise DatasetCorrupt(name, path, f"can't be read ({error.strerror})", "check its permissions") from error
        if md5 != archive.md5 and not allow_unverified:
            raise DatasetUnverified(name, path, f"its MD5 is {md5}, the published one is {archive.md5}: cut short or changed")
        _unpack(name, archive, data_dir, whole=md5 == archive.md5)


def doubt(root: Path, files: Sequence[File], archive: Archive) -> str:
    """Why the tree at ``root`` can't be taken for the content of ``archive``; empty where it can.

    A tree that Loadstone unpacked from an archive with the published MD5 carries a seal: a hidden file with that MD5 and a
    digest of all paths and sizes.
    """
    try:
        seal = json.loads((root / SEAL).read_bytes())
        if seal["md5"] != archive.md5:
            return f"was unpacked from another archive than the published {archive.file}"
        return "" if seal["listing"] == listing(files) else "has changed since it was unpacked"
    except FileNotFoundError:
        return f"was not unpacked by Loadstone, and only its archive {archive.file} has a published checksum"
    except (OSError, ValueError, KeyError, TypeError):
        return f"holds a damaged {SEAL}"


def _fetch(name: str, archive: Archive, path: Path) -> None:
    """Download to a name beside ``path``, check, then rename."""
    # Imported here: it imports torch, which takes seconds.
    from torchvision.datasets.utils import download_url

    partial = path.with_name(f"{path.name}.partial")
    try:
        with _writing(path), _timeout(TIMEOUT_SECONDS):
            partial.unlink(missing_ok=True)
            download_url(archive.url, path.parent, partial.name, archive.md5)
            partial.replace(path)
    except RuntimeError as error:
        raise DownloadFailed(name, archive.url, _mismatch(partial, archive)) from error
    except (OSError, HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DownloadFailed(name, archive.url, _in_words(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _mismatch(partial: Path, archive: Archive) -> str:
    if not partial.exists():
        return "too many redirects"
    size = partial.stat().st_size
    return f"sent {size:,} bytes with MD5 {file_md5(partial)}, the published one is {archive.md5}: cut short or changed"


def _in_words(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) and not hasattr(error, "code") else error
    return f"could not be fetched ({reason or type(reason).__name__})"


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Bound every wait on a socket: torchvision's download has no such option, and would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _writing(where: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into ``RoomError``; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise RoomError(where, error) from error
        raise


@contextmanager
def _locked(data_dir: Path, folder: str) -> Iterator[None]:
    """Wait until no other process downloads or unpacks ``folder``, and keep others waiting."""
    path = data_dir / f".{folder}.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise RoomError(data_dir, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever held it before has removed the file on leaving; a lock on a removed file locks nobody out.
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _unpack(name: str, archive: Archive, data_dir: Path, *, whole: bool) -> None:
    """Unpack beside the folder's place, seal it if the archive was ``whole``, then rename it into place."""
    path = data_dir / archive.file
    partial = data_dir / f"{archive.folder}.partial"
    remedy = f"remove it and run `loadstone download {name}`"
    try:
        with _writing(data_dir):
            shutil.rmtree(partial, ignore_errors=True)
            _extract(path, partial)
            tree = partial / archive.folder
            if not tree.is_dir():
                raise DatasetCorrupt(name, path, f"holds no folder {archive.folder}", remedy)
            if whole:
                seal = {"archive": archive.file, "md5": archive.md5, "listing": listing(scan(name, tree))}
                (tree / SEAL).write_text(json.dumps(seal, indent=1) + "\n")
            tree.rename(data_dir / archive.folder)
    except _DAMAGE as error:
        raise DatasetCorrupt(name, path, f"can't be unpacked ({error})", remedy) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Member(NamedTuple):
    name: str
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def _extract(path: Path, into: Path) -> None:
    """Write an archive's folders and files below ``into``.

    Links and devices are refused rather than judged: no data set here has any. So the names alone decide where a member
    goes, on every Python alike (``tarfile``'s own filter is missing from the first releases of 3.11).

    Raises:
        ValueError: a member is neither folder nor file, or its name leads out of ``into``.
        OSError, EOFError and what the archive's library raises: it is damaged, or can't be written.
    """
    into.mkdir()
    for member in _zip_members(path) if path.suffix == ".zip" else _tar_members(path):
        target = into / _inside(member.name)
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        content = member.open() if member.is_file else None
        if content is None:
            raise ValueError(f"member {member.name!r} is a link or a device")
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"member {name!r} would leave the folder")
    return path


def _tar_members(path: Path) -> Iterator[_Member]:
    with tarfile.open(path) as tar:
        for info in tar:
            yield _Member(info.name, info.isdir(), info.isfile(), lambda info=info: tar.extractfile(info))  # type: ignore[misc]


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_file = not info.is_dir() and kind in (0, stat.S_IFREG)
            yield _Member(info.filename, info.is_dir(), is_file, lambda info=info: archive.open(info))  # type: ignore[misc]
