"""CIFAR-10 and CIFAR-100 in every published form, and what damaged files get."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from datasets.cifar import Cifar10, Cifar100, Form
from datasets.errors import DatasetCorrupt, DatasetMissing, DatasetUnverified
from datasets.source import Source

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
EACH = 20

Batches = dict[str, tuple[list[int], npt.NDArray[np.uint8]]]
Pickler = Callable[[object], bytes]


def _as_python3(content: object) -> bytes:
    return pickle.dumps(content, protocol=4)


@pytest.fixture
def batches() -> Batches:
    draws = np.random.default_rng(1)
    return {name: (draws.permutation(EACH).tolist(), draws.integers(0, 256, (EACH, 3072), np.uint8)) for name in BATCHES}


@pytest.fixture
def batches_of_ten(batches: Batches) -> Batches:
    return {name: ([label % 10 for label in labels], planes) for name, (labels, planes) in batches.items()}


@pytest.fixture
def binary(tmp_path: Path, batches_of_ten: Batches) -> Path:
    """A data folder with the binary form of CIFAR-10."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (labels, planes) in batches_of_ten.items():
        records = b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, planes, strict=True))
        (folder / f"{name}.bin").write_bytes(records)
    (folder / "batches.meta.txt").write_text("\n".join([*NAMES, "", ""]))
    return tmp_path


def _write_python(root: Path, batches: Batches, pickler: Pickler) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, (labels, planes) in batches.items():
        (folder / name).write_bytes(pickler({"batch_label": name, "labels": labels, "data": planes, "filenames": ["a.png"]}))
    (folder / "batches.meta").write_bytes(pickler({"num_vis": 3072, "label_names": NAMES}))
    return root


@pytest.fixture(params=["python 2", "python 3"])
def pickler(request: pytest.FixtureRequest, as_python2: Pickler) -> Pickler:
    return as_python2 if request.param == "python 2" else _as_python3


@pytest.fixture
def python(tmp_path: Path, batches_of_ten: Batches, pickler: Pickler) -> Path:
    """A data folder with the Python form of CIFAR-10."""
    return _write_python(tmp_path, batches_of_ten, pickler)


def _publish(monkeypatch: pytest.MonkeyPatch, root: Path, kind: type[Cifar10] = Cifar10) -> None:
    """Take the files in ``root`` for the published ones."""

    def published(form: Form) -> Form:
        folder, archive = root / form.archive.folder, root / form.archive.file
        sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.glob("*")} if form.md5 else {}
        md5 = hashlib.md5(archive.read_bytes()).hexdigest() if archive.exists() else form.archive.md5
        return replace(form, md5=sums, archive=replace(form.archive, md5=md5))

    monkeypatch.setattr(kind, "forms", tuple(published(form) for form in kind.forms))


def _expected(labels: list[int], planes: npt.NDArray[np.uint8]) -> list[tuple[bytes, int]]:
    """Red, green and blue of each pixel side by side, picked one by one from the publisher's planes."""
    pictures = []
    for label, row in zip(labels, planes.tolist(), strict=True):
        pictures.append((bytes(row[colour * 1024 + place] for place in range(1024) for colour in range(3)), label))
    return pictures


def _seen(source: Source, split: str) -> list[tuple[bytes, int]]:
    seen = []
    for picture, label in source.examples(split):
        assert not isinstance(picture, bytes)
        assert picture.shape == (32, 32, 3)
        seen.append((picture.tobytes(), label))
    return seen


def _check_examples(source: Source, batches: Batches) -> None:
    assert _seen(source, "train") == [pair for name in BATCHES[:5] for pair in _expected(*batches[name])]
    assert _seen(source, "val") == _expected(*batches["test_batch"])


def test_binary_form_yields_the_publishers_pixels_and_labels_in_file_order(binary: Path, batches_of_ten: Batches) -> None:
    """Every pixel and label of the binary form comes out at its place, batch 1 to 5 and then the test batch."""
    _check_examples(Cifar10(binary, allow_unverified=True), batches_of_ten)


