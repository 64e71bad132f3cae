"""A batch decoded in one call gives what a picture at a time gives: the same pixels, and the same refusals."""

from __future__ import annotations

import io
import random
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import PathRefused, SampleCorrupt
from datasets.source import Example
from loaders import decoding, turbojpeg
from loaders.codec import Buffer, Pixels, decode_into
from loaders.decoding import Places
from loaders.loading import loader
from loaders.manifest import Content
from loaders.order import Draws
from loaders.pack import open_store, pack
from loaders.store import Store
from loaders.turbojpeg import Turbo, turbo
from tests.loaders.sources import SIDE, ListSource, decoded, encoded, expected, picture

RNG = np.random.default_rng(5)
EVALUATION = Draws(seed=0, epoch=0, training=False)
TRAINING = Draws(seed=3, epoch=1, training=True)

needs_turbo = pytest.mark.skipif(turbo().decode is None, reason=turbo().words)


def content(channels: int = 3, size: tuple[int, int] = (24, 20)) -> Content:
    return Content.of(ListSource({"train": [], "val": []}, shape=(*size, channels), channels=channels).info, "jpeg")


def filled(files: Sequence[bytes], channels: int = 3, size: tuple[int, int] = (24, 20)) -> tuple[Pixels, list[int]]:
    """What the batch's way makes of JPEG files that should have one size, and the rows that it leaves."""
    out = np.full((len(files), *size, channels), 0xAA, np.uint8)
    left = decoding.fill(content(channels, size), Places.of(files), None, np.arange(len(files)), out, EVALUATION, False)
    return out, list(left)


# ---- equal pixels


