"""Packing in threads and in blocks holds what packing one by one held, in the same order."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets.cifar import Cifar10
from datasets.errors import DatasetCorrupt
from datasets.source import Block, Example
from loaders.encoding import Beside, ContentDigest, Damaged, Encoder
from loaders.manifest import CodecName, Content, Manifest
from loaders.pack import pack, verify
from loaders.store import Sample
from tests.loaders.sources import ListSource, encoded, expected, picture

RNG = np.random.default_rng(31)


class BlockSource(ListSource):
    """A source whose pictures come in blocks of five, and not one by one."""

    def examples(self, split: str) -> Iterator[Example]:
        raise AssertionError("blocks were there")

    def blocks(self, split: str) -> Iterator[Block]:
        held = self.lists[split]
        for start in range(0, len(held), 5):
            part = held[start : start + 5]
            yield Block(np.stack([example.picture for example in part]), np.array([example.label for example in part]))


def in_blocks(source: ListSource, **changes: object) -> BlockSource:
    made = BlockSource(source.lists, shape=source.info.shape, channels=source.info.channels)
    made.info = dataclasses.replace(source.info, **changes)  # type: ignore[arg-type]
    return made


def content_of(codec: CodecName, shape: tuple[int, int, int] | None = None) -> Content:
    return Content.of(ListSource({"train": [], "val": []}, shape=shape).info, codec)


# ---- blocks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("backend", ["mmap", "memory", "filesystem", "hdf5", "hdf5_chunked"])
def test_blocks_are_packed_as_examples_are(backend: str, channels: int, tmp_path: Path) -> None:
    """A source's blocks make the same store, with the same digest, as its examples one by one."""
    wanted = expected("raw", channels=channels)
    told: list[int] = []
    store = pack(in_blocks(wanted.source), backend, tmp_path, progress=told.append)
    verify(store)
    for split, manifest in Manifest.read(store.root).splits.items():
        assert manifest.content_sha256 == wanted.content_sha256(split)
        assert manifest.payload_bytes == sum(map(len, wanted.payloads[split]))
        assert store.reader(split).labels.tolist() == list(wanted.labels[split])
    assert sum(told) == 32


@pytest.mark.parametrize(("said", "what"), [(24, "23 examples where 24"), (22, "more than the 22"), (20, "more than the 20")])
def test_blocks_of_another_number_are_refused(said: int, what: str, tmp_path: Path) -> None:
    """Too few and too many pictures in blocks are found, wherever a block ends."""
    with pytest.raises(DatasetCorrupt, match=what):
        pack(in_blocks(expected("raw").source, counts={"train": said, "val": 9}), "mmap", tmp_path)
    assert not list(tmp_path.rglob("train.bin"))


def test_blocks_of_another_shape_are_refused(tmp_path: Path) -> None:
    """Pictures turned over take as many bytes, and are refused all the same."""
    with pytest.raises(DatasetCorrupt, match="where"):
        pack(in_blocks(expected("raw").source, shape=(10, 12, 3)), "mmap", tmp_path)


def test_blocks_are_not_asked_for_where_pictures_are_encoded(tmp_path: Path) -> None:
    """PNG is made of examples."""
    with pytest.raises(AssertionError, match="blocks were there"):
        pack(in_blocks(expected("raw").source), "mmap", tmp_path, codec="png")


