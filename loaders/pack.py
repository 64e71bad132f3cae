"""Source to store: one way for every backend, one pass over the source, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datasets.errors import DataError, DatasetCorrupt, RoomError, StoreCorrupt, Unavailable, UnknownName, VerificationFailed
from datasets.source import SPLITS, Block, Source
from loaders import versions
from loaders.encoding import Beside, ContentDigest, Damaged, Encoder
from loaders.manifest import PARTIAL, CodecName, Content, Manifest, SplitManifest
from loaders.registry import store_class
from loaders.store import Reader, Sample, Store

Progress = Callable[[int], None]
"""Called with the number of samples that have gone by since the last call."""


def location(stores: Path, content: Content, backend: str, server: str | None = None) -> Path:
    """Where a store stands: ``stores/<data set>/<codec>/<backend>``; a server of the user's own has its own place."""
    name = backend if server is None else f"{backend}@{hashlib.sha256(_without_password(server)).hexdigest()[:8]}"
    return stores / slug(content.dataset) / content.codec / name


def slug(text: str) -> str:
    """A name as a folder: ``cifar10 (part)`` becomes ``cifar10-part``."""
    return re.sub(r"[^A-Za-z0-9~_.]+", "-", text).strip("-.") or "unnamed"


def _without_password(server: str) -> bytes:
    return re.sub(r"password=\S+|:[^:@/]*@", "", server).encode()


