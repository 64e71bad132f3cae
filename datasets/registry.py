"""The data sets by name, each imported when first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import DatasetMissing, UnknownName, UsageError

if TYPE_CHECKING:
    from datasets.source import Source


@dataclass(frozen=True)
class Entry:
    """A data set that can be asked for.

    Attributes:
        path: ``module:class``. A published one is made by ``class(data_dir, allow_unverified=...)`` and has ``archives()``;
            any other is made by ``class.from_argument(argument, data_dir)``, and has ``check_argument``.
        what: one line for ``loadstone list datasets``.
        argument: an example of what may follow the name and a colon; empty for a published data set, which takes none.
        stand_in: the ``synthetic`` options of what stands in for it where it can't be had; empty for none.
    """

    path: str
    what: str
    argument: str = ""
    stand_in: str = ""


SOURCES: Mapping[str, Entry] = {
    "cifar10": Entry(
        "datasets.cifar:Cifar10",
        "CIFAR-10: 50,000 + 10,000 pictures of 32 x 32 in 10 classes",
        stand_in="train=6000,val=1000,size=32,classes=10",
    ),
    "cifar100": Entry(
        "datasets.cifar:Cifar100",
        "CIFAR-100: 50,000 + 10,000 pictures of 32 x 32 in 100 classes",
        stand_in="train=6000,val=1000,size=32,classes=100",
    ),
    "image_folder": Entry(
        "datasets.image_folder:ImageFolder", "your own pictures in train/<class>/ and val/<class>/", argument="photos"
    ),
    "imagenette": Entry(
        "datasets.image_folder:Imagenette",
        "Imagenette, full size: 9,469 + 3,925 photographs of differing sizes in 10 classes",
        stand_in="train=200,val=100,height=375,width=500,classes=10,codec=jpeg,differing=1",
    ),
    "synthetic": Entry(
        "datasets.synthetic:Synthetic",
        "made from a seed, in classes that a network learns",
        argument="train=2000,val=500,size=32,classes=10,seed=0,codec=raw",
    ),
    "tiny-imagenet": Entry(
        "datasets.tiny_imagenet:TinyImageNet",
        "Tiny ImageNet: 100,000 + 10,000 pictures of 64 x 64 in 200 classes",
        stand_in="train=4000,val=1000,size=64,classes=200,codec=jpeg",
    ),
}


def check_name(spec: str) -> None:
    """Refuse what no data set answers to; asks the name and its argument only, reads nothing.

    Raises:
        UnknownName: no data set, or no option, has that name.
        UsageError: an argument is missing, unwanted or wrong.
    """
    entry, argument = _entry(spec)
    if entry.argument:
        _load(entry).check_argument(argument)


def open_source(spec: str, data_dir: Path, *, allow_unverified: bool = False) -> Source:
    """The source that ``spec`` names: ``name`` or ``name:argument``.

    Args:
        spec: such as ``cifar10``, ``image_folder:photos`` (relative to ``data_dir``, or absolute),
            ``synthetic:train=2000,val=500,size=32``.
        data_dir: the folder that holds data sets under their publishers' names.
        allow_unverified: read published data sets that can't be shown to be whole and unchanged, too; ``info`` says so.

    Raises:
        UnknownName: no data set, or no option, has that name.
        UsageError: an argument is missing, unwanted or wrong.
        DatasetMissing, DatasetCorrupt, DatasetUnverified, RoomError: as the source says.
    """
    entry, argument = _entry(spec)
    kind = _load(entry)
    try:
        source: Source = (
            kind.from_argument(argument, data_dir) if entry.argument else kind(data_dir, allow_unverified=allow_unverified)
        )
    except OSError as error:
        from datasets.tree import unreadable

        raise unreadable(spec, Path(error.filename or data_dir), error) from error
    return source


def download(spec: str, data_dir: Path) -> Source:
    """Fetch a published data set into ``data_dir``, unpack it, and open it; the network is used only if it is not there.

    Raises:
        UsageError: nobody publishes it.
        DownloadFailed: the server could not be reached, or sent something else.
        DatasetMissing, DatasetCorrupt, DatasetUnverified: what is there already is not whole; the message says what to remove.
        RoomError: no room, or no permission to write.
    """
    entry, _ = _entry(spec)
    if entry.argument:
        raise UsageError(f"{spec.partition(':')[0]} is not downloaded from anywhere; just use it")
    try:
        return open_source(spec, data_dir)
    except DatasetMissing:
        # Imported here: `loadstone --help` reads this module.
        from datasets import archive

        archive.download(spec, _load(entry).archives()[0], data_dir)
        return open_source(spec, data_dir)


def is_there(spec: str, data_dir: Path) -> bool:
    """Whether ``open_source`` would find something to read, however whole; asks for names only, reads nothing."""
    entry, argument = _entry(spec)
    if not entry.argument:
        from datasets import published

        return published.is_there(_load(entry).archives(), data_dir)
    return spec.startswith("synthetic") or (data_dir / argument).is_dir()


def stand_in(spec: str) -> Source | None:
    """Synthetic pictures of the same shape, codec and classes, named ``<name>~synthetic``; None where there are none."""
    entry, _ = _entry(spec)
    if not entry.stand_in:
        return None
    from datasets.synthetic import Recipe, Synthetic

    return Synthetic(Recipe.parse(entry.stand_in), f"{spec}~synthetic")


def _entry(spec: str) -> tuple[Entry, str]:
    name, colon, argument = spec.partition(":")
    if name not in SOURCES:
        raise UnknownName("data set", name, SOURCES)
    if colon and not SOURCES[name].argument:
        raise UsageError(f"{name} takes nothing after its name, and {spec!r} gives {argument!r}")
    return SOURCES[name], argument


def _load(entry: Entry) -> Any:
    module, _, name = entry.path.partition(":")
    return getattr(import_module(module), name)
