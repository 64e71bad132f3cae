"""Experiments: TOML to cells and back."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import experiment
from bench.commands.run import Options, choose
from bench.experiment import Cell, Experiment, dump, parse
from bench.running.prepare import check_names
from datasets.errors import ExperimentInvalid, Unavailable, UnknownName, UsageError
from loaders.registry import BACKENDS, store_class

GRID = """
datasets = ["cifar10", "tiny-imagenet"]
backends = ["mmap", "hdf5"]
models = ["resnet8", "densenet22"]
modes = ["train", "load", "compute"]
workers = [0, 2]
"""

WORDS = st.text(string.printable + "äλ中😀\x7f\x1b", min_size=1, max_size=12)


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    """A cell as a grid can make one."""
    mode = draw(st.sampled_from(["train", "load", "compute"]))
    fields: dict[str, Any] = {
        "dataset": draw(WORDS),
        "mode": mode,
        "model": None if mode == "load" else draw(WORDS),
        "protocol": draw(WORDS),
        "limit": draw(st.none() | st.integers(1, 10**9)),
        "backend": "memory",
    }
    if mode != "compute":
        fields |= {
            "backend": draw(WORDS | st.sampled_from(sorted(BACKENDS))),
            "codec": draw(st.sampled_from([None, "raw", "png", "jpeg"])),
            "fetch": draw(st.sampled_from(["item", "batch"])),
            "workers": draw(st.integers(0, 64)),
        }
    entry = BACKENDS.get(fields["backend"].partition(":")[0])
    if entry is not None and entry.engine:
        fields["engine"] = entry.engine  # whatever other engine a grid names, such a backend is read by its own
    return Cell(**fields)


EXPERIMENTS = st.builds(
    Experiment,
    name=WORDS,
    description=st.text(string.printable, max_size=20),
    cells=st.lists(cells(), min_size=1, max_size=6, unique=True).map(tuple),
    rounds=st.integers(1, 99),
    seed=st.integers(0, 2**62),
    timeout=st.floats(0.001, 1e20),
    stand_in=st.booleans(),
)


def test_lists_multiply() -> None:
    """Every combination is a cell, once; a single value is a list of one."""
    found = parse(
        'datasets = "a"\nbackends = ["mmap", "hdf5"]\nmodels = ["x", "y"]\nworkers = [0, 2]\nfetch = "item"', "a.toml"
    )
    assert len(found.cells) == len(set(found.cells)) == 8
    assert {cell.fetch for cell in found.cells} == {"item"}
    assert found.name == "a"


def test_load_has_no_model_and_compute_no_way_of_loading() -> None:
    """Neither is repeated for what has no meaning in it."""
    found = parse(GRID, "grid.toml").cells
    load = [cell for cell in found if cell.mode == "load"]
    compute = [cell for cell in found if cell.mode == "compute"]
    assert (len(found), len(load), len(compute)) == (16 + 8 + 4, 8, 4)
    assert {cell.model for cell in load} == {None}
    assert {cell.loading for cell in compute} == {("memory", None, "torch", "batch", 0, "warm")}


def test_limits_have_no_engine_and_no_way_of_asking() -> None:
    """A limit is a cell a number of threads, whatever engines and ways of fetching the grid has; its store is ``memory``."""
    text = GRID + '[[cells]]\nmodes = ["limit"]\nbackends = ["copy"]\nengines = ["torch", "threads"]\nworkers = [1, 2]\n'
    limits = [cell for cell in parse(text, "grid.toml").cells if cell.mode == "limit"]
    assert [(cell.dataset, cell.backend, cell.workers) for cell in limits] == [
        (dataset, "copy", workers) for dataset in ("cifar10", "tiny-imagenet") for workers in (1, 2)
    ]
    assert {(cell.model, cell.engine, cell.fetch, cell.backend_name) for cell in limits} == {(None, "torch", "batch", "memory")}


def test_labels_name_the_engine() -> None:
    """Progress and errors tell the same format read by two engines apart."""
    engines = get_args(experiment.Engine)
    cells = [Cell(dataset="a", backend="mmap", protocol="quick", mode="load", engine=engine, workers=2) for engine in engines]
    assert len({cell.label for cell in cells}) == len(engines)


def test_cells_inherit_what_they_do_not_override() -> None:
    """A table under ``[[cells]]`` is the grid above with some keys changed, and its own lists multiply too."""
    text = GRID + '[[cells]]\nmodes = ["load"]\nbackends = ["postgres"]\nworkers = 1\nlimit = 9\nprotocol = "thesis"\n'
    added = parse(text, "grid.toml").cells[28:]
    assert [(cell.dataset, cell.backend, cell.workers, cell.limit, cell.protocol) for cell in added] == [
        ("cifar10", "postgres", 1, 9, "thesis"),
        ("tiny-imagenet", "postgres", 1, 9, "thesis"),
    ]


def test_no_cell_stands_twice() -> None:
    """What two tables have in common is run once."""
    assert parse(GRID + "[[cells]]\nworkers = [2, 4]\n", "grid.toml").cells[28:] == tuple(
        cell for cell in parse(GRID.replace("[0, 2]", "[4]"), "grid.toml").cells if cell.mode != "compute"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("datasets = [", "not TOML"),
        ('backend = ["mmap"]', "no key is called 'backend'; did you mean 'backends'?"),
        (GRID + "[[cells]]\nlimmit = 3\n", "did you mean 'limit'?"),
        (GRID + "[[cells]]\nworkers = 1\nrounds = 3\n", "rounds is the whole experiment's: write it above the first [[cells]]"),
        (GRID + "[cells]\nworkers = 1\n", "under [[cells]]"),
        ("cells = 3", "under [[cells]]"),
        ("cells = [3]", "under [[cells]]"),
        (GRID.replace("[0, 2]", "[0, 65]"), "workers: Input should be less than or equal to 64"),
        (GRID.replace("[0, 2]", '"two"'), "workers.0: "),
        (GRID.replace("[0, 2]", "1.5"), "workers: "),
        (GRID + 'codecs = ["gif"]', "codecs.0: Input should be 'raw', 'png' or 'jpeg'"),
        (GRID + 'fetch = "all"', "fetch.0: "),
        (GRID + "limit = 0", "limit: "),
        ("rounds = 0\n" + GRID, "rounds: "),
        ("seed = -1\n" + GRID, "seed: "),
        ("timeout = 0\n" + GRID, "timeout: "),
        ("", "no cells: give at least datasets, backends and, to train, models"),
        ('datasets = ["cifar10"]\nbackends = ["mmap"]', "to train, models"),
    ],
)
def test_a_wrong_file_is_refused_by_key(text: str, says: str) -> None:
    """One line names the file, the key and what would be right."""
    with pytest.raises(ExperimentInvalid) as refused:
        parse(text, "folder/mine.toml")
    assert str(refused.value).startswith("folder/mine.toml: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and a file that is no text give one line each, with the path."""
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\xff")
    for name in ("missing", "folder", "picture"):
        with pytest.raises(ExperimentInvalid, match=f"{name}.toml: "):
            experiment.load(str(tmp_path / f"{name}.toml"))