def pack(
    source: Source,
    backend: str,
    stores: Path,
    *,
    codec: CodecName | None = None,
    server: str | None = None,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Store:
    """Write ``source`` as a store of ``backend`` below ``stores``, or find it there as it was packed before.

    Args:
        source: read once, in order.
        backend: a name of the registry.
        stores: the folder of all stores.
        codec: how pictures are held; None is the source's own.
        server: for a database, the DSN of a server of the user's own; None is the embedded one of ``stores``.
        force: pack anew whatever is there.
        progress: told of samples as they go by.

    Raises:
        UnknownName: no such backend, or a codec that it does not take. Unavailable: it can't run here.
        DatasetCorrupt: the source's files are damaged. RoomError: no room, or no permission.
        DatabaseError: the server can't be used.
    """
    kind = store_class(backend)
    content = Content.of(source.info, codec or source.info.codec)
    if content.codec not in kind.codecs:
        raise UnknownName(f"codec of {backend}", content.codec, kind.codecs)
    if reason := kind.refuses(content):
        raise Unavailable(backend, reason)
    root = location(stores, content, backend, server)
    with _room(stores), _lock(root):
        partial = root.with_name(root.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)  # what a killed packing left
        if not force and (found := _current(kind, root, content, server)):
            return found
        partial.mkdir(parents=True)
        store = kind(partial, content, server=server)
        try:
            _fill(store, source, progress)
        except BaseException:
            store.remove()
            raise
        store.publish(root)
        return store


def _current(kind: type[Store], root: Path, content: Content, server: str | None) -> Store | None:
    """The finished store at ``root`` if it holds ``content`` as it is now."""
    try:
        manifest = Manifest.read(root)
    except DataError:
        return None
    store = kind(root, manifest.content, server=server)
    return store if manifest.content == content and store.present() else None


def _fill(store: Store, source: Source, progress: Progress) -> None:
    started = time.perf_counter()
    splits = {split: _fill_split(store, source, split, progress) for split in SPLITS}
    seconds = time.perf_counter() - started
    Manifest(
        backend=store.name,
        content=store.content,
        splits=splits,
        store_bytes=store.store_bytes(),
        pack_seconds=seconds,
        options=store.options,
        versions=versions.installed(versions.STORED),
    ).write(store.root)


def _fill_split(store: Store, source: Source, split: str, progress: Progress) -> SplitManifest:
    wanted = store.content.counts[split]
    if wanted == 0:
        raise DatasetCorrupt(source.info.name, Path(split), "it has no examples")
    with Beside() as beside:
        passing = _Passing(store.content, source, split, progress, beside)
        blocks = source.blocks(split) if store.content.record_bytes is not None else None
        if blocks is not None:
            store.write_blocks(split, passing.blocks(blocks))
        else:
            with Encoder(store.content) as encoder:
                store.write(split, passing.samples(encoder))
    if passing.count != wanted:
        raise DatasetCorrupt(source.info.name, Path(split), f"{passing.count} examples where {wanted} belong")
    return passing.digest.manifest()


class _Passing:
    """A split on its way from source to store: what goes by is checked, counted, told of, and digested beside it."""

    def __init__(self, content: Content, source: Source, split: str, progress: Progress, beside: Beside) -> None:
        self._content, self._source, self._split = content, source, split
        self._progress, self._beside = progress, beside
        self.digest = ContentDigest()
        self.count = 0

    def samples(self, encoder: Encoder) -> Iterator[Sample]:
        """The split's samples, one by one."""
        for group in encoder.groups(self._source.examples(self._split)):
            if isinstance(group, Damaged):
                raise self._corrupt(self._source.where(self._split, group.place), group.what)
            self._pass([sample.label for sample in group], self.digest.add_samples, group)
            yield from group

    def blocks(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The split's pictures, many at a time."""
        for block in blocks:
            found = block.pictures.shape[1:]
            if found != self._content.shape:
                raise self._corrupt(self._split, f"pictures of shape {found} where {self._content.shape} belong")
            self._pass(block.labels, self.digest.add_block, block)
            yield block

    def _pass(self, labels: npt.ArrayLike, add: Callable[..., None], what: object) -> None:
        found, classes = np.asarray(labels), len(self._content.classes)
        wrong = np.flatnonzero((found < 0) | (found >= classes))
        if len(wrong):
            place = self.count + int(wrong[0])
            raise self._corrupt(self._source.where(self._split, place), f"label {found[wrong[0]]}, of {classes} classes")
        self.count += len(found)
        wanted = self._content.counts[self._split]
        if self.count > wanted:
            raise self._corrupt(self._split, f"more than the {wanted} examples that belong")
        self._beside.call(add, what)
        self._progress(len(found))

    def _corrupt(self, where: str, what: str) -> DatasetCorrupt:
        return DatasetCorrupt(self._source.info.name, Path(where), what)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """One packer at a time for a store; the lock dies with its process."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f".{root.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def _room(where: Path) -> Iterator[None]:
    """Say what a full or read-only disk says in one line; h5py tells it in many."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = _no_room(error)
        if code is None:
            raise
        raise RoomError(where, OSError(code, os.strerror(code))) from error


def _no_room(error: BaseException | None) -> int | None:
    """Which of ``_NO_ROOM`` an error, or one that it came from, tells of; h5py tells some only in its text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.errno
        for code in _NO_ROOM:
            if f"errno = {code}," in str(error):
                return code
        error = error.__cause__ or error.__context__
    return None


def open_store(root: Path, *, path: str | None = None, server: str | None = None) -> Store:
    """The finished store at ``root``.

    Raises:
        StoreMissing, StoreIncomplete, StoreVersion, StoreCorrupt: it can't be used. Unavailable: its backend can't run here.
    """
    manifest = Manifest.read(root)
    return store_class(manifest.backend)(root, manifest.content, path=path, server=server)


def verify(store: Store, progress: Progress = lambda _: None) -> None:
    """Read a store back and compare every label and payload with its manifest.

    Raises:
        VerificationFailed: it holds something else. SampleCorrupt, StoreCorrupt: it can't be read.
    """
    manifest = Manifest.read(store.root)
    for split, wanted in manifest.splits.items():
        reader = store.reader(split)
        try:
            found = _read_back(reader, progress)
        except StoreCorrupt as error:
            raise VerificationFailed(store.root, f"{split}: {error.what}") from error
        finally:
            reader.close()
        if found != wanted:
            raise VerificationFailed(
                store.root, f"{split}: content digest {found.content_sha256[:12]}…, not {wanted.content_sha256[:12]}…"
            )


def _read_back(reader: Reader[object], progress: Progress) -> SplitManifest:
    digest = ContentDigest()
    for start in range(0, len(reader), 256):
        indices = np.arange(start, min(start + 256, len(reader)))
        payloads = reader.payloads(indices)
        for label, payload in zip(reader.labels_at(indices), payloads, strict=True):
            digest.add(int(label), payload)
        progress(len(indices))
    return digest.manifest()
