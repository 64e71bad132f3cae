"""The contract of a backend, as checks that any store is put to.

``CHECKS`` holds them all. A backend can neither edit nor skip one: where it can't keep a promise, ``DIFFERENCES`` says so
as data, with a reason that was measured, and the check must then really fail.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

import loaders.backends
from loaders import order
from loaders.codec import Pixels
from loaders.loading import Loader, loader
from loaders.manifest import Manifest
from loaders.order import Draws
from loaders.pack import open_store, verify
from loaders.store import Reader, Store
from tests.loaders.sources import SIDE, Expected

DIFFERENCES: dict[str, dict[str, str]] = {
    "gpu_mmap": {"a_forked_child_reads_by_itself": "CUDA can't be used in a process forked after it was started"},
}
"""Backend -> name of a check -> why the backend can't pass it."""

TRAINING = Draws(seed=5, epoch=2, training=True)
EVALUATION = Draws(seed=5, epoch=2, training=False)

_ELSEWHERE = """
import pickle, sys
import numpy
while True:
    try:
        sys.path[:], backends, request = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        import loaders.backends
        loaders.backends.__path__ = backends
        reader, indices, shape, draws = pickle.loads(request)
        out = numpy.zeros(shape, numpy.uint8)
        reader.read(indices, out, draws)
        answer = out, numpy.asarray(reader.labels[indices])
        reader.close()
    except Exception as error:
        answer = repr(error)
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class Elsewhere:
    """A process that was never forked from this one, and reads by readers that are sent to it; a context manager."""

    def __enter__(self) -> Elsewhere:
        command = [sys.executable, "-c", _ELSEWHERE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate()

    def read(self, reader: Reader[Any], indices: Sequence[int], shape: tuple[int, ...], draws: Draws) -> Any:
        """Pictures and labels as they are read there; an error there as text."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = pickle.dumps((reader, np.array(indices), shape, draws))
        pickle.dump((sys.path, list(loaders.backends.__path__), request), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


@dataclass(frozen=True)
class Subject:
    """A store, and what it has to hand over.

    Attributes:
        elsewhere: another process.
    """

    store: Store
    expected: Expected
    elsewhere: Elsewhere

    def reopen(self) -> Store:
        """The store, opened anew by its folder; one that is not what the manifest names, by its class."""
        if Manifest.read(self.store.root).backend != self.store.name:
            return type(self.store)(self.store.root, self.store.content)
        return open_store(self.store.root, path=self.store.path, server=self.store.server)

    @contextlib.contextmanager
    def reader(self, split: str = "train") -> Iterator[Reader[Any]]:
        """A reader, closed afterwards."""
        with contextlib.closing(self.store.reader(split)) as reader:
            yield reader

    def load(self, split: str = "train", **options: Any) -> Loader:
        """The store's loader."""
        return loader(self.store, split, batch_size=8, seed=5, image_size=SIDE, **options)

    def read(self, reader: Reader[Any], indices: Sequence[int], draws: Draws = TRAINING) -> Pixels:
        """What ``reader`` fills a batch with that held something else before."""
        out = np.full((len(indices), *self.expected.shape), 0xAA, np.uint8)
        reader.read(np.array(indices, dtype=np.int64), out, draws)
        return out

    def same(self, reader: Reader[Any], indices: Sequence[int], why: str, draws: Draws = TRAINING) -> None:
        """Assert that the pictures at ``indices`` come as expected."""
        assert_equal(self.read(reader, indices, draws), self.expected.batch(reader.split, indices, draws), why)


def assert_equal(found: Any, wanted: Any, why: str) -> None:
    """Assert that two arrays have the same elements; ``why`` tells the backend's author what to look at."""
    assert np.shape(found) == np.shape(wanted), f"{why}: shape {np.shape(found)}, not {np.shape(wanted)}"
    rows = [row for row in range(len(wanted)) if not np.array_equal(found[row], wanted[row])]
    assert not rows, f"{why}: rows {rows} of {len(wanted)} differ"


Check = Callable[[Subject], None]
CHECKS: list[Check] = []


def _check(function: Check) -> Check:
    CHECKS.append(function)
    return function


@_check
def order_is_the_one_asked_for(subject: Subject) -> None:
    """A batch follows the order asked for, even where an index is asked for twice, and whichever was asked for before."""
    with subject.reader() as reader:
        for indices in ([3, 17, 0, 3, 22, 1, 0], list(range(22, -1, -1)), list(range(23))):
            subject.same(reader, indices, "read() has to fill out[row] with the picture at indices[row]")


@_check
def a_single_picture_is_read(subject: Subject) -> None:
    """A batch of one is a batch: fetch="item" asks for nothing else."""
    with subject.reader() as reader:
        for index in (22, 0, 11):
            subject.same(reader, [index], "read() of one index")


@_check
def splits_are_kept_apart(subject: Subject) -> None:
    """Index 0 of ``val`` is the first of ``val``, and its last is the last."""
    with subject.reader("val") as reader:
        assert len(reader) == 9, "len(reader) has to be the split's count"
        subject.same(reader, [8, 0, 4], "the split's own pictures are wanted")


@_check
def both_crops_are_drawn_as_asked(subject: Subject) -> None:
    """Where sizes differ, training and evaluation cut as ``draws`` says; where they don't, draws change nothing."""
    with subject.reader() as reader:
        for draws in (TRAINING, EVALUATION, Draws(seed=6, epoch=0, training=True)):
            subject.same(reader, [2, 9, 2], "pass draws on to sizing.fit()", draws)


@_check
def labels_are_the_source_s(subject: Subject) -> None:
    """Labels come back as int64, one a sample, in the order of the source."""
    for split, wanted in subject.expected.labels.items():
        with subject.reader(split) as reader:
            assert reader.labels.dtype == np.int64, "labels have to be int64"
            assert_equal(np.asarray(reader.labels), wanted, f"labels of {split}")


@_check
def sizes_are_the_pictures_own(subject: Subject) -> None:
    """Where sizes differ, each sample's height and width come back as int32."""
    if subject.store.content.shape is not None:
        return
    with subject.reader() as reader:
        assert reader.sizes.dtype == np.int32, "sizes have to be int32"
        wanted = [pixels.shape[:2] for pixels in subject.expected.pictures["train"]]
        assert_equal(np.asarray(reader.sizes), wanted, "sizes are (height, width)")


@_check
def payloads_are_the_codec_s_bytes(subject: Subject) -> None:
    """Payloads come back byte for byte, in the order asked for."""
    indices = [5, 22, 5, 0, 13]
    with subject.reader() as reader:
        found = [bytes(payload) for payload in reader.payloads(np.array(indices))]
    assert found == [subject.expected.payloads["train"][index] for index in indices], "payloads() differ from what was packed"


@_check
def the_content_digest_is_the_source_s(subject: Subject) -> None:
    """The manifest's digest equals one computed straight from the source's examples."""
    splits = Manifest.read(subject.store.root).splits
    for split, manifest in splits.items():
        assert manifest.content_sha256 == subject.expected.content_sha256(split), f"content_sha256 of {split}"
        assert manifest.count == len(subject.expected.labels[split]), f"count of {split}"


@_check
def verifying_passes(subject: Subject) -> None:
    """All that was packed is read back as it was packed."""
    try:
        verify(subject.store)
    except Exception as error:
        raise AssertionError(f"verify() refuses a store that was just packed: {error}") from error


@_check
def channels_are_red_green_blue(subject: Subject) -> None:
    """Colour comes as RGB: red is bright in every test picture, and blue dark; grey comes as one channel."""
    with subject.reader() as reader:
        means = subject.read(reader, range(23)).mean(axis=(0, 1, 2))
    if subject.store.content.channels == 1:
        assert len(means) == 1, "grey has one channel"
    else:
        red, green, blue = means
        assert red > green > blue, f"channels are not in the order RGB: means {means.round()}"


@_check
def a_batch_owns_its_bytes(subject: Subject) -> None:
    """A batch stays as it is when others are read after it and when the reader is closed."""
    with subject.reader() as reader:
        indices = [1, 4, 19]
        first = subject.read(reader, indices)
        subject.read(reader, [7, 7, 7])
        subject.read(reader, [2, 0, 8])
    reader.close()
    assert_equal(first, subject.expected.batch("train", indices, TRAINING), "out changed after read() had returned")


@_check
def nothing_beside_the_batch_is_written(subject: Subject) -> None:
    """``out`` may be a part of a larger array, of which the rest is left alone."""
    around = np.full((5, *subject.expected.shape), 0xAA, np.uint8)
    with subject.reader() as reader:
        reader.read(np.array([6, 16]), around[2:4], TRAINING)
    assert_equal(around[2:4], subject.expected.batch("train", [6, 16], TRAINING), "out as a slice of a larger array")
    assert (around[[0, 1, 4]] == 0xAA).all(), "read() wrote outside of out"


@_check
def an_index_outside_is_refused(subject: Subject) -> None:
    """An index below 0 or past the end is an IndexError, whichever way it is asked for; no other sample is handed out."""
    with subject.reader("val") as reader:
        for index in (-1, 9, 10_000):
            for ask in (lambda at: reader.payloads(np.array(at)), lambda at: subject.read(reader, at)):
                try:
                    ask([0, index])
                except IndexError:
                    continue
                raise AssertionError(f"index {index} of 9 samples was served; see loaders.mapping.check_bounds")
        subject.same(reader, [8, 0], "the reader goes on after it has refused an index")


@_check
def a_closed_reader_opens_again(subject: Subject) -> None:
    """After ``close`` the next read opens the store again; closing twice is no error."""
    with subject.reader() as reader:
        subject.same(reader, [0, 5], "the first read")
        reader.close()
        reader.close()
        subject.same(reader, [22, 6], "a read after close()")


@_check
def a_store_opened_anew_reads_the_same(subject: Subject) -> None:
    """The folder alone tells what is in it."""
    again = subject.reopen()
    assert again.content == subject.store.content, "the manifest's content changed"
    with contextlib.closing(again.reader("train")) as reader:
        subject.same(reader, [20, 1], "a store that was opened anew")


@_check
def two_readers_read_at_once(subject: Subject) -> None:
    """Readers of the same and of another split do not disturb each other, and closing one leaves the others open."""
    with subject.reader("train") as one, subject.reader("val") as two, subject.reader("train") as three:
        subject.same(one, [0, 1], "the first of three readers")
        subject.same(two, [8, 1], "the second of three readers")
        subject.same(three, [9, 9], "the third of three readers")
        one.close()
        subject.same(three, [10, 0], "a reader after another one was closed")
        subject.same(two, [2], "a reader of another split after one was closed")


@_check
def a_forked_child_reads_by_itself(subject: Subject) -> None:
    """A reader that was open before a fork works in the child, and the parent's goes on where it was."""
    with subject.reader() as reader:
        subject.same(reader, [0, 1], "the parent, before the fork")
        child = in_child(lambda: subject.same(reader, [14, 5, 6], "the child"))
        assert child, "a forked child could not read; open handles in the process that reads (Reader.handle)"
        subject.same(reader, [2, 3], "the parent, after its child has read: does the child use the parent's handle?")

        def read_and_close() -> None:
            subject.same(reader, [4], "the child")
            reader.close()

        child = in_child(read_and_close)
        assert child, "a forked child could not read and close"
        subject.same(reader, [5, 6], "the parent, after its child has closed the reader")


@_check
def a_reader_travels_to_another_process(subject: Subject) -> None:
    """An open reader pickles as its location and opens anew where it arrives, in a process that was not forked."""
    indices = [21, 0, 3]
    with subject.reader() as reader:
        subject.read(reader, [1])
        assert reader.labels is not None
        answer = subject.elsewhere.read(reader, indices, (3, *subject.expected.shape), TRAINING)
        assert not isinstance(answer, str), f"a pickled reader could not read elsewhere: {answer}"
        assert len(pickle.dumps(reader)) < 5000, "a reader has to pickle as its location, not with what it has read"
    assert_equal(answer[0], subject.expected.batch("train", indices, TRAINING), "pictures read by a pickled reader")
    assert_equal(answer[1], [subject.expected.labels["train"][index] for index in indices], "labels of a pickled reader")


@_check
def the_path_taken_is_named(subject: Subject) -> None:
    """Which code path serves the reads is said in words, and is the one that was asked for by name."""
    with subject.reader() as reader:
        subject.read(reader, [0])
        assert reader.path_taken.strip(), "path_taken has to name the code path"
        assert (subject.store.path or "") in reader.path_taken, f"{reader.path_taken!r} is not {subject.store.path!r}"


@_check
def the_last_batch_is_delivered(subject: Subject) -> None:
    """An epoch delivers every sample once: 23 of them in batches of 8, 8 and 7."""
    with subject.load(shuffle=False) as batches:
        found = list(batches)
        assert len(batches) == 3, "len(loader) counts the last batch"
        assert [len(batch.images) for batch in found] == [8, 8, 7], "the last batch, which is smaller, has to be delivered"
    indices = [index for batch in found for index in batch.indices]
    assert indices == list(range(23)), "without a shuffle, samples come in the order of the source"


@_check
def loaders_follow_the_order_whatever_reads(subject: Subject) -> None:
    """Pictures and labels come in ``loaders.order``'s order, by workers and threads, by item and by batch, in each epoch."""
    for fetch in ("item", "batch"):
        for engine, workers in (("torch", 0), ("torch", 2), ("threads", 2), ("stream", 0)):
            if engine not in subject.store.engines:
                continue
            with subject.load(engine=engine, fetch=fetch, workers=workers) as batches:
                for epoch in (0, 1):
                    _assert_epoch(subject, list(batches), epoch, f"{engine}, {fetch}, workers={workers}, epoch {epoch}")


@_check
def twins_read_at_once(subject: Subject) -> None:
    """A reader and its twins serve a thread each, all at the same time; closing one leaves the others reading."""
    with subject.reader() as reader, ThreadPoolExecutor(3) as threads:
        readers = [reader, reader.twin(), reader.twin()]
        draws = [Draws(seed=5, epoch=epoch, training=True) for epoch in range(30)]
        parts = [order.order(23, 5, epoch)[:8] for epoch in range(30)]

        def read(which: int) -> list[Pixels]:
            return [subject.read(readers[which], list(parts[at]), draws[at]) for at in range(which, 30, 3)]

        for which, found in enumerate(threads.map(read, range(3))):
            for at, pixels in zip(range(which, 30, 3), found, strict=True):
                wanted = subject.expected.batch("train", list(parts[at]), draws[at])
                assert_equal(pixels, wanted, "a twin shares something that serves one thread only")
        readers[1].close()
        subject.same(readers[2], [3, 1], "closing a twin closed what another one reads by")
        readers[2].close()


def _assert_epoch(subject: Subject, batches: Sequence[Any], epoch: int, which: str) -> None:
    wanted = order.order(23, 5, epoch)
    draws = Draws(seed=5, epoch=epoch, training=True)
    assert_equal(np.concatenate([batch.indices for batch in batches]), wanted, f"{which}: order")
    labels = np.concatenate([batch.labels.cpu().numpy() for batch in batches])
    assert_equal(labels, np.array(subject.expected.labels["train"])[wanted], f"{which}: labels")
    images = np.concatenate([batch.images.permute(0, 2, 3, 1).cpu().numpy() for batch in batches])
    assert_equal(images, subject.expected.batch("train", list(wanted), draws), f"{which}: pictures")


def in_child(work: Callable[[], object]) -> bool:
    """Whether ``work`` ended without an error in a forked child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def failures(subject: Subject) -> dict[str, str]:
    """The checks that a store does not pass, and what each says."""
    found = {}
    for check in CHECKS:
        try:
            check(subject)
        except AssertionError as error:
            found[check.__name__] = str(error)
    return found
