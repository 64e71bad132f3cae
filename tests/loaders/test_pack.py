"""A store is packed once, whole or not at all, and one that was damaged is found out."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import (
    DataError,
    DatasetCorrupt,
    LoadstoneError,
    RoomError,
    SampleCorrupt,
    StoreCorrupt,
    StoreIncomplete,
    StoreMissing,
    StoreVersion,
    Unavailable,
    UnknownName,
    VerificationFailed,
)
from datasets.source import Example
from loaders.manifest import CodecName, Content, Manifest
from loaders.order import Draws
from loaders.pack import location, open_store, pack, slug, verify
from loaders.registry import BACKENDS, Entry, store_class
from loaders.store import Store
from tests.loaders.contract import in_child
from tests.loaders.sources import ListSource, encoded, expected

FILES = ("memory", "filesystem", "mmap", "hdf5", "hdf5_chunked", "hdf5_gzip")
"""The backends that need no server."""
CODECS: tuple[CodecName, ...] = ("raw", "png", "jpeg")
SMALL = expected("raw", counts={"train": 6, "val": 3}).source
TINY = expected("raw", counts={"train": 3, "val": 2}).source


def manifests(folder: Path) -> list[Path]:
    """What makes folders below ``folder`` stores."""
    return list(folder.rglob("manifest.json"))


def leftovers(folder: Path) -> list[str]:
    """What lies below ``folder`` beside locks and empty folders."""
    return [str(file) for file in folder.rglob("*") if file.is_file() and not file.name.endswith(".lock")]


def refuses(root: Path) -> bool:
    """Whether a store is refused or, where it opens, is what was packed; anything else raises."""
    try:
        store = open_store(root)
    except DataError:
        return True
    verify(store)
    return False


def counting(source: ListSource, log: Path) -> ListSource:
    """The same source, which notes each reading of a split in ``log``."""

    class Counting(ListSource):
        def examples(self, split: str) -> Iterator[Example]:
            with log.open("a", encoding="utf-8") as file:
                file.write(split + "\n")
            yield from super().examples(split)

    made = Counting(source.lists, shape=source.info.shape)
    made.info = source.info
    return made


# ---- once, and again when the source changed


@pytest.mark.parametrize("backend", FILES)
def test_a_store_is_packed_once(backend: str, tmp_path: Path) -> None:
    """What was packed before is found again, and the source is not read."""
    log = tmp_path / "log"
    source = counting(SMALL, log)
    first = pack(source, backend, tmp_path / "stores")
    again = pack(source, backend, tmp_path / "stores")
    assert log.read_text(encoding="utf-8").split() == ["train", "val"]
    assert again.root == first.root == location(tmp_path / "stores", first.content, backend)
    verify(again)


def test_a_changed_source_is_packed_anew(tmp_path: Path) -> None:
    """Another fingerprint, or other counts, replace the store."""
    pack(SMALL, "mmap", tmp_path)
    changed = ListSource({**SMALL.lists, "train": SMALL.lists["train"][::-1]}, shape=SMALL.info.shape, fingerprint="changed")
    store = pack(changed, "mmap", tmp_path)
    assert store.content.fingerprint == "changed"
    wanted = np.stack([example.picture for example in changed.lists["train"]])
    assert (np.fromfile(store.root / "train.bin", np.uint8) == wanted.ravel()).all()
    assert len(manifests(tmp_path)) == 1


def test_force_packs_anew(tmp_path: Path) -> None:
    """``force`` packs whatever is there, also where the store is damaged."""
    store = pack(SMALL, "mmap", tmp_path)
    (store.root / "train.bin").write_bytes(b"")
    again = pack(SMALL, "mmap", tmp_path, force=True)
    verify(again)


def test_a_store_that_never_finished_is_packed_anew(tmp_path: Path) -> None:
    """A folder without a manifest, and what a killed packing left, are replaced."""
    root = location(tmp_path, Content.of(SMALL.info, "raw"), "mmap")
    for folder in (root, root.with_name("mmap.partial")):
        folder.mkdir(parents=True)
        (folder / "train.bin").write_bytes(b"half")
    verify(pack(SMALL, "mmap", tmp_path))
    assert not root.with_name("mmap.partial").exists()


def test_progress_counts_every_sample(tmp_path: Path) -> None:
    """Packing and verifying tell of each sample once."""
    told: list[int] = []
    store = pack(SMALL, "mmap", tmp_path, progress=told.append)
    assert sum(told) == 9
    told.clear()
    verify(store, told.append)
    assert sum(told) == 9


def test_the_manifest_says_what_was_packed(tmp_path: Path) -> None:
    """Counts, bytes, seconds and versions stand in the manifest; the folder is named after data set, codec and backend."""
    store = pack(SMALL, "hdf5", tmp_path)
    manifest = Manifest.read(store.root)
    assert store.root == tmp_path / "shapes" / "raw" / "hdf5"
    assert manifest.backend == "hdf5"
    assert {split: each.count for split, each in manifest.splits.items()} == {"train": 6, "val": 3}
    assert {split: each.payload_bytes for split, each in manifest.splits.items()} == {"train": 6 * 360, "val": 3 * 360}
    assert manifest.store_bytes >= 9 * 360
    assert manifest.pack_seconds > 0
    assert "numpy" in manifest.versions


def test_the_codec_is_the_source_s_unless_asked(tmp_path: Path) -> None:
    """A JPEG source is held as JPEG, and as pixels where that is asked for."""
    jpegs = expected("jpeg", counts={"train": 4, "val": 2})
    assert pack(jpegs.source, "mmap", tmp_path).content.codec == "jpeg"
    raw = pack(jpegs.source, "mmap", tmp_path, codec="raw")
    assert raw.content.codec == "raw"
    assert bytes(raw.reader("train").payloads(np.array([3]))[0]) == jpegs.pictures["train"][3].tobytes()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("cifar10 (part)", "cifar10-part"), ("a/../b", "a-..-b"), ("..", "unnamed"), ("cifar10~synthetic",) * 2],
)
def test_a_name_becomes_a_folder(text: str, wanted: str) -> None:
    """No name of a data set leaves the folder of stores."""
    assert slug(text) == wanted


def test_a_server_of_one_s_own_has_its_own_place_without_the_password() -> None:
    """Stores on two servers do not meet, and a changed password finds the same store."""
    content = Content.of(SMALL.info, "raw")
    places = [
        location(Path("s"), content, "postgres", server)
        for server in (None, "host=a password=x", "host=a password=y", "postgresql://u:x@a/d", "postgresql://u:y@a/d")
    ]
    assert len(set(places)) == 3
    assert places[1] == places[2]
    assert places[3] == places[4]


def test_two_processes_pack_the_same_store_once(tmp_path: Path) -> None:
    """The second waits for the first, and finds its store."""
    log = tmp_path / "log"
    source = counting(expected("raw", counts={"train": 3000, "val": 3}).source, log)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os._exit(0 if in_child(lambda: verify(pack(source, "filesystem", tmp_path / "stores"))) else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert log.read_text(encoding="utf-8").split() == ["train", "val"]


# ---- what can't be packed


def test_an_unknown_backend_gets_the_nearest_name(tmp_path: Path) -> None:
    """A name that nothing answers to is refused before anything is written."""
    with pytest.raises(UnknownName) as caught:
        pack(SMALL, "hdf", tmp_path)
    assert caught.value.nearest == "hdf5"
    assert not leftovers(tmp_path)


def test_a_codec_that_is_not_taken_is_refused(tmp_path: Path) -> None:
    """A backend says which codecs it takes."""
    with pytest.raises(UnknownName, match=r"no codec of hdf5_gzip is called 'png'; known: raw"):
        pack(SMALL, "hdf5_gzip", tmp_path, codec="png")
    assert not leftovers(tmp_path)


def test_an_unavailable_backend_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is not there is an error of its own."""
    monkeypatch.setitem(BACKENDS, "mmap", Entry("nowhere_at_all:Store", "nothing", "pip install it"))
    with pytest.raises(Unavailable, match="mmap is unavailable: nowhere_at_all is not installed; pip install it"):
        pack(SMALL, "mmap", tmp_path)


