"""The command line. Nothing heavy is imported before a command needs it: ``--help`` answers at once."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bench.neighbours import check_packages

if TYPE_CHECKING:
    from bench.running.prepare import Place

INTERRUPTED = 130
USAGE = 2


class Commands(click.Group):
    """Names the nearest right command for a wrong one, and gives every error its exit status and one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from datasets.errors import UnknownName

            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run a command line and end with its exit status."""
        check_packages()
        from datasets.errors import LoadstoneError  # another package called ``datasets`` has none

        try:
            # A command's own status comes by ``sys.exit``, that of --help and --version by being returned.
            status = super().main(*args, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USAGE)
        except click.UsageError as error:
            _end(f"{error.format_message().rstrip('.')} (see `{_help_of(error)}`)", USAGE)
        except (click.Abort, KeyboardInterrupt):
            _end("interrupted", INTERRUPTED)
        except BrokenPipeError:  # `loadstone list | head`: nobody reads on, and Python would complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except LoadstoneError as error:
            _end(str(error), error.exit_status)
        except OSError as error:
            _end(f"{error.filename or 'this machine'}: {error.strerror or error}", _status_of(error))
        sys.exit(status if isinstance(status, int) else 0)


def _end(line: str, status: int) -> NoReturn:
    click.echo(f"loadstone: {' '.join(line.split())}", err=True)
    sys.exit(status)


def _status_of(error: OSError) -> int:
    """Of a file that can't be written, or read, where no command foresaw it."""
    from datasets.errors import DataError, RoomError

    no_room = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
    return RoomError.exit_status if error.errno in no_room else DataError.exit_status


def _help_of(error: click.UsageError) -> str:
    return f"{error.ctx.command_path if error.ctx else 'loadstone'} --help"


def _examples(*lines: str) -> str:
    """An epilog that click does not re-wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


_PATH = click.Path(path_type=Path)
PLACE = (
    click.option(
        "--data-dir",
        type=_PATH,
        envvar="LOADSTONE_DATA",
        show_envvar=True,
        help="Data sets, under their publishers' names; default: a folder in your cache.",
    ),
    click.option(
        "--store-dir",
        type=_PATH,
        envvar="LOADSTONE_STORES",
        default=Path("stores"),
        show_default=True,
        show_envvar=True,
        help="Packed stores.",
    ),
    click.option(
        "--postgres",
        metavar="DSN",
        envvar="LOADSTONE_POSTGRES",
        show_envvar=True,
        help="Your own PostgreSQL server; default: an embedded one.",
    ),
    click.option(
        "--allow-unverified",
        is_flag=True,
        envvar="LOADSTONE_ALLOW_UNVERIFIED",
        show_envvar=True,
        help="Read data sets that can't be shown to be the publisher's.",
    ),
)


DETAILS = click.option("--details", is_flag=True, help="Print every table that table.md holds, not the first one alone.")


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where things are; they reach the command as one ``Place``."""

    def with_place(data_dir: Path | None, store_dir: Path, postgres: str | None, allow_unverified: bool, **others: Any) -> Any:
        return command(place=_place(data_dir, store_dir, postgres, allow_unverified), **others)

    with_place.__doc__ = command.__doc__
    with_place.__name__ = command.__name__
    for option in reversed(PLACE):
        with_place = option(with_place)
    with_place.__click_params__ = [*with_place.__click_params__, *getattr(command, "__click_params__", [])]  # type: ignore[attr-defined]
    return with_place


def _place(data_dir: Path | None, store_dir: Path, postgres: str | None, allow_unverified: bool) -> Place:
    from bench.running.prepare import Place

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


