"""``loadstone pack`` and ``loadstone verify``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from bench.running.prepare import Place
from bench.running.progress import packing, plain_console
from datasets.errors import Unavailable, UsageError
from datasets.registry import open_source
from loaders import registry
from loaders.manifest import CodecName, Manifest
from loaders.pack import open_store, pack, verify


def pack_all(dataset: str, backends: Sequence[str], codec: CodecName | None, force: bool, place: Place) -> None:
    """Pack a data set into a store for each backend, and say where each stands.

    Raises:
        UnknownName: a data set or backend. Unavailable: a backend can't run here. DataError: the data set can't be used.
    """
    console = plain_console()
    for backend in backends:
        registry.check_name(backend, None)
    source = open_source(dataset, place.data_dir, allow_unverified=place.allow_unverified)
    with server(place, needed="postgres" in backends):
        for backend in backends:
            found = registry.availability(backend)
            if not found.ok:
                raise Unavailable(backend, found.reason, found.remedy)
            takes = registry.store_class(backend).codecs
            if (codec or source.info.codec) not in takes:
                what = f"{backend} holds {' or '.join(takes)}, not {codec or source.info.codec}"
                raise UsageError(f"{what}; add --codec {takes[0]}")
            dsn = place.postgres if backend == "postgres" else None
            with packing(console, f"packing {source.info.name} as {backend}", sum(source.info.counts.values())) as progress:
                store = pack(source, backend, place.stores, codec=codec, server=dsn, force=force, progress=progress)
            manifest = Manifest.read(store.root)
            size = f"{manifest.store_bytes / 2**20:,.1f} MiB in {manifest.pack_seconds:.1f} s"
            console.print(f"{store.root}: {store.content.dataset}, {store.content.codec}, {size}")


def verify_all(roots: Sequence[Path], place: Place) -> None:
    """Read stores back and compare them with their manifests.

    Raises:
        VerificationFailed: one holds something else. DataError: one can't be read.
    """
    console = plain_console()
    manifests = [Manifest.read(root) for root in roots]
    with server(place, needed=any(manifest.backend == "postgres" for manifest in manifests)):
        for root, manifest in zip(roots, manifests, strict=True):
            dsn = place.postgres if manifest.backend == "postgres" else None
            total = sum(manifest.content.counts.values())
            with packing(console, f"reading {root}", total) as progress:
                verify(open_store(root, server=dsn), progress)
            console.print(f"{root}: {total:,} samples, as packed")


def server(place: Place, *, needed: bool) -> contextlib.AbstractContextManager[object]:
    """The embedded server while it is needed, where the user names no other."""
    if not needed or place.postgres is not None:
        return contextlib.nullcontext()
    from loaders.postgres_server import EmbeddedServer

    return EmbeddedServer(place.stores)
