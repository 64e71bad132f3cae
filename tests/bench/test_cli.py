"""The command line, as its users meet it: words, files and exit statuses."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
import torch

from bench import experiment, record
from bench.cli import main
from bench.running.runner import turns
from datasets.archive import Archive
from datasets.cifar import Cifar10
from loaders.postgres_server import EmbeddedServer
from train.registry import MODELS

Call = Callable[..., Any]

DATA = "synthetic:train=64,val=16,size=16,classes=4"
TINY = f"""
datasets = ["{DATA}"]
backends = ["mmap", "postgres"]
models = ["resnet8"]
modes = ["train", "load", "compute"]
rounds = 2
repeats = 0  # a busy machine must change no count
"""
HEAVY = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "scipy", "psycopg", "h5py")
COMMANDS = sorted(main.commands)


def written(folder: Path, text: str, name: str = "tiny.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder with the tiny experiment, in which commands run, and which the database's account can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    written(folder, TINY)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def finished(place: Path, ended: Call) -> Any:
    """The tiny experiment, run to its end into ``out``."""
    return ended(place, "run", "tiny.toml", "--out", "out", "--threads", 1)


# Help


def test_help_needs_nothing_heavy(environment: dict[str, str]) -> None:
    """Every ``--help`` and ``--version`` answers without torch, NumPy or any other library of the measuring."""
    code = f"""
import sys
from bench.cli import main
for words in ([], *([name] for name in {COMMANDS})):
    try:
        main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0
