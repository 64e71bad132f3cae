"""The backends: one entry each, imported at first use."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from datasets.errors import Unavailable, UnknownName
from loaders.store import Availability, Store


@dataclass(frozen=True)
class Entry:
    """Where a backend's class is, and what to do where it can't be imported.

    Attributes:
        location: ``module:Class``.
        words: what it is, in one line.
        remedy: what installs what it needs; empty where Loadstone's own requirements suffice.
        missing: why there is no class yet; empty where there is one.
        engine: the one engine for it; empty where any serves.
    """

    location: str
    words: str
    remedy: str = ""
    missing: str = ""
    engine: str = ""


BACKENDS = {
    "cifar10_torchvision": Entry(
        "loaders.peers.torchvision:Cifar10TorchvisionStore",
        "torchvision's CIFAR10 and a DataLoader, as people write it",
        engine="native",
    ),
    "dali": Entry(
        "loaders.backends.dali:DaliStore",
        "NVIDIA DALI on the CPU, fed in our order",
        "pip install 'loadstone[dali]'",
        engine="native",
    ),
    "dali_files": Entry(
        "loaders.backends.dali_files:DaliFilesStore",
        "NVIDIA DALI's own file reader, over the tree of filesystem",
        "pip install 'loadstone[dali]'",
        engine="native",
    ),
    "dali_gpu": Entry(
        "loaders.backends.dali:DaliGpuStore",
        "NVIDIA DALI with a GPU's decoder, fed in our order",
        "pip install 'loadstone[dali]'",
        engine="native",
    ),
    "ffcv": Entry(
        "loaders.peers.ffcv:FfcvStore",
        "FFCV's .beton file, read by its own loader",
        "install FFCV as docs/peers.md says (apt-get install libopencv-dev libturbojpeg0-dev pkg-config; "
        "pip install --no-build-isolation 'loadstone[ffcv]')",
        engine="native",
    ),
    "filesystem": Entry("loaders.backends.filesystem:FilesystemStore", "one file a picture, in ImageFolder's tree"),
    "gpu_array": Entry(
        "loaders.peers.gpu_limits:GpuArrayStore",
        "a hand-written array on an NVIDIA GPU: a bound, not a way to store",
        engine="native",
    ),
    "gpu_copy": Entry(
        "loaders.peers.gpu_limits:GpuCopyStore",
        "copies of pinned memory to an NVIDIA GPU: the bound of its bus",
        engine="native",
    ),
    "gpu_mmap": Entry(
        "loaders.backends.gpu_mmap:GpuMmapStore",
        "the mmap file on an NVIDIA GPU's side; gpu_mmap:resident, :zero_copy or :staged names the path",
        engine="stream",
    ),
    "hdf5": Entry("loaders.backends.hdf5:Hdf5Store", "one HDF5 file, contiguous; hdf5:offset or hdf5:h5py names the path"),
    "hdf5_chunked": Entry("loaders.backends.hdf5:Hdf5ChunkedStore", "one HDF5 file, a chunk a picture"),
    "hdf5_gzip": Entry("loaders.backends.hdf5:Hdf5GzipStore", "one HDF5 file, a gzip chunk a picture"),
    "hdf5_gzip64k": Entry("loaders.backends.hdf5:Hdf5Gzip64kStore", "one HDF5 file, gzip chunks of 64 KiB, many pictures each"),
    "imagefolder": Entry(
        "loaders.peers.torchvision:ImageFolderStore",
        "torchvision's ImageFolder and a DataLoader, as people write it",
        engine="native",
    ),
    "litdata": Entry(
        "loaders.peers.litdata:LitdataStore",
        "LitData's chunks, read by its own loader",
        "pip install 'loadstone[litdata]'",
        engine="native",
    ),
    "lmdb": Entry("loaders.peers.lmdb:LmdbStore", "one LMDB environment a split", "pip install 'loadstone[lmdb]'"),
    "memory": Entry("loaders.backends.memory:MemoryStore", "the whole split in RAM: the bound, not a way to store"),
    "mmap": Entry("loaders.backends.mmap:MmapStore", "one file of records, mapped by Linux"),
    "parquet": Entry(
        "loaders.peers.parquet:ParquetStore",
        "one Parquet file a split; parquet:table or parquet:groups names the path",
        "pip install 'loadstone[parquet]'",
    ),
    "postgres": Entry("loaders.backends.postgres:PostgresStore", "a PostgreSQL table, binary, a batch a round trip"),
    "webdataset": Entry(
        "loaders.peers.webdataset:WebDatasetStore",
        "tar shards, read by WebDataset's own loader",
        "pip install 'loadstone[webdataset]'",
        engine="native",
    ),
    "zarr": Entry("loaders.peers.zarr:ZarrStore", "one Zarr array a split, not compressed", "pip install 'loadstone[zarr]'"),
}


def store_class(name: str) -> type[Store]:
    """The class of a backend.

    Raises:
        UnknownName: no such backend. Unavailable: it is not built yet, or a package it needs is not installed.
    """
    entry = BACKENDS.get(name)
    if entry is None:
        raise UnknownName("backend", name, BACKENDS)
    if entry.missing:
        raise Unavailable(name, entry.missing, entry.remedy)
    module, _, attribute = entry.location.partition(":")
    try:
        found: type[Store] = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise Unavailable(name, f"{error.name or error} is not installed", entry.remedy) from error
    return found


def check_name(name: str, path: str | None) -> None:
    """Refuse a backend, or a code path of it, that nothing answers to.

    Raises:
        UnknownName: carries the nearest right one.
    """
    try:
        paths = store_class(name).paths
    except Unavailable:
        return
    if path is not None and path not in paths:
        raise UnknownName(f"path of {name}", path, paths)


def check_engine(kind: type[Store], engine: str) -> None:
    """Refuse an engine that can't read a backend.

    Raises:
        Unavailable: names the engines that can.
    """
    if engine not in kind.engines:
        served = " or ".join(kind.engines)
        raise Unavailable(kind.name, f"the engine {engine} can't read it", f"read it by engine {served}")


def availability(name: str) -> Availability:
    """Whether a backend can run here; never raises for a backend that can't."""
    try:
        return store_class(name).check()
    except Unavailable as error:
        return Availability(False, error.reason, error.remedy)
