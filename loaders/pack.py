"""Source to store: one way for every backend, one pass over the source, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datasets.errors import DataError, DatasetCorrupt, RoomError, StoreCorrupt, Unavailable, UnknownName, VerificationFailed
from datasets.source import SPLITS, Source
from loaders import codec as codecs
from loaders.manifest import PARTIAL, CodecName, Content, Manifest, SplitManifest
from loaders.registry import store_class
from loaders.store import Reader, Sample, Store

Progress = Callable[[int], None]
"""Called with the number of samples that have gone by since the last call."""

_LIBRARIES = ("loadstone", "numpy", "h5py", "psycopg", "pillow", "simplejpeg")
_PEERS = ("ffcv", "litdata", "lmdb", "pyarrow", "webdataset", "zarr")


def location(stores: Path, content: Content, backend: str, server: str | None = None) -> Path:
    """Where a store stands: ``stores/<data set>/<codec>/<backend>``; a server of the user's own has its own place."""
    name = backend if server is None else f"{backend}@{hashlib.sha256(_without_password(server)).hexdigest()[:8]}"
    return stores / slug(content.dataset) / content.codec / name


def slug(text: str) -> str:
    """A name as a folder: ``cifar10 (part)`` becomes ``cifar10-part``."""
    return re.sub(r"[^A-Za-z0-9~_.]+", "-", text).strip("-.") or "unnamed"


def _without_password(server: str) -> bytes:
    return re.sub(r"password=\S+|:[^:@/]*@", "", server).encode()


class ContentDigest:
    """SHA-256 over every sample, in order: label (int64, little-endian), payload length (uint64), payload."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.count = 0
        self.payload_bytes = 0

    def add(self, label: int, payload: codecs.Buffer) -> None:
        """Take in one sample."""
        self._sha.update(struct.pack("<qQ", label, len(payload)))
        self._sha.update(payload)  # type: ignore[arg-type] # NumPy's stubs of Python 3.11 lack the buffer protocol
        self.count += 1
        self.payload_bytes += len(payload)

    def manifest(self) -> SplitManifest:
        """What was taken in."""
        return SplitManifest(count=self.count, payload_bytes=self.payload_bytes, content_sha256=self._sha.hexdigest())


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
        versions=_versions(),
    ).write(store.root)


def _fill_split(store: Store, source: Source, split: str, progress: Progress) -> SplitManifest:
    wanted = store.content.counts[split]
    if wanted == 0:
        raise DatasetCorrupt(source.info.name, Path(split), "it has no examples")
    digest = ContentDigest()
    store.write(split, _samples(store, source, split, digest, progress))
    if digest.count != wanted:
        raise DatasetCorrupt(source.info.name, Path(split), f"{digest.count} examples where {wanted} belong")
    return digest.manifest()


def _samples(store: Store, source: Source, split: str, digest: ContentDigest, progress: Progress) -> Iterator[Sample]:
    content = store.content
    wanted = content.counts[split]
    for index, example in enumerate(source.examples(split)):
        if index == wanted:
            raise DatasetCorrupt(source.info.name, Path(split), f"more than the {wanted} examples that belong")
        try:
            payload, height, width = codecs.encode(content.codec, example, content.channels)
        except codecs.UndecodableError as error:
            raise DatasetCorrupt(source.info.name, Path(source.where(split, index)), str(error)) from error
        if content.shape is not None and (height, width) != content.shape[:2]:
            what = f"{height} x {width} pixels where {content.shape[0]} x {content.shape[1]} belong"
            raise DatasetCorrupt(source.info.name, Path(source.where(split, index)), what)
        digest.add(example.label, payload)
        progress(1)
        yield Sample(payload, example.label, height, width)


def _versions() -> dict[str, str]:
    found = {}
    for library in (*_LIBRARIES, *_PEERS):
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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
    labels = reader.labels
    for start in range(0, len(reader), 256):
        indices = np.arange(start, min(start + 256, len(reader)))
        for index, payload in zip(indices, reader.payloads(indices), strict=True):
            digest.add(int(labels[index]), payload)
        progress(len(indices))
    return digest.manifest()