def test_an_unknown_experiment_gets_the_nearest() -> None:
    """The error carries the name that was probably meant."""
    with pytest.raises(UnknownName) as refused:
        experiment.load("qick")
    assert refused.value.nearest == "quick"


@pytest.mark.parametrize("name", experiment.names())
def test_what_ships_names_only_what_there_is(name: str) -> None:
    """Every experiment that ships parses, and its data sets, backends, paths, models and protocols exist."""
    found = experiment.load(name)
    assert found.name == name
    assert found.description
    check_names(found)


def test_the_experiments_of_the_design_ship() -> None:
    """The command line's documentation names them."""
    assert {"quick", "thesis", "thesis-cpu", "loaders"} <= set(experiment.names())


def test_loaders_reads_every_format_from_cifar10() -> None:
    """Each storage format has its row, read by the batch and by the item, with workers and without."""
    found = choose("loaders", Options(dataset=("cifar10",))).cells
    for backend in ("memory", "filesystem", "mmap", "hdf5", "postgres"):
        ways = {(cell.engine, cell.fetch, cell.workers) for cell in found if cell.backend == backend and cell.codec is None}
        torch = {("torch", fetch, workers) for fetch in ("batch", "item") for workers in (0, 2)}
        assert ways == torch | {("threads", "batch", 1), ("threads", "batch", 2)}
    assert {cell.dataset for cell in found} == {"cifar10"}


@given(EXPERIMENTS)
def test_what_was_run_reads_back(found: Experiment) -> None:
    """``dump`` writes what ``parse`` reads as the same experiment, whatever characters its names hold."""
    assert parse(dump(found), "other.toml") == found


@pytest.mark.parametrize("name", experiment.names())
def test_what_ships_reads_back(name: str) -> None:
    """The experiment that a run folder keeps is the one that was asked for."""
    found = experiment.load(name)
    assert parse(dump(found), "other.toml") == found


def test_what_has_its_own_loader_is_read_by_it() -> None:
    """A grid over formats and peers needs no block for each: a peer that owns its iteration is read by its own engine."""
    found = parse('datasets = "a"\nbackends = ["mmap", "imagefolder", "dali"]\nmodes = "load"\nworkers = 2', "grid.toml")
    assert [(cell.backend, cell.engine) for cell in found.cells] == [
        ("mmap", "torch"),
        ("imagefolder", "native"),
        ("dali", "native"),
    ]


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_the_registry_knows_each_backends_engine(name: str) -> None:
    """Before anything is imported; what is not installed here is checked where it is."""
    try:
        engines = store_class(name).engines
    except Unavailable:
        pytest.skip(f"{name} is not installed")
    assert BACKENDS[name].engine == ("" if "torch" in engines else engines[0])