@needs_turbo
@pytest.mark.parametrize("size", [(1, 1), (24, 20), (17, 33), (64, 64)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_batch_has_pillow_s_pixels(size: tuple[int, int], subsampling: int, progressive: bool) -> None:
    """Colour JPEG of any subsampling and quality, plain and progressive, is decoded as Pillow does."""
    options = {"subsampling": subsampling, "progressive": progressive}
    files = [encoded(picture(RNG, *size, 3), "JPEG", quality=quality, **options) for quality in (10, 50, 75, 95, 100)]
    out, left = filled(files, size=size)
    assert not left
    assert (out == np.stack([decoded(file, 3) for file in files])).all()


@needs_turbo
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_pictures_have_pillow_s_pixels(channels: int) -> None:
    """Grey JPEG comes as one channel, or as three where the data set is in colour."""
    files = [encoded(picture(RNG, 24, 20, 1), "JPEG") for _ in range(3)]
    out, left = filled(files, channels)
    assert not left
    assert (out == np.stack([decoded(file, channels) for file in files])).all()


@needs_turbo
def test_what_is_damaged_is_taken_or_refused_as_a_single_picture_is() -> None:
    """Bits turned anywhere in a file: what the batch's way takes is what a picture at a time gives; the rest is left."""
    draws, taken = random.Random(1), 0
    whole = [encoded(picture(RNG, 24, 20, 3), "JPEG", quality=80, subsampling=2) for _ in range(4)]
    files = []
    for number in range(400):
        file = bytearray(whole[number % 4])
        for _ in range(draws.randint(1, 3)):
            file[draws.randrange(len(file))] ^= 1 << draws.randrange(8)
        files.append(bytes(file[: draws.randrange(len(file))] if number % 10 == 0 else file))
    out, left = filled(files)
    for row in set(range(len(files))) - set(left):
        wanted = np.empty_like(out[row])
        decode_into("jpeg", files[row], wanted)
        assert (out[row] == wanted).all()
        taken += 1
    assert 20 < taken < 380


@needs_turbo
def test_cmyk_and_other_sizes_are_left_to_be_looked_at() -> None:
    """What would come in other colours, or does not fit, is left, and its neighbours are filled."""
    good = encoded(picture(RNG, 24, 20, 3), "JPEG")
    cmyk = Image.fromarray(picture(RNG, 24, 20, 3)).convert("CMYK")
    files = [good, encoded_cmyk(cmyk), good, encoded(picture(RNG, 20, 24, 3), "JPEG"), b"", good]
    out, left = filled(files)
    assert left == [1, 3, 4]
    assert (out[[0, 2, 5]] == decoded(good, 3)).all()


def encoded_cmyk(image: Image.Image) -> bytes:
    """A CMYK picture as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@needs_turbo
@pytest.mark.parametrize(("start", "length"), [(-1, 10), (0, -1), (0, 1 << 62), (1 << 62, 10), (90, 20), (101, 0)])
def test_places_outside_of_the_data_are_not_looked_at(start: int, length: int) -> None:
    """Offsets out of a damaged column never reach the decoder."""
    out = np.zeros((1, 24, 20, 3), np.uint8)
    places = Places(np.zeros(100, np.uint8), np.array([start]), np.array([length]))
    assert list(decoding.fill(content(), places, None, np.array([0]), out, EVALUATION, False)) == [0]


@pytest.mark.parametrize(
    "out", [np.zeros((1, 12, 10, 3), np.uint8), np.zeros((2, 12, 10, 6), np.uint8)[..., ::2], np.zeros((2, 12, 10, 3), np.int8)]
)
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_a_batch_that_does_not_fit_is_not_written_to(codec: str, out: Pixels, tmp_path: Path) -> None:
    """Too few rows, rows with gaps or another dtype are refused before anything is written by address."""
    store = pack(expected(codec).source, "filesystem", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 pictures can't be put into"):
        store.reader("train").read(np.array([0, 1]), out, EVALUATION)
    assert not out.any()


@needs_turbo
def test_whole_files_are_told_from_damaged_ones() -> None:
    """Packing learns the sizes of sound files, whatever their size, and which ones it has to look at."""
    one, two = (encoded(picture(RNG, *size, 3), "JPEG") for size in ((24, 20), (50, 70)))
    assert list(decoding.whole([one, two[:-200], two, b"no picture"])) == [(24, 20), None, (50, 70), None]
    assert list(decoding.whole([])) == []


def test_places_join_payloads_of_any_kind() -> None:
    """Bytes, views and arrays are laid into one buffer, in order."""
    parts: list[Buffer] = [b"abc", memoryview(b"de"), np.frombuffer(b"fghi", np.uint8), b""]
    places = Places.of(parts)
    assert [bytes(places.payload(row)) for row in range(4)] == [b"abc", b"de", b"fghi", b""]


# ---- readers


@pytest.fixture(params=["turbo", "simplejpeg"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the batch's decoder, and as where it can't be had."""
    if request.param == "simplejpeg":
        monkeypatch.setattr(decoding, "turbo", lambda: Turbo(None, "numba is not installed: pip install numba pylibjxl"))
    elif turbo().decode is None:
        pytest.skip(turbo().words)
    return str(request.param)


@pytest.mark.parametrize("backend", ["mmap", "filesystem", "hdf5"])
def test_a_damaged_picture_is_named_by_its_index(way: str, backend: str, tmp_path: Path) -> None:
    """Amid a batch, a picture that was cut short after it was packed is a SampleCorrupt with its index."""
    wanted = expected("jpeg", counts={"train": 9, "val": 2})
    store = pack(wanted.source, backend, tmp_path)
    payload = wanted.payloads["train"][5]
    (file,) = [each for each in store.root.rglob("*") if each.is_file() and payload in each.read_bytes()]
    data = file.read_bytes()
    file.write_bytes(data.replace(payload, payload[: len(payload) // 2] + bytes(len(payload) - len(payload) // 2)))
    with pytest.raises(SampleCorrupt, match="sample 5 of train") as caught:
        store.reader("train").read(np.array([8, 5, 0]), np.empty((3, *wanted.shape), np.uint8), EVALUATION)
    assert caught.value.index == 5


@pytest.mark.parametrize("kind", ["one size", "differing"])
def test_the_way_of_decoding_changes_no_pixel_and_is_named(way: str, kind: str, tmp_path: Path) -> None:
    """With and without the batch's decoder a loader delivers Pillow's pixels, and says which one served."""
    wanted = expected("jpeg", differing=kind == "differing")
    store = pack(wanted.source, "mmap", tmp_path)
    with loader(store, batch_size=23, shuffle=False, image_size=SIDE, seed=3) as batches:
        batches.set_epoch(1)
        (batch,) = batches
        assert ("libjpeg-turbo of" if way == "turbo" else "simplejpeg, a picture a call (numba") in batches.path_taken
    found = batch.images.permute(0, 2, 3, 1).numpy()
    assert (found == wanted.batch("train", range(23), TRAINING)).all()


@needs_turbo
def test_threads_decode_at_once(tmp_path: Path) -> None:
    """Readers in several threads do not disturb each other."""
    wanted = expected("jpeg")
    store = pack(wanted.source, "mmap", tmp_path)
    indices = np.tile(np.arange(23), 20)
    outs = [np.zeros((len(indices), *wanted.shape), np.uint8) for _ in range(4)]
    readers = [store.reader("train") for _ in outs]
    threads = [
        threading.Thread(target=reader.read, args=(indices, out, EVALUATION)) for reader, out in zip(readers, outs, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        assert (out == wanted.batch("train", list(indices), EVALUATION)).all()


@needs_turbo
def test_a_batch_larger_than_the_scratch_is_decoded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for whole pictures stays bounded, and a picture that alone is larger than the bound is decoded too."""
    monkeypatch.setattr(decoding, "_SCRATCH_BYTES", 2000)
    wanted = expected("jpeg", differing=True)
    store = pack(wanted.source, "mmap", tmp_path)
    out = np.zeros((23, *wanted.shape), np.uint8)
    store.reader("train").read(np.arange(23), out, TRAINING)
    assert (out == wanted.batch("train", range(23), TRAINING)).all()


# ---- at a part of the size


def photographs() -> ListSource:
    """Large smooth pictures of differing sizes."""
    train = [
        Example(encoded(np.asarray(Image.fromarray(picture(RNG, 30, 40, 3)).resize((w, h))), "JPEG", quality=92), 0)
        for h, w in ((300, 400), (333, 251), (640, 479), (90, 100))
    ]
    return ListSource({"train": train, "val": train[:1]}, shape=None, codec="jpeg")


def read(store: Store, draws: Draws, side: int) -> Pixels:
    out = np.zeros((4, side, side, 3), np.uint8)
    store.reader("train").read(np.arange(4), out, draws)
    return out


@needs_turbo
@pytest.mark.parametrize("backend", ["mmap", "filesystem", "memory"])
def test_scaled_is_near_to_whole_and_says_so(backend: str, tmp_path: Path) -> None:
    """``scaled`` cuts the same crops out of smaller pictures: a level or two away, not equal, and named in the path taken."""
    whole = pack(photographs(), backend, tmp_path)
    scaled = open_store(whole.root, path="scaled")
    for draws in (EVALUATION, TRAINING):
        one, two = (read(store, draws, 32).astype(int) for store in (whole, scaled))
        assert (one != two).any()
        assert np.abs(one - two).mean() < 2
        assert np.abs(one - two).max() < 32
    with loader(scaled, image_size=32) as batches:
        assert batches.path_taken.endswith(", scaled")
    with loader(whole, image_size=32) as batches:
        assert "scaled" not in batches.path_taken


@needs_turbo
def test_scaled_enlarges_nothing(tmp_path: Path) -> None:
    """Where a crop is not twice as large as what is delivered, it is cut from the whole picture, equal to the last pixel."""
    whole = pack(photographs(), "mmap", tmp_path)
    assert (read(whole, EVALUATION, 250) == read(open_store(whole.root, path="scaled"), EVALUATION, 250)).all()


@pytest.mark.parametrize(("codec", "differing"), [("raw", True), ("jpeg", False)])
def test_scaled_is_refused_where_it_means_nothing(codec: str, differing: bool, tmp_path: Path) -> None:
    """Asked for by name on other data it is an error, not another path silently."""
    store = pack(expected(codec, differing=differing).source, "mmap", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(PathRefused, match="JPEG pictures of differing sizes"):
        open_store(store.root, path="scaled").reader("train")


def test_scaled_is_refused_without_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can decode at a part of the size, the reason and its remedy are said."""
    monkeypatch.setattr(decoding, "turbo", lambda: Turbo(None, "numba is not installed: pip install numba pylibjxl"))
    store = pack(photographs(), "mmap", tmp_path)
    with pytest.raises(PathRefused, match="pip install numba"):
        open_store(store.root, path="scaled").reader("train")


# ---- finding the library


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba's package the decoder is not there, and what would help is said in one line."""
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    found = turbojpeg.turbo.__wrapped__()
    assert found.decode is None
    assert "is not installed: pip install numba" in found.words


@needs_turbo
def test_a_library_without_the_functions_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that lacks the functions, or can't be opened, is no decoder."""
    monkeypatch.setattr(turbojpeg, "_places", lambda: iter([("libc.so.6", "C"), ("/nowhere.so", "nowhere")]))
    found = turbojpeg.turbo.__wrapped__()
    assert found.decode is None
    assert "no libjpeg-turbo" in found.words