@main.command(
    short_help="Run an experiment, and print its table.",
    epilog=_examples(
        "loadstone run quick",
        "loadstone run loaders --dataset cifar10 --backend 'hdf5*' --dry-run",
        "loadstone run loaders --dataset image_folder:photos --data-dir ~/pictures",
        "loadstone run my.toml --out results/mine",
        "loadstone run --resume results/mine",
    ),
)
@click.argument("experiment", required=False)
@place_options
@click.option(
    "--dataset",
    multiple=True,
    metavar="GLOB",
    help="Only these data sets; may be repeated. Any other data set, such as image_folder:photos, takes their place.",
)
@click.option("--backend", multiple=True, metavar="GLOB", help="Only these backends; may be repeated.")
@click.option("--codec", multiple=True, metavar="GLOB", help="Only these codecs (own: the data set's own); may be repeated.")
@click.option("--engine", multiple=True, metavar="GLOB", help="Only these engines (torch, threads); may be repeated.")
@click.option("--model", multiple=True, metavar="GLOB", help="Only these models; may be repeated.")
@click.option("--mode", multiple=True, metavar="GLOB", help="Only these modes (train, load, compute, limit); may be repeated.")
@click.option("--workers", multiple=True, metavar="GLOB", help="Only these numbers of workers; may be repeated.")
@click.option("--fetch", multiple=True, metavar="GLOB", help="Only these ways of fetching (item, batch); may be repeated.")
@click.option(
    "--cache",
    type=click.Choice(["warm", "cold"]),
    help="For every cell; cold: the store's pages are dropped before each epoch.",
)
@click.option("--rounds", type=click.IntRange(1), help="Instead of the experiment's own number of rounds.")
@click.option("--limit", type=click.IntRange(1), help="Training images an epoch, instead of the experiment's own.")
@click.option("--threads", type=click.IntRange(1), help="Of torch's operations; default: the cores there are.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results; default: results/<name>-<date>-<number>.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with the run in this folder, which was cut short.")
@click.option("--despite-differences", is_flag=True, help="Resume also where machine, versions or data are not what they were.")
@click.option("--dry-run", is_flag=True, help="Print the cells and about how long they take; run nothing.")
def run(experiment: str | None, place: Place, **options: Any) -> None:
    """Run EXPERIMENT, a name from `loadstone list experiments` or a TOML file, and print its table.

    Exit status: 0 all that was asked for ran; 1 something failed, or was asked for by name and is unavailable; 2 the call
    or the TOML file is wrong; 4 a data set, store or database can't be used; 5 no room; 130 interrupted.
    """
    from bench.commands.run import Options, execute

    sys.exit(execute(experiment, place, Options(**options)))


@main.command(short_help="Make a run's tables and plots anew.", epilog=_examples("loadstone report results/quick-2026-11-23-1"))
@click.argument("folder", type=click.Path(path_type=Path))
@DETAILS
def report(folder: Path, details: bool) -> None:
    """Make the tables and plots of the run in FOLDER anew from its records, and print the first table."""
    from bench.reporting.report import report as make
    from bench.running.progress import plain_console

    make(folder).show(plain_console(), details=details)


@main.command(short_help="Hold a run against its targets.", epilog=_examples("loadstone targets results/loaders-2026-11-24-1"))
@click.argument("folder", type=click.Path(path_type=Path))
def targets(folder: Path) -> None:
    """Hold the figures of the run in FOLDER against the targets that its experiment names.

    Exit status: 0 all are kept; 1 one could not be measured; 2 the experiment names none; 3 one is short.
    """
    from bench.commands.targets import judge

    sys.exit(judge(folder))


@main.command(
    short_help="Compare two runs, such as of two machines.",
    epilog=_examples(
        "loadstone compare results/before results/after",
        "loadstone compare results/laptop results/server --anyway",
    ),
)
@click.argument("a", type=_PATH)
@click.argument("b", type=_PATH)
@click.option("--anyway", is_flag=True, help="Compare although the runs differ in what should be the same, and say in what.")
def compare(a: Path, b: Path, anyway: bool) -> None:
    """Compare the cells that the runs in folders A and B share: how many times as long an epoch takes in B.

    Runs that differ in machine, versions, threads, device, protocol, data or order are refused, with what differs; if that is
    what you want to compare, add --anyway. Exit status: 2 where they differ, or share no cell; 4 a folder holds no run.
    """
    from bench.commands.compare import show

    show(a, b, anyway=anyway)