def test_globs_keep_what_they_match() -> None:
    """Several globs of one field add up, those of several fields cut."""
    one = parse(GRID, "grid.toml").cut(backend=("mm*",), dataset=("*imagenet",), mode=("load", "train"))
    both = parse(GRID, "grid.toml").cut(backend=("mmap", "h?f5"), mode=("load",))
    assert {(cell.dataset, cell.backend) for cell in one.cells} == {("tiny-imagenet", "mmap")}
    assert len(one.cells) == 4 + 2
    assert {cell.backend for cell in both.cells} == {"mmap", "hdf5"}


def test_a_cut_spares_modes_in_which_the_field_means_nothing() -> None:
    """``compute`` stays whatever the way of loading, and ``load`` whatever the model: tables compare with them."""
    found = parse(GRID, "grid.toml").cut(
        backend=("mmap",), workers=("2",), model=("resnet8",), fetch=("batch",), codec=("own",)
    )
    assert sorted((cell.mode, cell.backend, cell.workers, cell.model) for cell in found.cells if cell.dataset == "cifar10") == [
        ("compute", "memory", 0, "resnet8"),
        ("load", "mmap", 2, None),
        ("train", "mmap", 2, "resnet8"),
    ]


@pytest.mark.parametrize(
    ("field", "glob", "nearest"),
    [("backend", "hdf", "hdf5"), ("model", "resnet9", "resnet8"), ("mode", "trian", "train"), ("codec", "rwa", None)],
)
def test_a_glob_that_matches_nothing_is_refused(field: str, glob: str, nearest: str | None) -> None:
    """It is a typing error, and gets the nearest right word; nothing unset is offered as one."""
    with pytest.raises(UnknownName) as refused:
        parse(GRID, "grid.toml").cut(**{field: (glob,)})
    assert refused.value.nearest == nearest
    assert "None" not in str(refused.value)


def test_a_glob_does_not_match_what_it_would_not_cut() -> None:
    """``memory`` of ``compute`` is no backend that was asked for."""
    with pytest.raises(UnknownName):
        parse(GRID, "grid.toml").cut(backend=("memory",))


def test_options_change_rounds_and_limit() -> None:
    """Cells that a common limit makes equal are run once."""
    found = choose("quick", Options(rounds=7, limit=64, mode=("load",)))
    assert found.rounds == 7
    assert {cell.limit for cell in found.cells} == {64}
    assert len(found.cells) == len(set(found.cells))


def test_options_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    """Each glob matches some cell, together they match none: that is said, not run as an empty experiment."""
    path = tmp_path / "two.toml"
    path.write_text('datasets = "a"\nbackends = "mmap"\nmodes = "load"\n[[cells]]\nbackends = "hdf5"\nworkers = 2\n')
    with pytest.raises(UsageError, match=r"no cell of .* is left"):
        choose(str(path), Options(backend=("mmap",), workers=("2",)))


def test_another_data_set_takes_the_place_of_the_experiments_own() -> None:
    """One's own pictures are measured by a shipped experiment in one command."""
    own = choose("quick", Options(dataset=("cifar10",))).cells
    found = choose("quick", Options(dataset=("image_folder:photos",))).cells
    assert {cell.dataset for cell in found} == {"image_folder:photos"}
    assert {cell.model_copy(update={"dataset": "cifar10"}) for cell in found} == set(own)


def test_another_data_set_can_stand_beside_the_experiments_own() -> None:
    """Both are measured where both are asked for."""
    found = choose("quick", Options(dataset=("cifar*", "cifar100"))).cells
    assert {cell.dataset for cell in found} == {"cifar10", "cifar100"}


@pytest.mark.parametrize("name", ["cifar11", "image_foldr:photos", "tiny_imagenet"])
def test_an_unknown_data_set_gets_the_nearest(name: str) -> None:
    """A word that is neither the experiment's nor any data set's is a typing error."""
    with pytest.raises(UnknownName) as refused:
        choose("loaders", Options(dataset=(name,)))
    assert refused.value.nearest in ("cifar10", "cifar100", "image_folder", "tiny-imagenet")


def test_a_backend_with_an_engine_of_its_own_is_read_by_that() -> None:
    """A grid of DataLoader's workers makes one cell of a backend that no DataLoader reads; naming the engine keeps all."""
    text = """
datasets = ["cifar10"]
backends = ["mmap", "gpu_mmap:staged", "dali"]
modes = ["load"]
fetch = ["batch", "item"]
workers = [0, 2]
"""
    found = [(cell.backend, cell.engine, cell.fetch, cell.workers) for cell in parse(text, "x.toml").cells]
    assert len([way for way in found if way[0] == "mmap"]) == 4
    assert [way for way in found if way[0] != "mmap"] == [
        ("gpu_mmap:staged", "stream", "batch", 0),
        ("dali", "native", "batch", 0),
    ]
    named = text.replace('"mmap", "gpu_mmap:staged", "dali"', '"gpu_mmap:staged"') + 'engines = ["stream"]\n'
    assert len(parse(named, "x.toml").cells) == 4