print("imported:", [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_help_answers_at_once(tmp_path: Path, ended: Call) -> None:
    """Under 0.4 s of a processor, the best of five: what else runs on the machine does not count."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ended(tmp_path, "--help").status == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, loadstone: Call) -> None:
    """Each is a command line that can be typed, and every option and argument is explained."""
    found = loadstone(name, "--help")
    command = main.commands[name]
    examples = found.out.split("Examples:\n")[1].splitlines()
    assert examples
    assert all(line.strip().startswith(f"loadstone {name}") for line in examples)
    assert "\n  " in found.out.split("Usage:")[1]
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    short = command.get_short_help_str(200)
    assert short
    assert not short.endswith("...")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    """What the help shows is accepted by the command's own options."""
    command = main.commands[name]
    lines = (command.epilog or "").split("Examples:\n")[1].splitlines()
    for line in lines:
        command.make_context(name, shlex.split(line)[2:])


# What it is called with


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rn"], "no command is called 'rn'; did you mean 'run'?"),
        (["run"], "name an experiment (`loadstone list experiments`) or a TOML file, or say --resume FOLDER"),
        (["run", "quick", "--bakend", "mmap"], "Did you mean '--backend'?"),
        (["run", "quick", "--rounds", "0"], "'--rounds': 0 is not in the range"),
        (["run", "quick", "--device", "tpu"], "'cpu', 'cuda'"),
        (["--vrsion"], "Did you mean '--version'?"),
        (["run", "qick"], "did you mean 'quick'?"),
        (["run", "missing.toml"], "missing.toml: No such file"),
        (["run", "broken.toml"], "broken.toml: not TOML"),
        (["run", "unknown.toml"], "did you mean 'backends'?"),
        (["run", "backend.toml"], "no backend is called 'mmapp'; did you mean 'mmap'?"),
        (["run", "path.toml"], "no path of hdf5_chunked is called 'offset'"),
        (["run", "quick", "--dataset", "cfar10"], "did you mean 'cifar10'?"),
        (["run", "quick", "--dataset", "cifar10", "--backend", "mmpa"], "did you mean 'mmap'?"),
        (["run", "quick", "--model", "resnet9"], "did you mean 'resnet8'?"),
        (["run", "quick", "--mode", "trian"], "did you mean 'train'?"),
        (["run", "quick", "--dataset", "synthetic:siz=3"], "did you mean 'size'?"),
        (["list", "dataset"], "did you mean 'datasets'?"),
        (["pack", "cifr10", "mmap"], "did you mean 'cifar10'?"),
        (["pack", DATA, "mmpa"], "did you mean 'mmap'?"),
        (["pack", DATA + ",codec=jpeg", "hdf5_gzip"], "hdf5_gzip holds raw, not jpeg; add --codec raw"),
        (["pack", "cifar10", "mmap", "--codec", "gif"], "'gif' is not one of"),
        (["download", "cifr10"], "did you mean 'cifar10'?"),
        (["download", "synthetic"], "not downloaded"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(words: list[str], says: str, loadstone: Call, tmp_path: Path) -> None:
    """It names what is wrong and the nearest right word, and leaves nothing behind."""
    written(tmp_path, "datasets = [", "broken.toml")
    written(tmp_path, 'backend = "mmap"', "unknown.toml")
    written(tmp_path, TINY.replace('"mmap"', '"mmapp"'), "backend.toml")
    written(tmp_path, TINY.replace('"mmap"', '"hdf5_chunked:offset"'), "path.toml")
    before = contents(tmp_path)
    found = loadstone(*words)
    assert (found.status, found.out) == (2, "")
    assert says in found.err
    assert contents(tmp_path) == before


def test_no_words_at_all_give_the_help(loadstone: Call, capsys: pytest.CaptureFixture[str]) -> None:
    """As other programs do."""
    with pytest.raises(SystemExit) as end:
        main(args=[], prog_name="loadstone")
    assert end.value.code == 2
    assert "Usage: loadstone" in capsys.readouterr().err


# What it works on


def cifar(folder: Path, *, broken: bool = False) -> Path:
    """A part of CIFAR-10 in its official form: two pictures a file."""
    target = folder / "data" / "cifar-10-batches-bin"
    target.mkdir(parents=True)
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        (target / name).write_bytes(bytes(3073 * 2 - 5 * broken))
    (target / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n")
    return target.parent


def test_a_missing_data_set_is_status_4(loadstone: Call) -> None:
    """The line says where it was looked for and how to get it."""
    found = loadstone("run", "loaders", "--data-dir", "none")
    assert (found.status, found.out) == (4, "")
    assert "cifar10 is not in none; run `loadstone download cifar10`" in found.err


def test_a_data_folder_that_is_a_file_is_status_4(loadstone: Call, tmp_path: Path) -> None:
    """Nothing is in it."""
    written(tmp_path, "text", "file")
    assert loadstone("run", "loaders", "--data-dir", "file").status == 4


def test_a_data_set_that_cannot_be_verified_is_status_4(loadstone: Call, tmp_path: Path) -> None:
    """The line names the option that reads it all the same."""
    found = loadstone("pack", "cifar10", "mmap", "--data-dir", cifar(tmp_path))
    assert found.status == 4
    assert "--allow-unverified" in found.err
    assert loadstone("pack", "cifar10", "mmap", "--data-dir", tmp_path / "data", "--allow-unverified").status == 0


def test_a_corrupt_data_set_is_status_4(loadstone: Call, tmp_path: Path) -> None:
    """The line names the file, and no half of a store is left."""
    words = ("--data-dir", cifar(tmp_path, broken=True), "--allow-unverified")
    for found in (loadstone("pack", "cifar10", "mmap", *words), loadstone("run", "loaders", "--dataset", "cifar10", *words)):
        assert found.status == 4
        assert "data_batch_1.bin" in found.err
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_database_that_is_down_is_status_4(loadstone: Call, tmp_path: Path) -> None:
    """The line holds no password, and says how to start one."""
    dsn = "postgresql://nobody:secret@127.0.0.1:1/x"
    for words in (["run", written(tmp_path, TINY), "--out", "out"], ["pack", DATA, "postgres"]):
        found = loadstone(*words, "--postgres", dsn)
        assert found.status == 4
        assert "127.0.0.1:1/x: Connection refused" in found.err
        assert "secret" not in found.err + found.out
    assert not (tmp_path / "out").exists()


def test_a_publisher_that_cannot_be_reached_is_status_4(loadstone: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the address and what to do by hand."""
    archive = Archive("http://127.0.0.1:1/cifar-10-binary.tar.gz", "0" * 32, "cifar-10-batches-bin")
    monkeypatch.setattr(Cifar10, "archives", classmethod(lambda _: (archive,)))
    found = loadstone("download", "cifar10", "--data-dir", "data")
    assert found.status == 4
    assert archive.url in found.err
    assert "--data-dir" in found.err


def test_a_folder_without_records_is_status_4(loadstone: Call, tmp_path: Path) -> None:
    """``report`` says what to name instead."""
    found = loadstone("report", tmp_path)
    assert found.status == 4
    assert "holds no runs.jsonl" in found.err


def test_what_is_no_store_is_status_4(loadstone: Call, tmp_path: Path) -> None:
    """``verify`` tells no store from a store that differs."""
    assert loadstone("verify", tmp_path / "none").status == 4


def test_a_place_that_cannot_be_written_is_status_5(loadstone: Call, tmp_path: Path) -> None:
    """Results and stores under a file: the line names the place."""
    written(tmp_path, "text", "file")
    toml = written(tmp_path, TINY.replace(', "postgres"', ""))
    results = loadstone("run", toml, "--mode", "load", "--out", "file/out")
    stores = loadstone("pack", DATA, "mmap", "--store-dir", "file/stores")
    assert (results.status, stores.status) == (5, 5)
    assert "file/out: Not a directory" in results.err
    assert "file/stores: Not a directory" in stores.err


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system with no room for a store."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_status_5(loadstone: Call, full: Path) -> None:
    """No half of a store is left on it."""
    for backend in ("mmap", "hdf5", "filesystem"):
        found = loadstone("pack", DATA, backend, "--store-dir", full)
        assert found.status == 5
        assert "No space left on device" in found.err
    assert not [path for path in full.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


# A whole run


def test_a_run_ends_with_its_table(finished: Any) -> None:
    """A line a run on the way, then one row a backend, the verdict, and where the files are; nothing on stderr."""
    assert (finished.status, finished.err) == (0, "")
    lines = finished.out.splitlines()
    assert [line.partition("]")[0] for line in lines[:10]] == [f"[{number}/10" for number in range(1, 11)]
    assert all("images/s" in line for line in lines[:10])
    assert {line.split()[0] for line in lines if line.startswith((" mmap ", " postgres "))} == {"mmap", "postgres"}
    assert lines[-1] == "Records, tables, plots: out; more tables: --details, or table.md there"
    assert not set(finished.out) & set("\x1b\r\x07\x08")


def test_a_run_leaves_its_records_tables_and_plots(finished: Any, place: Path) -> None:
    """All that a report is made of, all that it made, and nothing half written."""
    found = contents(place / "out")
    assert {"experiment.toml", "environment.json", "runs.jsonl", "summary.csv", "table.md", "table.tex"} <= set(found)
    plots = {name for name in found if name.startswith("plots/")}
    assert {name.rpartition(".")[2] for name in plots} == {"png", "svg"}
    assert {"plots/epoch_time.png", "plots/loss.svg"} <= plots
    assert not [name for name in found if "partial" in name]


def test_a_run_keeps_what_was_really_run(finished: Any, place: Path) -> None:
    """The experiment reads back; its cells name the codec that the data set decided."""
    kept = experiment.load(str(place / "out" / "experiment.toml"))
    records = record.read(place / "out")
    assert set(kept.cells) == {each.cell for each in records}
    assert {cell.codec for cell in kept.cells if cell.mode != "compute"} == {"raw"}
    environment = json.loads((place / "out" / "environment.json").read_text())
    assert (environment["threads"], environment["experiment"]) == (1, "tiny")


def test_every_cell_ran_once_a_round(finished: Any, place: Path) -> None:
    """With equal order, pixels and losses over the backends of a round, and others in the next one."""
    records = record.read(place / "out")
    assert {each.status for each in records} == {"ok"}
    assert len({(each.cell, each.round) for each in records}) == len(records) == 10
    trained = {number: [each for each in records if each.round == number and each.cell.mode == "train"] for number in (0, 1)}
    for number in (0, 1):
        assert len({(each.losses, each.order_sha256, each.pixel_sha256, each.accuracy) for each in trained[number]}) == 1
    assert trained[0][0].losses != trained[1][0].losses
    assert len({each.content_sha256 for each in records}) == 1
    assert {each.threads for each in records} == {1}


def test_a_report_is_made_again_the_same(finished: Any, place: Path, ended: Call) -> None:
    """From the records alone, byte for byte, in another process; and it prints the same table."""
    before = contents(place / "out")
    shutil.rmtree(place / "out" / "plots")
    (place / "out" / "table.md").write_text("stale")
    found = ended(place, "report", "out")
    assert (found.status, found.err) == (0, "")
    assert contents(place / "out") == before
    assert finished.out.endswith(found.out)


def test_a_second_run_into_the_same_folder_is_refused(finished: Any, place: Path, ended: Call) -> None:
    """Before anything is packed or run; what stands there is left as it is."""
    before = contents(place / "out")
    found = ended(place, "run", "tiny.toml", "--out", "out", "--store-dir", "other")
    assert (found.status, found.out) == (2, "")
    assert found.err.splitlines() == [
        "loadstone: out holds the records of another run; name another folder with --out, or say --resume"
    ]
    assert contents(place / "out") == before
    assert not (place / "other").exists()


def test_a_backend_asked_for_by_name_counts(loadstone: Call, tmp_path: Path) -> None:
    """Unavailable, it is a row with its reason and status 1; not asked for, it is a row and no failure."""
    toml = written(tmp_path, TINY.replace('"postgres"', '"gpu_mmap"').replace('"compute"', '"load"'))
    asked = loadstone("run", toml, "--backend", "gpu_mmap", "--mode", "load", "--out", "asked")
    globbed = loadstone("run", toml, "--backend", "gpu_*", "--mode", "load")
    assert (asked.status, globbed.status) == (1, 0)
    assert "Not run: gpu_mmap (" in asked.out
    assert {each.status for each in record.read(tmp_path / "asked")} == {"unavailable"}
    assert len(list((tmp_path / "results").iterdir())) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("name", ["gpu", "gpu-accuracy", "gpu-dali"])
def test_what_wants_a_gpu_is_refused_without_one(name: str, loadstone: Call, tmp_path: Path) -> None:
    """Hours on the CPU would be another measurement: status 1, the reason, and nothing is written."""
    found = loadstone("run", name)
    assert found.status == 1
    assert "cuda is unavailable: " in found.err
    assert "--device cpu" in found.err
    assert not (tmp_path / "results").exists()


def test_a_dry_run_knows_a_gpu(loadstone: Call) -> None:
    """Its estimate is of the device that the experiment wants: minutes on a GPU, hours on the CPU."""
    wanted = loadstone("run", "gpu", "--dry-run").out
    assert "min once the stores are packed" in wanted
    assert " h " in loadstone("run", "gpu", "--dry-run", "--device", "cpu").out.splitlines()[-1]


def test_a_new_model_needs_no_other_table(loadstone: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in the registry of models, and an estimate knows it, on a CPU and on a GPU."""
    monkeypatch.setitem(MODELS, "resnet14", dataclasses.replace(MODELS["resnet20"], depth=14, gpu_speed=None))
    toml = written(tmp_path, TINY.replace("resnet8", "resnet14"))
    for device in ("cpu", "cuda"):
        found = loadstone("run", toml, "--dry-run", "--device", device)
        assert found.status == 0
        assert "resnet14" in found.out


def test_a_store_damaged_since_it_was_packed_fails_its_run_alone(loadstone: Call, tmp_path: Path) -> None:
    """The other formats are measured; the row says why, and the status is that of the error."""
    toml = written(tmp_path, TINY.replace('"postgres"', '"hdf5"').replace("rounds = 2", "rounds = 1"))
    assert loadstone("pack", DATA, "mmap", "hdf5").status == 0
    (damaged,) = (tmp_path / "stores").rglob("mmap/train.bin")
    damaged.write_bytes(damaged.read_bytes()[:100])
    found = loadstone("run", toml, "--mode", "load", "--out", "out", "--threads", 1)
    assert found.status == 4
    records = {each.cell.backend: each for each in record.read(tmp_path / "out")}
    assert (records["mmap"].status, records["hdf5"].status) == ("failed", "ok")
    assert str(damaged.parent.relative_to(tmp_path)) in records["mmap"].error
    assert "Not run: mmap (failed: " in found.out


def test_what_stands_in_is_called_so(loadstone: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data and network it is said aloud, and the table never calls it by the real name."""
    archive = Archive("http://127.0.0.1:1/cifar-10-binary.tar.gz", "0" * 32, "cifar-10-batches-bin")
    monkeypatch.setattr(Cifar10, "archives", classmethod(lambda _: (archive,)))
    words = ["--dataset", "cifar10", "--backend", "gpu_*", "--mode", "load", "--rounds", 1, "--data-dir", "data"]
    found = loadstone("run", "quick", *words, "--out", "out")
    assert found.status == 0
    assert "Using cifar10~synthetic instead: synthetic pictures of the same shape, not the real data set" in found.out
    assert "quick · cifar10~synthetic · 1 round" in found.out
    assert "cifar10~synthetic" in (tmp_path / "out" / "table.md").read_text()


def test_ones_own_pictures_are_measured_in_one_command(loadstone: Call, tmp_path: Path) -> None:
    """A shipped experiment, on a folder of pictures; ``--dry-run`` shows the cells and the time, and does nothing."""
    found = loadstone("run", "quick", "--dataset", "image_folder:photos", "--backend", "mmap", "--dry-run")
    assert found.status == 0
    *cells, total = found.out.splitlines()
    assert cells
    assert all(line.startswith("image_folder:photos ") for line in cells)
    assert total.startswith(f"{len(cells)} cells, 3 rounds: {3 * len(cells)} runs, about ")
    assert contents(tmp_path) == {}


# Interrupted


def running(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes of a run, once one run of it is recorded and the next has workers."""
    own = psutil.Process(process.pid)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("[1/"):
        assert line, "it ended before its first record"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [own, *own.children(recursive=True)]
        # the command, the fork server, its resource tracker, the run and its two workers, and the database
        if sum("postgres" not in each.name() for each in found) >= 6 and any("postgres" in each.name() for each in found):
            return found
        time.sleep(0.05)
    raise AssertionError("no run with workers was seen")


def left_of(processes: Sequence[psutil.Process], seconds: float = 15.0) -> list[psutil.Process]:
    """What still runs after so many seconds at most; then it is ended."""
    deadline = time.monotonic() + seconds
    while left := [each for each in processes if is_alive(each)]:
        if time.monotonic() > deadline:
            for each in left:
                each.kill()
            return left
        time.sleep(0.1)
    return []


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


LONG = """
datasets = ["synthetic:train=4000,val=16,size=16,classes=4"]
backends = ["postgres"]
modes = ["load"]
seed = 1
repeats = 0

# Not read from the database: a run that lives on must not end for want of it.
[[cells]]
backends = ["mmap"]
modes = ["train"]
models = ["densenet121"]
workers = [2]
"""


@pytest.fixture
def long(place: Path, start: Call, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A short run, recorded, then one that is in its first epoch, which takes minutes."""
    out = place / f"long-{request.node.name}"
    toml = written(place, LONG, "long.toml")
    seed = next(filter(is_short_first, range(20)))
    toml.write_text(LONG.replace("seed = 1", f"seed = {seed}"))
    with start(place, "run", toml.name, "--out", out, "--threads", 1, "--rounds", 1) as process:
        try:
            yield process, out
        finally:
            process.kill()


def is_short_first(seed: int) -> bool:
    """Of two cells, the first."""
    cells: Any = ["short", "long"]
    return str(next(turns(cells, 1, seed)).cell) == "short"


def test_ctrl_c_keeps_what_has_finished(long: tuple[subprocess.Popen[str], Path]) -> None:
    """Status 130, the table of what there is, one line on stderr, and no process left."""
    process, out = long
    processes = running(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == [f"loadstone: interrupted; what finished is recorded in {out}"]
    assert "load only" in printed
    assert f"Records, tables, plots: {out}" in printed
    assert [(each.status, each.cell.mode) for each in record.read(out)] == [("ok", "load")]
    assert (out / "table.md").exists()
    assert left_of(processes) == []


def test_a_killed_run_leaves_no_process_and_no_half_record(long: tuple[subprocess.Popen[str], Path], place: Path) -> None:
    """SIGKILL of the command alone ends the run that was on, its workers and the database; a report can still be made."""
    process, out = long
    processes = running(process)
    process.kill()
    process.communicate(timeout=60)
    assert left_of(processes) == []
    assert (out / "runs.jsonl").read_bytes().endswith(b"\n")
    assert [(each.status, each.cell.mode) for each in record.read(out)] == [("ok", "load")]
    with EmbeddedServer(place / "stores"):  # removes what the killed one could not
        pass


# Stores and lists


def test_a_store_is_packed_and_verified(loadstone: Call, tmp_path: Path) -> None:
    """Both say where it stands; a flipped bit is status 3, and the line says how to mend it."""
    packed = loadstone("pack", DATA, "mmap", "filesystem")
    assert packed.status == 0
    stores = sorted(path.parent.relative_to(tmp_path) for path in (tmp_path / "stores").rglob("manifest.json"))
    assert [line.partition(":")[0] for line in sorted(packed.out.splitlines())] == [str(store) for store in stores]
    found = loadstone("verify", *stores)
    assert found.status == 0
    assert found.out.count("80 samples, as packed") == 2
    path = tmp_path / stores[-1] / "train.bin"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    broken = loadstone("verify", *stores)
    assert broken.status == 3
    assert str(stores[-1]) in broken.err
    assert "loadstone pack --force" in broken.err
    assert loadstone("pack", DATA, "mmap", "--force").status == 0
    assert loadstone("verify", *stores).status == 0


def test_packing_what_cannot_run_here_is_status_1(loadstone: Call) -> None:
    """The line gives the reason."""
    found = loadstone("pack", DATA, "gpu_mmap")
    assert found.status == 1
    assert "gpu_mmap is unavailable: " in found.err


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("datasets", ["cifar10", "tiny-imagenet", "image_folder:photos", "synthetic:", "`loadstone download cifar10`"]),
        ("backends", ["memory", "filesystem", "mmap", "hdf5", "postgres", "gpu_mmap", "dali", "unavailable: ", "available"]),
        ("models", ["resnet8", "densenet22", "arXiv:"]),
        ("protocols", ["he2016", "thesis-cpu", "164 epochs"]),
        ("experiments", ["quick", "loaders", "thesis-cpu", "3 rounds"]),
    ],
)
def test_lists_say_what_there_is(what: str, words: list[str], loadstone: Call) -> None:
    """By name, and whether it can be used here; nothing is cut off in a log."""
    found = loadstone("list", what, "--data-dir", "none")
    assert found.status == 0
    assert all(word in found.out for word in words)
    assert "…" not in found.out


def test_a_list_of_everything_has_every_list(loadstone: Call) -> None:
    """``loadstone list`` alone is where a newcomer looks."""
    found = loadstone("list", "--data-dir", "none").out.splitlines()
    assert {"datasets", "backends", "models", "protocols", "experiments"} <= {line.strip() for line in found}


def test_data_sets_that_are_there_are_found(loadstone: Call, tmp_path: Path) -> None:
    """However whole they are."""
    found = loadstone("list", "datasets", "--data-dir", cifar(tmp_path)).out.splitlines()
    line = next(line for line in found if line.startswith("cifar10 "))
    assert line.strip().endswith("found")
    assert "not found" not in line


def test_info_describes_the_machine(loadstone: Call) -> None:
    """What records will say of it, and where things are looked for."""
    found = loadstone("info", "--data-dir", "some/data")
    assert found.status == 0
    assert all(word in found.out for word in ("cores", "GiB", "torch", "numpy", "some/data", "stores"))


def test_the_version_is_the_installed_one(loadstone: Call) -> None:
    """For bug reports."""
    assert loadstone("--version").out.startswith("loadstone, version ")


def test_settings_come_from_the_environment_too(loadstone: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``LOADSTONE_DATA``, ``LOADSTONE_STORES`` and ``LOADSTONE_ALLOW_UNVERIFIED`` stand for the options."""
    monkeypatch.setenv("LOADSTONE_DATA", str(cifar(tmp_path)))
    monkeypatch.setenv("LOADSTONE_STORES", "elsewhere")
    monkeypatch.setenv("LOADSTONE_ALLOW_UNVERIFIED", "1")
    assert loadstone("pack", "cifar10", "mmap").status == 0
    assert list((tmp_path / "elsewhere").rglob("manifest.json"))


def test_a_reader_that_goes_away_is_no_error(environment: dict[str, str]) -> None:
    """``loadstone list | head -1`` ends without a traceback."""
    code = "import sys; from bench.cli import main; main(['list', 'models'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
