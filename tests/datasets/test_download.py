"""Downloads from a server on this machine: whole, changed, cut short, silent, or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from datasets import archive as archives
from datasets.archive import Archive, download
from datasets.errors import DatasetCorrupt, DownloadFailed, RoomError, UsageError
from datasets.registry import download as download_by_name
from datasets.tiny_imagenet import TinyImageNet

pytest.importorskip("torchvision")


class Server(ThreadingHTTPServer):
    """Serves one file; ``manner`` says how."""

    daemon_threads = True
    content = b""
    manner = "whole"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.leave = Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are the subject here."""


class Handler(BaseHTTPRequestHandler):
    """Answers in the server's manner."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append("GET")
        content, manner = self.server.content, self.server.manner
        self.send_response(404 if manner == "absent" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if manner == "silent":
            self.server.leave.wait(20)
        self.wfile.write(content[: len(content) // 2] if manner == "short" else content)

    def log_message(self, *_: object) -> None:
        """Nothing goes to the terminal."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.leave.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def offered(server: Server, tmp_path: Path, write_tree: Callable[..., Path], zipped: Callable[..., Path]) -> Archive:
    """An archive that the server has."""
    path = zipped(
        write_tree(tmp_path / "made/set", {"a.txt": b"a" * 100_000, "b/c.txt": os.urandom(100_000)}), tmp_path / "x.zip"
    )
    server.content = path.read_bytes()
    path.unlink()
    return Archive(f"http://127.0.0.1:{server.server_port}/x.zip", hashlib.md5(server.content).hexdigest(), "set")


def test_a_download_is_checked_unpacked_and_not_repeated(server: Server, offered: Archive, tmp_path: Path) -> None:
    """What comes is the published file, it is unpacked, and asking again asks nobody."""
    download("set", offered, tmp_path / "new/data")
    assert (tmp_path / "new/data/set/a.txt").read_bytes() == b"a" * 100_000
    asked = list(server.asked)
    download("set", offered, tmp_path / "new/data")
    shutil.rmtree(tmp_path / "new/data/set")
    download("set", offered, tmp_path / "new/data")
    assert (tmp_path / "new/data/set/a.txt").exists()
    assert server.asked == asked


@pytest.mark.parametrize(
    ("manner", "what"),
    [
        ("changed", "cut short or changed"),
        ("short", "cut short or changed|could not be"),
        ("absent", "404"),
        ("silent", "timed out"),
    ],
)
def test_a_failed_download_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, server: Server, offered: Archive, tmp_path: Path, manner: str, what: str
) -> None:
    """Another file, half a file, no file or no answer: one error with the address, and no file under any name."""
    monkeypatch.setattr(archives, "TIMEOUT_SECONDS", 0.3)
    server.manner = manner
    if manner == "changed":
        server.content = server.content[:-1] + b"?"
    with pytest.raises(DownloadFailed, match=f"127.0.0.1.*({what}).*by hand"):
        download("set", offered, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_a_refused_connection_is_a_failed_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a network, or a server that is down, fails at once and in one line."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = Archive(f"http://127.0.0.1:{taken.getsockname()[1]}/x.zip", "0" * 32, "set")
        with pytest.raises(DownloadFailed, match="Connection refused") as caught:
            download("set", nowhere, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_archive_in_place_is_fetched_again(offered: Archive, tmp_path: Path) -> None:
    """An archive that is there but cut short is replaced, not trusted."""
    (tmp_path / "x.zip").write_bytes(b"PK half of it")
    download("set", offered, tmp_path)
    assert (tmp_path / "set/b/c.txt").stat().st_size == 100_000


def test_a_full_disk_is_no_failed_download(monkeypatch: pytest.MonkeyPatch, offered: Archive, tmp_path: Path) -> None:
    """A download that finds no room says so, rather than blame the server."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fail)
    with pytest.raises(RoomError, match="No space left"):
        download("set", offered, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_data_folder_that_cannot_be_made_is_no_room(offered: Archive, tmp_path: Path) -> None:
    """A data folder under a file can't be made, and the message names it."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RoomError, match="file/data"):
        download("set", offered, tmp_path / "file/data")


@pytest.fixture
def tiny(
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    tmp_path: Path,
    tiny_files: dict[str, bytes],
    write_tree: Callable[..., Path],
    zipped: Callable[..., Path],
) -> Server:
    """The server offers a small Tiny ImageNet."""
    path = zipped(write_tree(tmp_path / "made/tiny-imagenet-200", tiny_files), tmp_path / "tiny-imagenet-200.zip")
    server.content = path.read_bytes()
    path.unlink()
    url = f"http://127.0.0.1:{server.server_port}/tiny-imagenet-200.zip"
    monkeypatch.setattr(TinyImageNet, "archive", Archive(url, hashlib.md5(server.content).hexdigest(), "tiny-imagenet-200"))
    return server


def test_download_by_name_gives_a_verified_source(tiny: Server, tmp_path: Path) -> None:
    """`loadstone download tiny-imagenet` ends with a data set whose checksum matched, and does nothing the second time."""
    source = download_by_name("tiny-imagenet", tmp_path / "data")
    assert (source.info.name, source.info.verification) == ("tiny-imagenet", "checksum")
    asked = list(tiny.asked)
    assert download_by_name("tiny-imagenet", tmp_path / "data").info == source.info
    assert tiny.asked == asked


def test_download_does_not_touch_a_damaged_tree(tiny: Server, tmp_path: Path) -> None:
    """A tree that is there and broken is not overwritten: the message says what to remove."""
    download_by_name("tiny-imagenet", tmp_path)
    shutil.rmtree(tmp_path / "tiny-imagenet-200/train/n01/images")
    with pytest.raises(DatasetCorrupt, match=r"remove .*tiny-imagenet-200 and run"):
        download_by_name("tiny-imagenet", tmp_path)


@pytest.mark.parametrize("spec", ["image_folder:photos", "synthetic"])
def test_what_nobody_publishes_is_not_downloaded(spec: str, tmp_path: Path) -> None:
    """A name without a publisher is a wrong call, not a failed download."""
    with pytest.raises(UsageError, match="is not downloaded from anywhere"):
        download_by_name(spec, tmp_path)