def test_python_form_yields_the_same_as_the_binary_form(python: Path, batches_of_ten: Batches) -> None:
    """The Python form, pickled by Python 2 or 3, gives the same examples."""
    source = Cifar10(python, allow_unverified=True)
    _check_examples(source, batches_of_ten)
    assert source.info.classes == tuple(NAMES)


def test_info_says_what_is_there(binary: Path) -> None:
    """Counts, classes, shape and codec are known before a picture is read."""
    info = Cifar10(binary, allow_unverified=True).info
    assert info.counts == {"train": 5 * EACH, "val": EACH}
    assert (info.classes, info.shape, info.channels, info.codec) == (tuple(NAMES), (32, 32, 3), 3, "raw")


def test_matching_checksums_are_said(monkeypatch: pytest.MonkeyPatch, binary: Path) -> None:
    """Files whose MD5 sums are the published ones carry the plain name."""
    _publish(monkeypatch, binary)
    info = Cifar10(binary).info
    assert (info.name, info.verification) == ("cifar10", "checksum")


def test_unknown_files_are_refused_by_name(binary: Path) -> None:
    """Without --allow-unverified, files that differ from the published ones are refused, and the first is named."""
    with pytest.raises(DatasetUnverified, match=r"data_batch_1\.bin has MD5 .*--allow-unverified"):
        Cifar10(binary)


@pytest.mark.parametrize(("published", "word"), [(100, "unverified"), (101, "part"), (99, "unverified")])
def test_unverified_files_are_named_in_tables(monkeypatch: pytest.MonkeyPatch, binary: Path, published: int, word: str) -> None:
    """Fewer examples than published are a part, as many are unverified; the name says which."""
    monkeypatch.setattr(Cifar10, "published", {"train": published, "val": EACH})
    info = Cifar10(binary, allow_unverified=True).info
    assert (info.name, info.verification) == (f"cifar10 ({word})", word)


def test_fingerprint_follows_the_files(binary: Path) -> None:
    """One changed byte changes the fingerprint; reading again does not."""
    before = Cifar10(binary, allow_unverified=True).info.fingerprint
    assert Cifar10(binary, allow_unverified=True).info.fingerprint == before
    path = binary / "cifar-10-batches-bin/data_batch_4.bin"
    data = bytearray(path.read_bytes())
    data[77] ^= 1
    path.write_bytes(data)
    assert Cifar10(binary, allow_unverified=True).info.fingerprint != before


def test_nothing_there_names_the_remedy(tmp_path: Path) -> None:
    """Without any file, the message says how to get the data set."""
    with pytest.raises(DatasetMissing, match="loadstone download cifar10"):
        Cifar10(tmp_path)


@pytest.mark.parametrize("file", ["data_batch_3.bin", "batches.meta.txt"])
def test_a_missing_file_is_named(binary: Path, file: str) -> None:
    """A folder that lacks one file is not read, and the file is named."""
    (binary / "cifar-10-batches-bin" / file).unlink()
    with pytest.raises(DatasetMissing, match=file):
        Cifar10(binary, allow_unverified=True)


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("size", [0, 3072, 3073 * EACH - 1])
def test_a_truncated_file_is_corrupt_whatever_the_flag(binary: Path, size: int, allow: bool) -> None:
    """A binary file that is no whole number of records is refused even where unverified files are allowed."""
    os.truncate(binary / "cifar-10-batches-bin/data_batch_2.bin", size)
    with pytest.raises(DatasetCorrupt, match=r"data_batch_2\.bin: .*cut short"):
        Cifar10(binary, allow_unverified=allow)


@pytest.mark.parametrize("allow", [False, True])
def test_a_label_out_of_range_is_corrupt_whatever_the_flag(binary: Path, allow: bool) -> None:
    """A label that no class has is refused, with file and record."""
    path = binary / "cifar-10-batches-bin/data_batch_5.bin"
    data = bytearray(path.read_bytes())
    data[3073 * 7] = 10
    path.write_bytes(data)
    with pytest.raises(DatasetCorrupt, match=r"data_batch_5\.bin: record 7 has label 10"):
        Cifar10(binary, allow_unverified=allow)