def test_cifar_s_blocks_are_its_examples(tmp_path: Path) -> None:
    """Blocks of CIFAR-10 hold the examples' pictures and labels, in their order, red, green and blue in their places."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    planes = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        records = RNG.integers(0, 256, (1003, 3073), np.uint8)
        records[:, 0] %= 10
        planes[name] = records
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij"), encoding="utf-8")
    source = Cifar10(tmp_path, allow_unverified=True)
    blocks = list(source.blocks("val"))
    wanted = planes["test_batch"][:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert (np.concatenate([block.pictures for block in blocks]) == wanted).all()
    assert (np.concatenate([block.labels for block in blocks]) == planes["test_batch"][:, 0]).all()
    assert all(block.pictures.flags.c_contiguous for block in blocks)
    for row, example in enumerate(source.examples("val")):
        assert (example.picture == wanted[row]).all()
        assert example.label == planes["test_batch"][row, 0]


# ---- in threads


def test_samples_come_in_the_order_of_their_examples() -> None:
    """However long each takes to encode, groups come in order, and nothing is lost at the end."""
    examples = [Example(picture(RNG, 4 + 40 * (row % 7 == 0), 5, 3), row) for row in range(200)]
    with Encoder(content_of("png")) as encoder:
        groups = list(encoder.groups(iter(examples)))
    samples = [sample for group in groups if not isinstance(group, Damaged) for sample in group]
    assert [sample.label for sample in samples] == list(range(200))


def test_a_source_is_read_no_further_than_threads_can_hold() -> None:
    """Memory stays bounded: the source waits for what was taken of it to be written."""
    asked = 0

    def endless() -> Iterator[Example]:
        nonlocal asked
        while True:
            asked += 1
            yield Example(np.zeros((4, 4, 3), np.uint8), 0)

    cores = len(os.sched_getaffinity(0))
    with Encoder(content_of("raw")) as encoder:
        groups = encoder.groups(endless())
        for taken in range(1, 20):
            group = next(groups)
            assert isinstance(group, list)
            assert asked <= (taken + cores + 3) * len(group)
        groups.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [0, 63, 64, 150, 199])
def test_the_first_damaged_example_is_the_one_named(place: int) -> None:
    """Its index counts over all groups, and of two that are damaged the first is told of."""
    good = encoded(picture(RNG, 12, 10, 3), "JPEG")
    files = [good] * 200
    files[place] = good[: len(good) // 2]
    files[199] = b"\xff\xd8\xff nothing"
    with Encoder(content_of("jpeg", (12, 10, 3))) as encoder:
        groups = encoder.groups(Example(file, 0) for file in files)
        damaged = next(group for group in groups if isinstance(group, Damaged))
    assert damaged.place == place


def test_a_source_that_fails_fails_the_packing(tmp_path: Path) -> None:
    """An error out of the source arrives as it is, and no thread is left behind."""

    class Failing(ListSource):
        def examples(self, split: str) -> Iterator[Example]:
            yield from self.lists[split][:3]
            raise DatasetCorrupt("shapes", Path("a file"), "is gone")

    source = expected("jpeg").source
    before = threading.active_count()
    with pytest.raises(DatasetCorrupt, match="a file: is gone"):
        pack(Failing(source.lists, shape=source.info.shape, codec="jpeg"), "mmap", tmp_path)
    assert threading.active_count() == before


# ---- the digest


def test_digests_agree_however_samples_come() -> None:
    """One by one, in groups and in blocks: one digest, count and number of bytes."""
    pictures, labels = RNG.integers(0, 256, (7, 4, 3, 3), np.uint8), np.array([0, 5, 2, 1 << 40, 1, 0, 9])
    samples = [Sample(each.tobytes(), int(label), 4, 3) for each, label in zip(pictures, labels, strict=True)]
    one, two, three = ContentDigest(), ContentDigest(), ContentDigest()
    for sample in samples:
        one.add(sample.label, sample.payload)
    two.add_samples(samples[:4])
    two.add_samples(samples[4:])
    three.add_block(Block(pictures[:2], labels[:2]))
    three.add_block(Block(pictures[2:], labels[2:]))
    assert one.manifest() == two.manifest() == three.manifest()
    assert (one.count, one.payload_bytes) == (7, 7 * 36)


def test_what_is_done_beside_is_done_in_order_and_its_errors_arrive() -> None:
    """Calls are made one after the other, all of them before the end, and none fails unseen."""
    made: list[int] = []
    with Beside() as beside:
        for number in range(50):
            beside.call(made.append, number)
    assert made == list(range(50))

    def fail() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"), Beside() as beside:
        beside.call(fail)
