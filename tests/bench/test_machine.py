"""The machine as records describe it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
from pathlib import Path

import psutil
import pytest
import torch

from bench import machine
from datasets.errors import Unavailable
from loaders import gpu, versions
from loaders.store import Availability


def test_the_environment_is_plain_json(tmp_path: Path) -> None:
    """It stands in ``environment.json`` as it is, with what a caption needs."""
    found = machine.environment(tmp_path, threads=3, device="cpu", notes=["a note"])
    assert json.loads(json.dumps(found)) == found
    assert (found["threads"], found["device"], found["notes"]) == (3, "cpu", ["a note"])
    assert found["openmp_wait_policy"]
    assert found["torch"] == found["versions"]["torch"]
    assert f"{len(os.sched_getaffinity(0))} cores" in found["machine"]


def test_the_environment_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No user, host or folder: records are published."""
    monkeypatch.chdir(tmp_path)
    text = json.dumps(machine.environment(Path("stores"), threads=1, device="cpu"))
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text or Path.home() == Path("/")
    for name in (socket.gethostname(), getpass.getuser()):
        assert f'"{name}"' not in text


def test_the_file_system_is_that_of_the_nearest_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nested mounts the inner one counts; a folder that is not there yet has its parent's."""

    class Mount:
        def __init__(self, mountpoint: str, fstype: str, opts: str = "rw") -> None:
            self.mountpoint, self.fstype, self.opts = mountpoint, fstype, opts

    mounts = [Mount("/", "ext4", "rw,lowerdir=/home/me"), Mount("/data", "xfs", "rw,noatime"), Mount("/database", "zfs")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    assert machine.filesystem(Path("/data/stores")) == "xfs"
    assert machine.filesystem(Path("/elsewhere")) == "ext4"
    assert (machine.mount_options(Path("/data")), machine.mount_options(Path("/elsewhere"))) == ("rw,noatime", "rw")
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [])
    assert machine.filesystem(Path("/data")) == "unknown"


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux gives it; where it gives none, the architecture."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor: 0\nmodel name\t: A Processor  \n")
    assert machine.processor() == "A Processor"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "nothing here")
    assert machine.processor() == platform.machine()


def test_versions_are_those_installed() -> None:
    """A library that is not installed is left out, not made up."""
    found = versions.installed((*machine.LIBRARIES, "no-such-library"))
    assert {"loadstone", "torch", "numpy"} <= set(found)
    assert set(found) <= set(machine.LIBRARIES)


@pytest.mark.parametrize(
    ("card", "usable", "asked", "found"),
    [
        ("", False, None, "cpu"),
        ("", True, "cpu", "cpu"),
        ("H100", True, None, "cuda"),
        ("H100", False, None, "cpu"),
        ("", True, "cuda", "cuda"),
    ],
)
def test_a_gpu_is_used_where_torch_can(
    card: str, usable: bool, asked: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that torch can't use is as good as none, and it is said why; and what was asked for is taken."""
    monkeypatch.setattr(machine, "gpu", lambda: card)
    monkeypatch.setattr(gpu, "availability", lambda: Availability(usable, "" if usable else "the driver is too old"))
    said: list[str] = []
    assert machine.device(asked, said.append) == found
    assert ["the driver is too old" in words for words in said] == [True] * (card == "H100" and not usable)


def test_a_gpu_that_was_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on the CPU instead would be another measurement."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable, match="--device cpu"):
        machine.device("cuda", print)


def test_what_slows_a_machine_is_told(tmp_path: Path) -> None:
    """A quota, a governor, turbo and huge pages as Linux has them; what it does not tell is left out."""
    files = {
        "sys/devices/system/cpu/online": "0-7\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    }
    assert machine.limits(tmp_path) == {}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.limits(tmp_path) == {
        "online_processors": "0-7",
        "cgroup_cores": "1.5",
        "governor": "powersave",
        "turbo": "off",
        "transparent_huge_pages": "madvise",
    }
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert "cgroup_cores" not in machine.limits(tmp_path)


def test_a_card_without_the_driver_s_files_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sandboxes and WSL2 show a device node only; where there is none, there is no card."""
    (tmp_path / "dxg").touch()
    monkeypatch.setattr(machine, "NODES", (str(tmp_path / "dxg"),))
    assert machine.gpu()
    if not torch.cuda.is_available():
        monkeypatch.setattr(machine, "NODES", (str(tmp_path / "none"),))
        assert not machine.gpu()


@pytest.mark.parametrize(("own", "then"), [(None, "passive"), ("active", "active")])
def test_threads_wait_passively_unless_the_user_says_otherwise(
    own: str | None, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spinning threads make a step last several times as long where anything else takes a core."""
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    assert machine.wait_policy() == then
    assert os.environ.get("OMP_WAIT_POLICY") == own