def test_too_few_class_names_are_corrupt(binary: Path) -> None:
    """A file of names that does not name every class is refused."""
    (binary / "cifar-10-batches-bin/batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DatasetCorrupt, match="names 2 classes"):
        Cifar10(binary, allow_unverified=True)


@pytest.mark.parametrize(
    ("labels", "rows", "what"),
    [
        ([0, 1, 10], 3, "label 10"),
        ([0, -1, 1], 3, "label -1"),
        ([0, 1], 3, "2 labels for 3 pictures"),
        ([], 0, "0 labels"),
        (["cat", "dog"], 2, "no list of whole numbers"),
    ],
)
def test_a_pickle_with_wrong_labels_is_corrupt(python: Path, pickler: Pickler, labels: list[int], rows: int, what: str) -> None:
    """Labels of the Python form are checked as those of the binary form are."""
    content = {"labels": labels, "data": np.zeros((rows, 3072), np.uint8)}
    (python / "cifar-10-batches-py/data_batch_1").write_bytes(pickler(content))
    with pytest.raises(DatasetCorrupt, match=f"data_batch_1: .*{what}"):
        Cifar10(python, allow_unverified=True)


@pytest.mark.parametrize("data", [np.zeros((2, 3072), np.float32), np.zeros((2, 3071), np.uint8), [[0] * 3072] * 2])
def test_a_pickle_with_other_data_is_corrupt(tmp_path: Path, batches_of_ten: Batches, data: object) -> None:
    """Pixels that are not rows of 3,072 bytes are refused."""
    _write_python(tmp_path, batches_of_ten, _as_python3)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(_as_python3({"labels": [0, 1], "data": data}))
    with pytest.raises(DatasetCorrupt, match="test_batch"):
        Cifar10(tmp_path, allow_unverified=True)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.999])
def test_a_pickle_cut_short_is_corrupt(python: Path, share: float) -> None:
    """A pickle that ends too early is refused, wherever it was cut."""
    path = python / "cifar-10-batches-py/data_batch_2"
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DatasetCorrupt, match="data_batch_2"):
        Cifar10(python, allow_unverified=True)


class _Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_a_hostile_pickle_runs_nothing(python: Path, tmp_path: Path) -> None:
    """A pickle that would call a function is refused before it does, and the function is named."""
    target = tmp_path / "made-by-a-pickle"
    (python / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps({"labels": _Hostile(target)}))
    with pytest.raises(DatasetCorrupt, match=r"asks for posix\.mkdir"):
        Cifar10(python, allow_unverified=True)
    assert not target.exists()


@pytest.mark.parametrize("form", ["binary", "python"])
def test_an_official_archive_is_unpacked_at_first_use(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tar_gz: Callable[..., Path],
    batches_of_ten: Batches,
    form: str,
) -> None:
    """Where only the archive is there, it is checked and unpacked, and the source reads as always."""
    root: Path = request.getfixturevalue(form) if form == "binary" else _python_root(request, batches_of_ten)
    folder = next(path for path in root.iterdir() if path.is_dir())
    tar_gz(folder, root / f"cifar-10-{form}.tar.gz")
    _publish(monkeypatch, root)
    shutil.rmtree(folder)
    source = Cifar10(root)
    assert source.info.verification == "checksum"
    _check_examples(source, batches_of_ten)


def _python_root(request: pytest.FixtureRequest, batches: Batches) -> Path:
    return _write_python(request.getfixturevalue("tmp_path"), batches, request.getfixturevalue("as_python2"))


def test_an_archive_with_another_checksum_is_refused(binary: Path, tar_gz: Callable[..., Path]) -> None:
    """An archive that is not the published one is not unpacked unless that is allowed."""
    folder = binary / "cifar-10-batches-bin"
    tar_gz(folder, binary / "cifar-10-binary.tar.gz")
    shutil.rmtree(folder)
    with pytest.raises(DatasetUnverified, match=r"cifar-10-binary\.tar\.gz: its MD5 is"):
        Cifar10(binary)
    assert not folder.exists()
    assert Cifar10(binary, allow_unverified=True).info.verification == "part"