def wrong(train: int, said: int) -> ListSource:
    """A source that says it has ``said`` examples for training and yields ``train``."""
    source = expected("raw", counts={"train": train, "val": 3}).source
    return ListSource(source.lists, shape=source.info.shape, counts={"train": said, "val": 3})


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize(
    ("train", "said", "what"),
    [
        (5, 6, "5 examples where 6 belong"),
        (7, 6, "more than the 6 examples"),
        (0, 6, "0 examples where 6"),
        (0, 0, "no examples"),
    ],
)
def test_a_source_of_another_length_is_refused(backend: str, train: int, said: int, what: str, tmp_path: Path) -> None:
    """Too few, too many or no examples: one error says so, and nothing is left."""
    with pytest.raises(DatasetCorrupt, match=what):
        pack(wrong(train, said), backend, tmp_path)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", ["cut short", "no picture", "empty"])
def test_a_damaged_picture_is_named(damage: str, codec: CodecName, tmp_path: Path) -> None:
    """The error names the file that is no picture, and no store is left; one that was there before stays."""

    class Files(ListSource):
        def where(self, split: str, index: int) -> str:
            return f"photos/{split}/{index}.jpg"

    good = expected("jpeg", counts={"train": 5, "val": 2}).source
    before = pack(good, "mmap", tmp_path, codec=codec)
    held = good.lists["train"][3].picture
    assert isinstance(held, bytes)
    bad = {"cut short": held[: len(held) // 2], "no picture": b"\xff\xd8\xff" + bytes(500), "empty": b""}[damage]
    train = [Example(bad, 0) if row == 3 else each for row, each in enumerate(good.lists["train"])]
    source = Files({**good.lists, "train": train}, shape=good.info.shape, codec="jpeg", fingerprint="damaged")
    with pytest.raises(DatasetCorrupt, match=r"photos/train/3\.jpg") as caught:
        pack(source, "mmap", tmp_path, codec=codec)
    assert caught.value.exit_status == 4
    assert len(str(caught.value).splitlines()) == 1
    assert manifests(tmp_path) == [before.root / "manifest.json"]
    verify(before)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("codec", CODECS)
def test_a_label_of_no_class_is_refused(codec: CodecName, label: int, tmp_path: Path) -> None:
    """It names the picture, and nothing is left: trained on, it would be an error of torch's, far from here."""
    good = Example(np.zeros((8, 8, 3), np.uint8), 0)
    source = ListSource({"train": [good, good, Example(good.picture, label)], "val": [good]}, shape=(8, 8, 3))
    with pytest.raises(DatasetCorrupt, match=rf"example 2 of train: label {label}, of 3 classes"):
        pack(source, "mmap", tmp_path, codec=codec)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("codec", CODECS)
def test_a_picture_of_another_size_is_refused(codec: CodecName, tmp_path: Path) -> None:
    """Where the source says that all pictures have one size, one of another size is an error, not a wrong record."""
    train = [Example(np.zeros((12, 10, 3), np.uint8), 0), Example(np.zeros((10, 12, 3), np.uint8), 0)]
    source = ListSource({"train": train, "val": train[:1]}, shape=(12, 10, 3))
    with pytest.raises(DatasetCorrupt, match="10 x 12 pixels where 12 x 10 belong"):
        pack(source, "mmap", tmp_path, codec=codec)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("backend", FILES)
def test_an_interrupted_packing_leaves_nothing(backend: str, tmp_path: Path) -> None:
    """Ctrl-C in mid-packing leaves neither a store nor a partial one."""

    class Interrupted(ListSource):
        def examples(self, split: str) -> Iterator[Example]:
            yield self.lists[split][0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(Interrupted(SMALL.lists, shape=SMALL.info.shape), backend, tmp_path)
    assert not leftovers(tmp_path)


# ---- disks


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, "size=2m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root mounts a disk of 2 MiB; test_a_file_that_may_not_grow is like it")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a traceback may still hold files of it


def large(codec: CodecName) -> ListSource:
    """More than 2 MiB of noise under any codec."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 128, 128, 3), np.uint8)
    pictures: list[Example] = [Example(encoded(each, "JPEG", quality=95) if codec == "jpeg" else each, 0) for each in noise]
    return ListSource(
        {"train": pictures[:150], "val": pictures[150:]}, shape=(128, 128, 3), codec="raw" if codec != "jpeg" else codec
    )


CASES = [(backend, codec) for backend in FILES for codec in CODECS if codec == "raw" or "_" not in backend]


@pytest.mark.parametrize(("backend", "codec"), [case for case in CASES if case[0] != "hdf5_gzip"])
def test_a_full_disk(backend: str, codec: CodecName, small_disk: Path) -> None:
    """A disk that fills up while packing is a RoomError, with exit status 5, and nothing stays on it."""
    with pytest.raises(RoomError, match="No space left on device; free some room") as caught:
        pack(large(codec), backend, small_disk, codec=codec)
    assert caught.value.exit_status == 5
    assert caught.value.where == small_disk
    assert not leftovers(small_disk)


def test_a_full_disk_keeps_the_store_that_was_there(small_disk: Path) -> None:
    """What was packed before can still be read, and once there is room packing succeeds."""
    store = pack(SMALL, "mmap", small_disk)
    bigger = large("raw")
    bigger.info = dataclasses.replace(bigger.info, name=SMALL.info.name)
    with pytest.raises(RoomError):
        pack(bigger, "mmap", small_disk)
    verify(store)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert pack(bigger, "mmap", small_disk).root == store.root
    verify(open_store(store.root))


@pytest.mark.parametrize("backend", FILES)
def test_a_read_only_disk(backend: str, small_disk: Path) -> None:
    """A disk that can't be written to is a RoomError."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(RoomError, match="Read-only file system"):
        pack(SMALL, backend, small_disk / "stores")


@pytest.mark.parametrize("backend", ["mmap", "filesystem", "hdf5", "hdf5_chunked"])
def test_a_file_that_may_not_grow(backend: str, tmp_path: Path) -> None:
    """A limit on the size of files says what a full disk says."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(RoomError, match="File too large"):
            pack(large("raw"), backend, tmp_path)
        assert not leftovers(tmp_path)

    assert in_child(limited)


def test_a_folder_without_permission(tmp_path: Path) -> None:
    """A folder that may not be written to is a RoomError."""
    tmp_path.chmod(0o555)
    store_class("mmap")  # another account may not be able to import it

    def unprivileged() -> None:
        os.chdir(tmp_path)
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        with pytest.raises(RoomError, match="Permission denied"):
            pack(SMALL, "mmap", Path("stores"))

    assert in_child(unprivileged)
    tmp_path.chmod(0o755)


# ---- kills


def killed_at(event: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a child that is killed at its ``event``th operation on a file; whether there were so many."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(name: str, _: object) -> None:
            nonlocal seen
            if name in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
                seen += 1
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("backend", ["mmap", "filesystem", "hdf5"])
def test_a_kill_at_any_operation_leaves_no_wrong_store(backend: str, tmp_path: Path) -> None:
    """Killed before any one of its operations on files, packing leaves a store that is whole or is refused."""
    root = location(tmp_path, Content.of(TINY.info, "raw"), backend)
    pack(TINY, backend, tmp_path)
    event, refused = 1, 0
    while killed_at(event, lambda: pack(TINY, backend, tmp_path, force=True)):
        refused += refuses(root)
        event += 1
    assert event > 10
    assert refused >= 1
    verify(pack(TINY, backend, tmp_path))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("backend", ["mmap", "filesystem", "hdf5"])
def test_a_kill_at_any_moment_leaves_no_wrong_store(backend: str, tmp_path: Path) -> None:
    """Killed at random moments, with and without a store there before, packing leaves a store that is whole or is refused."""
    source = expected("raw", counts={"train": 300, "val": 20}).source
    root = location(tmp_path, Content.of(source.info, "raw"), backend)
    started = time.perf_counter()
    pack(source, backend, tmp_path)
    seconds = time.perf_counter() - started
    draws = random.Random(backend)
    for attempt in range(17):  # 51 over the three formats
        if attempt % 3 == 0:
            shutil.rmtree(root, ignore_errors=True)
        child = os.fork()
        if child == 0:
            pack(source, backend, tmp_path, force=True)
            os._exit(0)
        time.sleep(draws.uniform(0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        refuses(root)
    verify(pack(source, backend, tmp_path))
    assert not list(tmp_path.rglob("*.partial"))


# ---- damage


def flip(file: Path, place: int) -> None:
    """Turn one bit of a file."""
    with file.open("r+b") as handle:
        handle.seek(place)
        byte = handle.read(1)
        handle.seek(place)
        handle.write(bytes([byte[0] ^ 0x10]))


def place_of(files: list[Path], payload: bytes) -> tuple[Path, int]:
    """The one file that holds ``payload``, and where."""
    found = [(file, place) for file in files if (place := file.read_bytes().find(payload)) >= 0]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("backend", "codec"), [case for case in CASES if case[0] != "hdf5_gzip"])
def test_verify_finds_a_flipped_bit_of_a_picture(backend: str, codec: CodecName, tmp_path: Path) -> None:
    """One bit of one payload is found, in every format."""
    wanted = expected(codec, counts={"train": 5, "val": 2})
    store = pack(wanted.source, backend, tmp_path, codec=codec)
    payload = wanted.payloads["val"][1]
    file, place = place_of([file for file in store.root.rglob("*") if file.is_file()], payload)
    flip(file, place + len(payload) // 2)
    with pytest.raises(VerificationFailed, match="val: content digest") as caught:
        verify(open_store(store.root))
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("backend", ["memory", "filesystem", "mmap", "hdf5", "hdf5_gzip"])
def test_damage_anywhere_is_found_or_does_no_harm(backend: str, codec: CodecName, tmp_path: Path) -> None:
    """Bits turned anywhere in a store's files either change nothing that is read or are one of Loadstone's own errors."""
    if codec == "jpeg" and backend == "hdf5_gzip":
        codec = "raw"
    wanted = expected(codec, differing=True, counts={"train": 5, "val": 2})
    store = pack(wanted.source, backend, tmp_path, codec=codec)
    files = sorted(file for file in store.root.rglob("*") if file.is_file())
    draws = random.Random(0)
    harmless = 0
    for _ in range(250):
        file = draws.choice(files)
        place = draws.randrange(min(file.stat().st_size, 4096))
        flip(file, place)
        harmless += is_harmless(store.root)
        flip(file, place)
    verify(open_store(store.root))
    assert harmless < 250


def is_harmless(root: Path) -> bool:
    """Whether a store is read as it was packed; any error that is not Loadstone's own is raised."""
    told = ""
    try:
        store = open_store(root)
        verify(store)
        out = np.empty((5, 16, 16, 3), np.uint8)
        store.reader("train").read(np.arange(5), out, Draws(0, 0, training=False))
    except LoadstoneError as error:
        told = str(error)
    assert len(told.splitlines()) <= 1
    return not told


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


@pytest.mark.parametrize("left", [0, 1, 100, 1000])
@pytest.mark.parametrize(("backend", "file"), [("mmap", "train.bin"), ("memory", "train.bin"), ("hdf5", "store.h5")])
def test_a_file_cut_short_is_corrupt(backend: str, file: str, left: int, tmp_path: Path) -> None:
    """A truncated file is a StoreCorrupt at the first read, and a VerificationFailed or StoreCorrupt of verify."""
    store = pack(SMALL, backend, tmp_path)
    cut(store.root / file, left)
    with pytest.raises(StoreCorrupt) as caught:
        open_store(store.root).reader("train").payloads(np.array([0]))
    assert caught.value.exit_status == 4
    with pytest.raises((VerificationFailed, StoreCorrupt)):
        verify(open_store(store.root))


@pytest.mark.parametrize("left", [0, 5, 14, 40])
def test_a_picture_file_cut_short_is_a_corrupt_sample(left: int, tmp_path: Path) -> None:
    """A truncated file of the filesystem store names its sample."""
    store = pack(SMALL, "filesystem", tmp_path)
    file = next((store.root / "train").rglob("00000004.ppm"))
    cut(file, left)
    out = np.empty((2, 12, 10, 3), np.uint8)
    with pytest.raises(SampleCorrupt, match="sample 4 of train") as caught:
        store.reader("train").read(np.array([0, 4]), out, Draws(0, 0, training=False))
    assert caught.value.index == 4
    with pytest.raises((VerificationFailed, SampleCorrupt)):
        verify(store)


def test_a_missing_picture_file_is_a_corrupt_sample(tmp_path: Path) -> None:
    """A file that was removed is named with its sample."""
    store = pack(SMALL, "filesystem", tmp_path)
    next((store.root / "val").rglob("00000001.ppm")).unlink()
    with pytest.raises(SampleCorrupt, match=r"sample 1 of val: .*00000001\.ppm: No such file"):
        store.reader("val").payloads(np.array([1]))


@pytest.mark.parametrize("name", ["labels", "offsets", "sizes"])
@pytest.mark.parametrize("backend", ["mmap", "memory"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "of another length"])
def test_a_damaged_column_is_corrupt(name: str, backend: str, damage: str, tmp_path: Path) -> None:
    """A column that is missing, empty, cut short or of another length is a StoreCorrupt that names it."""
    wanted = expected("jpeg", differing=True, counts={"train": 5, "val": 2})
    store = pack(wanted.source, backend, tmp_path)
    file = store.root / f"train.{name}.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "of another length":
        np.save(file, np.zeros(9, np.int64))
    else:
        cut(file, 0 if damage == "empty" else file.stat().st_size - 3)
    out = np.empty((1, 16, 16, 3), np.uint8)

    def read() -> None:
        reader = store.reader("train")
        reader.read(np.array([0]), out, Draws(0, 0, training=False))
        assert reader.labels is not None

    with pytest.raises(StoreCorrupt, match=file.name):
        read()


@pytest.mark.parametrize("backend", FILES)
def test_a_missing_data_file_is_corrupt(backend: str, tmp_path: Path) -> None:
    """A store whose pictures are gone is one of Loadstone's errors, not a traceback."""
    store = pack(SMALL, backend, tmp_path)
    for path in store.root.iterdir():
        if path.name != "manifest.json" and path.suffix != ".npy":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((StoreCorrupt, SampleCorrupt)):
        open_store(store.root).reader("train").payloads(np.array([0]))
    with pytest.raises((VerificationFailed, StoreCorrupt, SampleCorrupt)):
        verify(open_store(store.root))


def test_no_store_is_missing(tmp_path: Path) -> None:
    """A folder that is not there is a StoreMissing."""
    with pytest.raises(StoreMissing, match="holds no store; make one with `loadstone pack`"):
        open_store(tmp_path / "nothing")


def test_a_store_without_a_manifest_is_incomplete(tmp_path: Path) -> None:
    """A store whose packing never finished is a StoreIncomplete."""
    store = pack(SMALL, "mmap", tmp_path)
    (store.root / "manifest.json").unlink()
    with pytest.raises(StoreIncomplete, match="was never finished"):
        open_store(store.root)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(version: object, tmp_path: Path) -> None:
    """A store of another format version says which, and how to pack it again; packing replaces it."""
    store = pack(SMALL, "mmap", tmp_path)
    file = store.root / "manifest.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**fields, "format_version": version}), encoding="utf-8")
    with pytest.raises(StoreVersion, match=r"is of format version .*, this is 1; pack it again") as caught:
        open_store(store.root)
    assert caught.value.found == version
    verify(pack(SMALL, "mmap", tmp_path))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", "{}", '{"format_version": 1}', '{"format_version": 1, "backend": 3}', "\x00\xff" * 9]
)
def test_a_damaged_manifest_is_corrupt(text: str, tmp_path: Path) -> None:
    """A manifest that can't be read as one is a StoreCorrupt."""
    store = pack(SMALL, "mmap", tmp_path)
    (store.root / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreCorrupt, match="its manifest"):
        open_store(store.root)


def test_an_unknown_field_of_a_manifest_is_refused(tmp_path: Path) -> None:
    """What this version does not know, it does not overlook."""
    store = pack(SMALL, "mmap", tmp_path)
    file = store.root / "manifest.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**fields, "encrypted": True}), encoding="utf-8")
    with pytest.raises(StoreCorrupt, match="1 wrong fields"):
        open_store(store.root)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A code path asked for by name is one of the backend's."""
    store = pack(SMALL, "hdf5", tmp_path)
    with pytest.raises(UnknownName, match=r"no path of hdf5 is called 'ofset'; did you mean 'offset'"):
        open_store(store.root, path="ofset")
    assert isinstance(open_store(store.root, path="offset"), Store)
