"""Unpacking: nothing leaves the folder, nothing half done is taken for whole."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.archive import SEAL, Archive, doubt, unpack
from datasets.errors import DatasetCorrupt, DatasetUnverified, RoomError
from datasets.tree import scan

Pack = Callable[[Path, list[tuple[str, bytes]]], Path]


def _tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _zip(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


PACKERS: list[tuple[str, Pack]] = [("set.tgz", _tar), ("set.zip", _zip)]
GOOD = [("set/a.txt", b"a" * 5000), ("set/sub/b.txt", os.urandom(5000)), ("set/.hidden", b"h")]


def _archive(path: Path) -> Archive:
    return Archive(f"http://127.0.0.1/{path.name}", hashlib.md5(path.read_bytes()).hexdigest(), "set")


def _names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize(("file", "pack"), PACKERS)
def test_members_arrive_whole_and_sealed(tmp_path: Path, file: str, pack: Pack) -> None:
    """Every member arrives with its content, nothing else is left, and the seal vouches for the tree."""
    archive = _archive(pack(tmp_path / file, GOOD))
    unpack("set", archive, tmp_path)
    assert _names(tmp_path) == sorted([file, "set", "set/.hidden", f"set/{SEAL}", "set/a.txt", "set/sub", "set/sub/b.txt"])
    assert all((tmp_path / name).read_bytes() == data for name, data in GOOD)
    assert doubt(tmp_path / "set", scan("set", tmp_path / "set"), archive) == ""


@pytest.mark.parametrize("change", ["remove", "grow", "add", "seal", "other", "none"])
def test_a_changed_tree_is_in_doubt(tmp_path: Path, change: str) -> None:
    """The seal holds only for the files that were unpacked, from the archive that it names."""
    archive = _archive(_tar(tmp_path / "set.tgz", GOOD))
    unpack("set", archive, tmp_path)
    root = tmp_path / "set"
    if change == "remove":
        (root / "a.txt").unlink()
    elif change == "grow":
        (root / "a.txt").write_bytes(b"a" * 5001)
    elif change == "add":
        (root / "c.txt").write_bytes(b"")
    elif change == "seal":
        (root / SEAL).write_text("[]")
    elif change == "other":
        (root / SEAL).write_text(json.dumps({"md5": "0" * 32, "listing": ""}))
    else:
        (root / SEAL).unlink()
    assert doubt(root, scan("set", root), archive) != ""


@pytest.mark.parametrize(("file", "pack"), PACKERS)
@pytest.mark.parametrize("name", ["../out.txt", "set/../../out.txt", "/tmp/loadstone-test-out.txt"])
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path: Path, file: str, pack: Pack, name: str) -> None:
    """Names with .. and absolute names are refused, and nothing of the archive stays."""
    root = tmp_path / "data"
    root.mkdir()
    archive = _archive(pack(root / file, [*GOOD, (name, b"hostile")]))
    with pytest.raises(DatasetCorrupt, match=r"would leave the folder.*loadstone download"):
        unpack("set", archive, root)
    assert _names(tmp_path) == ["data", f"data/{file}"]
    assert not Path("/tmp/loadstone-test-out.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    """A link could point out of the folder, and a device is no data: neither is made."""
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as tar:
        info = tarfile.TarInfo("set/way")
        info.type, info.linkname = kind, "/etc"
        tar.addfile(info)
        inside = tarfile.TarInfo("set/way/passwd")
        tar.addfile(inside, io.BytesIO())
    with pytest.raises(DatasetCorrupt, match="'set/way' is a link or a device"):
        unpack("set", _archive(tmp_path / "set.tgz"), tmp_path)
    assert _names(tmp_path) == ["set.tgz"]


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    """A zip may carry links too; they are not made."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        info = zipfile.ZipInfo("set/way")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
    with pytest.raises(DatasetCorrupt, match="'set/way' is a link or a device"):
        unpack("set", _archive(tmp_path / "set.zip"), tmp_path)
    assert _names(tmp_path) == ["set.zip"]


@pytest.mark.parametrize(("file", "pack"), PACKERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, file: str, pack: Pack, share: float) -> None:
    """An archive cut short is refused, even when unverified ones are allowed, and no folder stays."""
    path = pack(tmp_path / file, GOOD)
    archive = _archive(path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DatasetUnverified, match="cut short or changed"):
        unpack("set", archive, tmp_path)
    with pytest.raises(DatasetCorrupt, match="set"):
        unpack("set", archive, tmp_path, allow_unverified=True)
    assert _names(tmp_path) == [file]


def test_an_archive_without_its_folder_is_refused(tmp_path: Path) -> None:
    """An archive that holds something else is refused by the folder that it lacks."""
    with pytest.raises(DatasetCorrupt, match="holds no folder set"):
        unpack("set", _archive(_tar(tmp_path / "set.tgz", [("other/a.txt", b"a")])), tmp_path)
    assert _names(tmp_path) == ["set.tgz"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_no_room_is_said_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int) -> None:
    """A full or read-only disk gives RoomError, and what was written goes."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    archive = _archive(_tar(tmp_path / "set.tgz", GOOD))
    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(RoomError, match="free some room or name another folder"):
        unpack("set", archive, tmp_path)
    assert _names(tmp_path) == ["set.tgz"]


def test_a_kill_midway_is_not_taken_for_whole(tmp_path: Path) -> None:
    """A process killed while it unpacks leaves no folder, and the next one unpacks all of it."""
    archive = _archive(_tar(tmp_path / "set.tgz", GOOD))
    code = (
        "import os, shutil, signal, sys\nfrom pathlib import Path\nfrom datasets.archive import Archive, unpack\n"
        "shutil.copyfileobj = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "unpack('set', Archive(*sys.argv[2:]), Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), archive.url, archive.md5, archive.folder]
    home = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=home, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "set.partial").exists()
    assert not (tmp_path / "set").exists()
    unpack("set", archive, tmp_path)
    assert doubt(tmp_path / "set", scan("set", tmp_path / "set"), archive) == ""
    assert not (tmp_path / "set.partial").exists()


def test_many_at_once_unpack_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of several that unpack at the same time, one does and the others wait for it."""
    archive = _archive(_tar(tmp_path / "set.tgz", GOOD))
    written: list[object] = []
    copy = shutil.copyfileobj

    def count(source: io.BytesIO, target: io.BytesIO, length: int) -> None:
        written.append(target)
        copy(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", count)
    threads = [threading.Thread(target=unpack, args=("set", archive, tmp_path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == len(GOOD)
    assert doubt(tmp_path / "set", scan("set", tmp_path / "set"), archive) == ""
    assert not list(tmp_path.glob(".*.lock"))