@pytest.fixture
def hundred(tmp_path: Path, batches: Batches) -> Path:
    """A data folder with the binary form of CIFAR-100: a coarse label, then the fine one."""
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for file, name in (("train.bin", "data_batch_1"), ("test.bin", "test_batch")):
        labels, planes = batches[name]
        rows = (bytes([label % 7, label + 80]) + row.tobytes() for label, row in zip(labels, planes, strict=True))
        (folder / file).write_bytes(b"".join(rows))
    (folder / "fine_label_names.txt").write_text("".join(f"fine{number}\n" for number in range(100)))
    (folder / "coarse_label_names.txt").write_text("".join(f"coarse{number}\n" for number in range(20)))
    return tmp_path


def _hundred_expected(batches: Batches, name: str) -> list[tuple[bytes, int]]:
    labels, planes = batches[name]
    return _expected([label + 80 for label in labels], planes)


def test_cifar100_has_the_fine_labels(hundred: Path, batches: Batches) -> None:
    """Of the two label bytes of CIFAR-100, the fine one counts."""
    source = Cifar100(hundred, allow_unverified=True)
    assert _seen(source, "train") == _hundred_expected(batches, "data_batch_1")
    assert _seen(source, "val") == _hundred_expected(batches, "test_batch")
    assert source.info.classes[99] == "fine99"


def test_cifar100_python_form_has_the_fine_labels(tmp_path: Path, batches: Batches, pickler: Pickler) -> None:
    """The Python form of CIFAR-100 gives its fine labels too."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file, name in (("train", "data_batch_1"), ("test", "test_batch")):
        labels, planes = batches[name]
        content = {"coarse_labels": labels, "fine_labels": [label + 80 for label in labels], "data": planes}
        (folder / file).write_bytes(pickler(content))
    (folder / "meta").write_bytes(pickler({"fine_label_names": [f"fine{number}" for number in range(100)]}))
    source = Cifar100(tmp_path, allow_unverified=True)
    assert _seen(source, "val") == _hundred_expected(batches, "test_batch")


def test_cifar100_binary_form_is_proved_by_its_archive(
    monkeypatch: pytest.MonkeyPatch, hundred: Path, tar_gz: Callable[..., Path]
) -> None:
    """Nobody publishes checksums of these files: unpacking the checked archive is the proof, and a change ends it."""
    with pytest.raises(DatasetUnverified, match="was not unpacked by Loadstone"):
        Cifar100(hundred)
    tar_gz(hundred / "cifar-100-binary", hundred / "cifar-100-binary.tar.gz")
    _publish(monkeypatch, hundred, Cifar100)
    shutil.rmtree(hundred / "cifar-100-binary")
    assert Cifar100(hundred).info.verification == "checksum"
    with (hundred / "cifar-100-binary/test.bin").open("ab") as file:
        file.write(bytes(3074))
    with pytest.raises(DatasetUnverified, match="has changed"):
        Cifar100(hundred)


@pytest.mark.parametrize(("kind", "theirs"), [(Cifar10, "CIFAR10"), (Cifar100, "CIFAR100")])
def test_checksums_of_the_python_forms_are_torchvisions(kind: type[Cifar10], theirs: str) -> None:
    """The sums written here are those that torchvision checks, for archive and files."""
    torchvision = pytest.importorskip("torchvision")
    reference = getattr(torchvision.datasets, theirs)
    form = kind.forms[1]
    files = dict([*reference.train_list, *reference.test_list, (reference.meta["filename"], reference.meta["md5"])])
    assert form.md5 == files
    assert (form.archive.url, form.archive.md5, form.archive.folder) == (
        reference.url,
        reference.tgz_md5,
        reference.base_folder,
    )
    assert form.train == tuple(name for name, _ in reference.train_list)
