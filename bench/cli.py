"""The command line. Nothing heavy is imported before a command needs it: ``--help`` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.neighbours import check_packages
from datasets.errors import LoadstoneError

if TYPE_CHECKING:
    from bench.prepare import Place

INTERRUPTED = 130


class Commands(click.Group):
    """Names the nearest right command for a wrong one, and gives every error of Loadstone its exit status and one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            from datasets.errors import UnknownName

            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LoadstoneError as error:
            click.echo(f"loadstone: {error}", err=True)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            click.echo("loadstone: interrupted", err=True)
            ctx.exit(INTERRUPTED)


def _examples(*lines: str) -> str:
    """An epilog that click does not re-wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


_PATH = click.Path(path_type=Path)
PLACE = (
    click.option("--data-dir", type=_PATH, envvar="LOADSTONE_DATA", help="Data sets, under their publishers' names."),
    click.option(
        "--store-dir",
        type=_PATH,
        envvar="LOADSTONE_STORES",
        default=Path("stores"),
        show_default=True,
        help="Packed stores.",
    ),
    click.option(
        "--postgres",
        metavar="DSN",
        envvar="LOADSTONE_POSTGRES",
        help="Your own PostgreSQL server; default: an embedded one.",
    ),
    click.option(
        "--allow-unverified",
        is_flag=True,
        envvar="LOADSTONE_ALLOW_UNVERIFIED",
        help="Read data sets that can't be shown to be the publisher's.",
    ),
)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where things are; they reach the command as one ``Place``."""

    def with_place(data_dir: Path | None, store_dir: Path, postgres: str | None, allow_unverified: bool, **others: Any) -> Any:
        return command(place=_place(data_dir, store_dir, postgres, allow_unverified), **others)

    with_place.__doc__ = command.__doc__
    with_place.__name__ = command.__name__
    for option in PLACE:
        with_place = option(with_place)
    with_place.__click_params__ = [*getattr(command, "__click_params__", []), *with_place.__click_params__]  # type: ignore[attr-defined]
    return with_place


def _place(data_dir: Path | None, store_dir: Path, postgres: str | None, allow_unverified: bool) -> Place:
    from bench.prepare import Place

    if data_dir is None:
        import platformdirs

        data_dir = platformdirs.user_cache_path("loadstone") / "data"
    return Place(data_dir, store_dir, postgres, allow_unverified)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples("loadstone run quick", "loadstone list backends"),
)
@click.version_option(package_name="loadstone")
def main() -> None:
    """Measure how to store pictures, and how to read them, for training image classifiers in PyTorch."""
    check_packages()


@main.command(
    epilog=_examples(
        "loadstone run quick",
        "loadstone run loaders --dataset cifar10 --backend 'hdf5*' --dry-run",
        "loadstone run my.toml --out results/mine",
    )
)
@click.argument("experiment")
@place_options
@click.option("--dataset", multiple=True, metavar="GLOB", help="Only these data sets; may be repeated.")
@click.option("--backend", multiple=True, metavar="GLOB", help="Only these backends; may be repeated.")
@click.option("--codec", multiple=True, metavar="GLOB", help="Only these codecs; may be repeated.")
@click.option("--model", multiple=True, metavar="GLOB", help="Only these models; may be repeated.")
@click.option("--mode", multiple=True, metavar="GLOB", help="Only these modes (train, load, compute); may be repeated.")
@click.option("--workers", multiple=True, metavar="GLOB", help="Only these numbers of workers; may be repeated.")
@click.option("--fetch", multiple=True, metavar="GLOB", help="Only these ways of fetching (item, batch); may be repeated.")
@click.option("--rounds", type=click.IntRange(1), help="Instead of the experiment's own number of rounds.")
@click.option("--limit", type=click.IntRange(1), help="Training images an epoch, instead of the experiment's own.")
@click.option("--threads", type=click.IntRange(1), help="Of torch's operations; default: the cores there are.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results; default: results/<name>-<date>-<number>.")
@click.option("--dry-run", is_flag=True, help="Print the cells and about how long they take; run nothing.")
def run(experiment: str, place: Place, **options: Any) -> None:
    """Run EXPERIMENT, a name from `loadstone list experiments` or a TOML file, and print its table.

    Exit status: 0 all that was asked for ran; 1 something failed, or was asked for by name and is unavailable; 2 the call
    or the TOML file is wrong; 4 a data set, store or database can't be used; 5 no room; 130 interrupted.
    """
    from bench.command_run import Options, execute

    sys.exit(execute(experiment, place, Options(**options)))


@main.command(epilog=_examples("loadstone report results/quick-2026-11-23-1"))
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Make the tables and plots of the run in FOLDER anew from its records, and print the table."""
    from rich.console import Console

    from bench.report import report as make

    make(folder).show(Console())


@main.command(epilog=_examples("loadstone download cifar10", "loadstone download tiny-imagenet --data-dir ~/data"))
@click.argument("datasets", nargs=-1, required=True)
@place_options
def download(datasets: tuple[str, ...], place: Place) -> None:
    """Fetch DATASETS from their publishers, check them, and unpack them into the data folder."""
    from datasets import registry

    for name in datasets:
        info = registry.download(name, place.data_dir).info
        click.echo(
            f"{info.name}: {', '.join(f'{count:,} {split}' for split, count in info.counts.items())}, in {place.data_dir}"
        )


@main.command(
    epilog=_examples("loadstone pack cifar10 mmap hdf5", "loadstone pack image_folder:photos filesystem --codec png --force")
)
@click.argument("dataset")
@click.argument("backends", nargs=-1, required=True)
@click.option("--codec", type=click.Choice(["raw", "png", "jpeg"]), help="How pictures are held; default: as published.")
@click.option("--force", is_flag=True, help="Pack anew what is there already.")
@place_options
def pack(dataset: str, backends: tuple[str, ...], codec: Any, force: bool, place: Place) -> None:
    """Pack DATASET into a store for each of BACKENDS."""
    from bench.command_store import pack_all

    pack_all(dataset, backends, codec, force, place)


@main.command(epilog=_examples("loadstone verify stores/cifar10/raw/mmap"))
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@place_options
def verify(stores: tuple[Path, ...], place: Place) -> None:
    """Read STORES back whole, and compare them with what was packed. Exit status 3 where one differs."""
    from bench.command_store import verify_all

    verify_all(stores, place)


@main.command("list", epilog=_examples("loadstone list", "loadstone list backends"))
@click.argument("what", required=False)
@place_options
def list_(what: str | None, place: Place) -> None:
    """List what there is: datasets, backends, models, protocols or experiments, and whether it can be used here."""
    from bench.command_list import show

    show(what, place)


@main.command(epilog=_examples("loadstone info"))
@place_options
def info(place: Place) -> None:
    """Show this machine and its software as records will describe them."""
    from bench.command_list import show_machine

    show_machine(place)


if __name__ == "__main__":
    main()
