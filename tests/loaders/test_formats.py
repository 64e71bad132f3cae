"""The files are what they say, to other programs: NumPy, Pillow, torchvision, h5py and h5ls."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from datasets.errors import PathRefused, SampleCorrupt, StoreCorrupt
from loaders import hdf5_chunks
from loaders.backends.hdf5 import Hdf5Store
from loaders.codec import Pixels
from loaders.hdf5_chunks import Chunks, compiled_loop
from loaders.order import Draws
from loaders.pack import open_store, pack
from tests.loaders.sources import CLASSES, Expected, decoded, expected

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
COUNTS = {"train": 11, "val": 4}
CIFAR = expected("raw", name="cifar10", size=(32, 32), counts=COUNTS)
PHOTOS = expected("jpeg", name="photos", differing=True, counts=COUNTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores that docs/formats.md reads."""
    made = tmp_path_factory.mktemp("formats")
    for wanted in (CIFAR, PHOTOS):
        for backend in ("mmap", "filesystem", "hdf5"):
            pack(wanted.source, backend, made / "stores")
    return made


def title(block: str) -> str:
    """The store that a block reads."""
    return "-".join(re.findall(r"stores/(\w+)/(\w+)/(\w+)", block)[0])


@pytest.mark.parametrize("block", BLOCKS, ids=title)
def test_the_document_s_code_reads_the_files(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece of Python in docs/formats.md runs as it stands and finds sample 7 of train."""
    monkeypatch.chdir(folder)
    assert "loaders" not in block
    found: dict[str, Any] = {}
    exec(compile(block, str(DOCUMENT), "exec"), found)
    wanted = PHOTOS if "photos" in block else CIFAR
    assert (np.asarray(found["picture"]) == wanted.pictures["train"][7]).all()
    assert found["label"] == wanted.labels["train"][7]
    assert found.get("name", CLASSES[found["label"]]) == CLASSES[found["label"]]


def test_the_document_reads_each_format() -> None:
    """No format that has files of its own is left out."""
    assert {title(block).rpartition("-")[2] for block in BLOCKS} == {"mmap", "filesystem", "hdf5"}
    assert len(BLOCKS) == 8


FORMS: dict[str, tuple[Expected, str]] = {
    "raw": (expected("raw", counts=COUNTS), "ppm"),
    "raw-grey": (expected("raw", channels=1, counts=COUNTS), "pgm"),
    "raw-differing": (expected("raw", differing=True, counts=COUNTS), "ppm"),
    "png": (expected("png", counts=COUNTS), "png"),
    "jpeg": (expected("jpeg", differing=True, counts=COUNTS), "jpg"),
}


@pytest.mark.parametrize("form", FORMS)
def test_image_folder_reads_the_filesystem_store(form: str, tmp_path: Path) -> None:
    """ImageFolder of torchvision finds every picture of a split, with its pixels and its class."""
    wanted, extension = FORMS[form]
    store = pack(wanted.source, "filesystem", tmp_path, codec=wanted.codec)
    for split, count in COUNTS.items():
        folder = ImageFolder(str(store.root / split))
        assert folder.classes == list(CLASSES)
        assert len(folder) == count
        for (path, _), (image, label) in zip(folder.samples, folder, strict=True):
            index = int(Path(path).stem)
            assert Path(path).suffix == f".{extension}"
            assert label == wanted.labels[split][index]
            assert (np.asarray(image) == wanted.pictures[split][index]).all()


def test_png_and_jpeg_files_hold_the_payload_alone(tmp_path: Path) -> None:
    """The files of png and jpeg are the payloads themselves."""
    for form in ("png", "jpeg"):
        wanted, extension = FORMS[form]
        store = pack(wanted.source, "filesystem", tmp_path, codec=wanted.codec)
        file = next((store.root / "val").rglob(f"00000002.{extension}"))
        assert file.read_bytes() == wanted.payloads["val"][2]
        assert file.parent.name == CLASSES[wanted.labels["val"][2]]


@pytest.mark.parametrize("backend", ["hdf5", "hdf5_chunked", "hdf5_gzip"])
@pytest.mark.parametrize("form", ["raw", "raw-grey"])
def test_h5py_reads_pictures_of_one_size(form: str, backend: str, tmp_path: Path) -> None:
    """Images are one dataset of n pictures in the layout that the name says, labels one of n numbers."""
    wanted, _ = FORMS[form]
    store = pack(wanted.source, backend, tmp_path)
    with h5py.File(store.root / "store.h5") as file:
        for split in COUNTS:
            images = file[f"/{split}/images"]
            assert images.dtype == np.uint8
            assert (images[:] == np.stack(wanted.pictures[split])).all()
            assert file[f"/{split}/labels"][:].tolist() == wanted.labels[split]
            assert list(file[f"/{split}"].attrs["classes"]) == list(CLASSES)
            layout = {"hdf5": (None, None), "hdf5_chunked": ((1, *images.shape[1:]), None)}
            assert (images.chunks, images.compression) == layout.get(backend, ((1, *images.shape[1:]), "gzip"))
            assert images.shuffle == (backend == "hdf5_gzip")


@pytest.mark.parametrize(("backend", "form"), [("hdf5", "jpeg"), ("hdf5", "raw-differing"), ("hdf5_gzip", "raw-differing")])
def test_h5py_reads_pictures_of_differing_sizes(backend: str, form: str, tmp_path: Path) -> None:
    """Payloads lie back to back behind their offsets, with sizes beside them."""
    wanted, _ = FORMS[form]
    store = pack(wanted.source, backend, tmp_path)
    with h5py.File(store.root / "store.h5") as file:
        group = file["val"]
        data, offsets, sizes = group["bytes"][:], group["offsets"][:], group["sizes"][:]
    assert sizes.tolist() == [list(pixels.shape[:2]) for pixels in wanted.pictures["val"]]
    for index, pixels in enumerate(wanted.pictures["val"]):
        held = data[offsets[index] : offsets[index + 1]]
        found = decoded(held.tobytes(), 3) if wanted.codec == "jpeg" else held.reshape(pixels.shape)
        assert (found == pixels).all()


def test_many_pictures_share_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 KiB hold as many pictures as fill them, the last one fewer; each is read once a batch."""
    monkeypatch.setattr("loaders.backends.hdf5._SLAB_BYTES", 40_000)  # less than a chunk: none is written in two parts
    wanted = expected("raw", size=(32, 32), counts={"train": 50, "val": 3})
    store = pack(wanted.source, "hdf5_gzip64k", tmp_path)
    with h5py.File(store.root / "store.h5") as file:
        assert (file["/train/images"][:] == np.stack(wanted.pictures["train"])).all()
        assert [file[f"/{split}/images"].chunks for split in ("train", "val")] == [(21, 32, 32, 3), (3, 32, 32, 3)]
    read: list[int] = []
    original = Chunks.read

    def noted(chunks: Chunks, number: int) -> Pixels:
        read.append(number)
        return original(chunks, number)

    monkeypatch.setattr(Chunks, "read", noted)
    indices = np.array([49, 0, 20, 49, 21, 41])
    for loop in (compiled_loop, lambda: None):
        monkeypatch.setattr(hdf5_chunks, "compiled_loop", loop)
        with contextlib.closing(store.reader("train")) as reader:
            out = np.empty((6, 32, 32, 3), np.uint8)
            reader.read(indices, out, Draws(seed=0, epoch=0, training=False))
        assert (out == np.stack(wanted.pictures["train"])[indices]).all()
    assert read == [0, 1, 2], "of the loop in Python"


@pytest.fixture(params=["compiled", "python"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Batches of chunks read by the compiled loop, or without numba."""
    if request.param == "compiled":
        assert compiled_loop() is not None
    else:
        monkeypatch.setattr(hdf5_chunks, "compiled_loop", lambda: None)
        monkeypatch.setattr("loaders.backends.hdf5.compiled_loop", lambda: None)
    return str(request.param)


@pytest.mark.parametrize("backend", ["hdf5_chunked", "hdf5_gzip"])
def test_chunks_are_read_by_either_loop(backend: str, tmp_path: Path, loop: str) -> None:
    """A batch is the same with and without numba, and the path taken says which loop read it."""
    wanted, _ = FORMS["raw"]
    with contextlib.closing(pack(wanted.source, backend, tmp_path).reader("train")) as reader:
        assert f"{'a batch' if loop == 'compiled' else 'a chunk'} a call" in reader.path_taken
        indices = [7, 0, 7, 3]
        assert [bytes(payload) for payload in reader.payloads(np.array(indices))] == [
            wanted.payloads["train"][index] for index in indices
        ]


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize("content", [b"not zlib", zlib.compress(bytes(10))])
def test_a_damaged_chunk_is_named(tmp_path: Path, content: bytes) -> None:
    """A chunk that zlib refuses, or that holds another number of bytes, is an error with the sample's index."""
    wanted, _ = FORMS["raw"]
    store = pack(wanted.source, "hdf5_gzip", tmp_path)
    with h5py.File(store.root / "store.h5", "r+") as file:
        file["/train/images"].id.write_direct_chunk((4, 0, 0, 0), content)
    with contextlib.closing(store.reader("train")) as reader, pytest.raises(SampleCorrupt, match="sample 4 of train"):
        reader.payloads(np.array([1, 4]))


@pytest.mark.parametrize("how", ["missing", "cut short"])
def test_a_chunk_that_is_not_all_there_is_found_when_the_file_is_opened(tmp_path: Path, how: str) -> None:
    """A chunk that was never written, or holds too few bytes to be one that is not compressed."""
    wanted, _ = FORMS["raw"]
    store = pack(wanted.source, "hdf5_gzip", tmp_path)
    with h5py.File(store.root / "store.h5", "r+") as file:
        images = file["/train/images"]
        if how == "cut short":
            images.id.write_direct_chunk((4, 0, 0, 0), bytes(10), filter_mask=0b11)
        else:
            shape, chunks = images.shape, images.chunks
            del file["/train/images"]
            images = file.create_dataset("/train/images", shape, np.uint8, chunks=chunks)
            for number in range(4):
                images.id.write_direct_chunk((number, 0, 0, 0), wanted.payloads["train"][number])
    with (
        contextlib.closing(store.reader("train")) as reader,
        pytest.raises(StoreCorrupt, match="/train: chunk 4 is missing, cut"),
    ):
        reader.payloads(np.array([1]))


@pytest.mark.parametrize("change", [(-1, 0), (0, 1)], ids=["fewer pictures", "larger pictures"])
def test_pictures_of_another_shape_are_refused(tmp_path: Path, change: tuple[int, int]) -> None:
    """What the file holds has to be what the manifest says: batches are written by their address."""
    wanted, _ = FORMS["raw"]
    store = pack(wanted.source, "hdf5_gzip", tmp_path)
    with h5py.File(store.root / "store.h5", "r+") as file:
        count, height, *rest = file["/train/images"].shape
        del file["/train/images"]
        shape = (count + change[0], height + change[1], *rest)
        data = np.zeros(shape, np.uint8)
        file.create_dataset("/train/images", data=data, chunks=(1, *shape[1:]), compression="gzip")
    with contextlib.closing(store.reader("train")) as reader, pytest.raises(StoreCorrupt, match="belongs"):
        reader.payloads(np.array([1]))


def test_more_chunks_than_can_be_looked_up_are_left_to_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a file must not take minutes: beyond a number of chunks h5py reads it, and the way's name is refused."""
    monkeypatch.setattr(hdf5_chunks, "MOST", COUNTS["train"] - 1)
    store = pack(FORMS["raw"][0].source, "hdf5_chunked", tmp_path)
    with contextlib.closing(store.reader("train")) as reader:
        assert reader.path_taken == "h5py"
    with pytest.raises(PathRefused, match="more than"):
        open_store(store.root, path="chunks").reader("train")


def test_a_chunk_whose_filters_were_left_out_is_read(tmp_path: Path) -> None:
    """HDF5 may store a chunk without compressing it, and says so in the chunk's mask."""
    wanted, _ = FORMS["raw"]
    store = pack(wanted.source, "hdf5_gzip", tmp_path)
    with h5py.File(store.root / "store.h5", "r+") as file:
        file["/train/images"].id.write_direct_chunk((4, 0, 0, 0), wanted.payloads["train"][4], filter_mask=0b11)
    with contextlib.closing(store.reader("train")) as reader:
        assert bytes(reader.payloads(np.array([4]))[0]) == wanted.payloads["train"][4]


def test_other_filters_are_left_to_h5py_by_name(tmp_path: Path) -> None:
    """A file that was compressed otherwise is read by h5py, which path_taken says; asked for by name, chunks are refused."""
    wanted, _ = FORMS["raw"]
    store = pack(wanted.source, "hdf5_gzip", tmp_path)
    with h5py.File(store.root / "store.h5", "r+") as file:
        pictures = file["/train/images"][:]
        del file["/train/images"]
        file.create_dataset("/train/images", data=pictures, chunks=(1, *pictures.shape[1:]), compression="lzf")
    with contextlib.closing(open_store(store.root).reader("train")) as reader:
        assert reader.path_taken == "h5py"
        assert bytes(reader.payloads(np.array([4]))[0]) == wanted.payloads["train"][4]
    with pytest.raises(PathRefused, match="compressed otherwise"):
        open_store(store.root, path="chunks").reader("train")


@pytest.mark.parametrize("backend", ["hdf5", "hdf5_chunked"])
def test_columns_are_mapped_not_read(backend: str, tmp_path: Path) -> None:
    """Labels, sizes and offsets stay in the file until they are looked at."""
    store = pack(FORMS["raw-differing"][0].source, backend, tmp_path)
    with contextlib.closing(store.reader("train")) as reader:
        assert isinstance(reader.labels, np.memmap)
        assert isinstance(reader.sizes, np.memmap)
        assert isinstance(reader.offsets, np.memmap)  # type: ignore[attr-defined]


def test_more_than_a_slab_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures written in several slabs lie in their places, in datasets and in bytes."""
    monkeypatch.setattr("loaders.backends.hdf5._SLAB_BYTES", 1000)
    for form in ("raw", "jpeg"):
        wanted, _ = FORMS[form]
        store = pack(wanted.source, "hdf5", tmp_path)
        payloads = store.reader("train").payloads(np.arange(11))
        assert [bytes(payload) for payload in payloads] == wanted.payloads["train"]


def test_nothing_else_lies_in_the_store(tmp_path: Path) -> None:
    """The reserve and the spool of packing are gone: the folder holds the file and the manifest."""
    store = pack(PHOTOS.source, "hdf5", tmp_path)
    assert isinstance(store, Hdf5Store)
    assert sorted(path.name for path in store.root.iterdir()) == ["manifest.json", "store.h5"]


@pytest.mark.skipif(shutil.which("h5ls") is None, reason="h5ls is not installed (Debian: hdf5-tools)")
def test_h5ls_lists_the_file(tmp_path: Path) -> None:
    """HDF5's own tool lists the datasets with their shapes."""
    store = pack(CIFAR.source, "hdf5", tmp_path)
    listed = subprocess.run(["h5ls", "-r", store.root / "store.h5"], capture_output=True, text=True, check=True).stdout
    words = {tuple(line.split(None, 1)) for line in listed.splitlines()}
    assert ("/train/images", "Dataset {11, 32, 32, 3}") in words
    assert ("/val/labels", "Dataset {4}") in words