@main.command(
    short_help="Say which storage format to use, from a run.",
    epilog=_examples(
        "loadstone recommend results/quick-2026-11-23-1",
        "loadstone recommend results/quick-2026-11-23-1 --for disk",
        "loadstone recommend results/quick-2026-11-23-1 --train-speed 50000",
    ),
)
@click.argument("folder", type=_PATH)
@click.option(
    "--for",
    "aim",
    type=click.Choice(["speed", "disk", "memory"]),
    default="speed",
    show_default=True,
    help="What matters: loading time, bytes on disk, or memory of the processes.",
)
@click.option(
    "--train-speed",
    type=click.FloatRange(min=1),
    metavar="N",
    help="Images a second of a training on a GPU that is not here: say what feeds it, and with how many workers or threads.",
)
def recommend(folder: Path, aim: Any, train_speed: float | None) -> None:
    """Say which storage format to use on this machine and data, by the run in FOLDER: what is as good, what the rest costs."""
    from bench.commands.recommend import show

    show(folder, aim, train_speed)


@main.command(
    short_help="Measure how far this machine's figures can be trusted.",
    epilog=_examples(
        "loadstone calibrate --quick",
        "loadstone calibrate --out results/calibration",
        "loadstone calibrate --report results/calibration",
    ),
)
@click.option(
    "--out",
    type=_PATH,
    default=Path("results/calibration"),
    show_default=True,
    help="Folder of its runs and report; what it holds already is not run again.",
)
@click.option("--quick", is_flag=True, help="Under two minutes, to see that it works: too few runs to say anything.")
@click.option("--report", "report_of", type=_PATH, metavar="DIR", help="Make the report of DIR anew; run nothing.")
@click.option("--threads", type=click.IntRange(1), help="Of torch's operations; default: the cores there are.")
@place_options
def calibrate(out: Path, quick: bool, report_of: Path | None, threads: int | None, place: Place) -> None:
    """Measure the measuring, in about forty minutes: equal cells under two names, a planted slow-down, the harness's own cost.

    Let nothing else run meanwhile. Interrupted, the same command goes on where it was. Exit status: 3 where false alarms are
    not 5 %, or the harness costs a hundredth of an epoch.
    """
    from bench.calibrating import calibrate as calibrating
    from bench.running.progress import plain_console

    if report_of is not None:
        sys.exit(calibrating.report(report_of, plain_console()))
    sys.exit(calibrating.execute(out, place, threads, quick=quick))


@main.command(
    short_help="Fetch data sets from their publishers.",
    epilog=_examples("loadstone download cifar10", "loadstone download tiny-imagenet --data-dir ~/data"),
)
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
    short_help="Pack a data set into stores.",
    epilog=_examples("loadstone pack cifar10 mmap hdf5", "loadstone pack image_folder:photos filesystem --codec png --force"),
)
@click.argument("dataset")
@click.argument("backends", nargs=-1, required=True)
@click.option("--codec", type=click.Choice(["raw", "png", "jpeg"]), help="How pictures are held; default: as published.")
@click.option("--force", is_flag=True, help="Pack anew what is there already.")
@place_options
def pack(dataset: str, backends: tuple[str, ...], codec: Any, force: bool, place: Place) -> None:
    """Pack DATASET into a store for each of BACKENDS."""
    from bench.commands.store import pack_all

    pack_all(dataset, backends, codec, force, place)


@main.command(short_help="Compare stores with what was packed.", epilog=_examples("loadstone verify stores/cifar10/raw/mmap"))
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@place_options
def verify(stores: tuple[Path, ...], place: Place) -> None:
    """Read STORES back whole, and compare them with what was packed. Exit status 3 where one differs."""
    from bench.commands.store import verify_all

    verify_all(stores, place)


@main.command(
    "list",
    short_help="List what there is, and what can be used here.",
    epilog=_examples("loadstone list", "loadstone list backends"),
)
@click.argument("what", required=False)
@place_options
def list_(what: str | None, place: Place) -> None:
    """List what there is: datasets, backends, models, protocols or experiments, and whether it can be used here."""
    from bench.commands.list import show

    show(what, place)


@main.command(short_help="Show this machine and its software.", epilog=_examples("loadstone info"))
@place_options
def info(place: Place) -> None:
    """Show this machine and its software as records will describe them."""
    from bench.commands.list import show_machine

    show_machine(place)


if __name__ == "__main__":
    main()
