"""Measure JPEG decoders and put the table into docs/method.md; see "Decoding JPEG" there.

    .venv/bin/python docs/decoders.py DATA_DIR

DATA_DIR holds ``tiny-imagenet-200/`` (or a part of it), on which speed is measured, and ``photos/``, any tree of class folders.
Decoders that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from bench.machine import cores, processor
from datasets import registry
from datasets.source import Source
from loaders.codec import Pixels
from loaders.decoding import Places, decode_equal
from loaders.turbojpeg import turbo

MARKS = "<!-- decoders: begin -->\n", "<!-- decoders: end -->"
BATCH, ROUNDS, PICTURES = 256, 7, 6000

Decoder = Callable[[Sequence[bytes], Pixels], None]
"""Decodes files of one size into uint8 (B, H, W, 3)."""


def by_pillow(files: Sequence[bytes], out: Pixels) -> None:
    """As people write it."""
    for row, file in enumerate(files):
        out[row] = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def by_torchvision(files: Sequence[bytes], out: Pixels) -> None:
    """``torchvision.io.decode_jpeg``, a picture a call."""
    for row, file in enumerate(files):
        picture = decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8), mode=ImageReadMode.RGB)
        out[row] = picture.permute(1, 2, 0).numpy()


def by_simplejpeg(files: Sequence[bytes], out: Pixels) -> None:
    """``simplejpeg.decode_jpeg`` into its row, a picture a call."""
    for row, file in enumerate(files):
        simplejpeg.decode_jpeg(file, buffer=out[row])


def by_imagecodecs(files: Sequence[bytes], out: Pixels) -> None:
    """``imagecodecs.jpeg8_decode`` into its row, a picture a call."""
    import imagecodecs

    for row, file in enumerate(files):
        imagecodecs.jpeg8_decode(file, outcolorspace="rgb", out=out[row])


def by_pylibjxl(files: Sequence[bytes], out: Pixels) -> None:
    """``pylibjxl.decode_jpeg`` into its row, a picture a call."""
    import pylibjxl

    for row, file in enumerate(files):
        pylibjxl.decode_jpeg(file, out=out[row])


def by_nvimagecodec(files: Sequence[bytes], out: Pixels) -> None:
    """The CPU decoder of nvImageCodec, a batch a call, and a copy of each picture into its row."""
    from nvidia import nvimgcodec as nv

    backends = [nv.Backend(nv.BackendKind.CPU_ONLY)]
    decoder = nv.Decoder(backends=backends, max_num_cpu_threads=1, device_id=-99999)  # its number for "no GPU"
    parameters = nv.DecodeParams(color_spec=nv.ColorSpec.SRGB)
    for row, image in enumerate(decoder.decode([nv.CodeStream(file) for file in files], params=parameters)):
        out[row] = np.asarray(image.cpu())


def by_batch(files: Sequence[bytes], out: Pixels) -> None:
    """Loadstone's own way: joined, and libjpeg-turbo called in one loop."""
    assert not decode_equal(Places.of(files), out).any()


DECODERS: dict[str, tuple[Decoder, str]] = {
    "Pillow": (by_pillow, "pillow"),
    "torchvision": (by_torchvision, "torchvision"),
    "imagecodecs": (by_imagecodecs, "imagecodecs"),
    "pylibjxl": (by_pylibjxl, "pylibjxl"),
    "nvImageCodec on the CPU": (by_nvimagecodec, "nvidia-nvimgcodec-cu13"),
    "simplejpeg": (by_simplejpeg, "simplejpeg"),
    "libjpeg-turbo, a batch a call": (by_batch, "pylibjxl"),
}


def main() -> None:
    """Measure, and rewrite the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    data_dir: Path = parser.parse_args().data_dir
    small = files_of(registry.open_source("tiny-imagenet", data_dir, allow_unverified=True))
    large = files_of(registry.open_source("image_folder:photos", data_dir))
    found = {name: decoder for name, (decoder, package) in DECODERS.items() if is_there(name, package)}
    busy = os.getloadavg()[0]
    spans = measure(found, small)
    lines = [
        "| decoder | version | 1 thread | 2 threads | CPU, µs a picture | equal to Pillow's |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, decoder in found.items():
        equal, package = equal_to_pillow(decoder, [*small, *large]), DECODERS[name][1]
        one, two = (f"{len(small) / np.median(spans[name, threads], axis=0)[0] / 1e3:.1f}" for threads in (1, 2))
        work = f"{np.median(spans[name, 1], axis=0)[1] / len(small) * 1e6:.0f}"
        version = importlib.metadata.version(package)
        lines.append(f"| {name} | {version} | {one} | {two} | {work} | {equal:,} of {len(small + large):,} |")
    page = Path(__file__).with_name("method.md")
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    what = f"Thousand pictures a second, of {len(small):,} of Tiny ImageNet in RAM"
    caption = f"{what}, batches of {BATCH}, medians of {ROUNDS} rounds, {processor()}, {cores()} cores"
    if busy > 0.5:
        caption += f" on which {busy:.1f} other tasks ran meanwhile: compare CPU time, not speed"
    table = "\n".join([f"{caption}.", "", *lines, ""])
    page.write_text(before + MARKS[0] + table + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")


def files_of(source: Source) -> list[bytes]:
    """The first pictures of a source's training split, as JPEG files."""
    pictures = [example.picture for example, _ in zip(source.examples("train"), range(PICTURES), strict=False)]
    return [picture for picture in pictures if isinstance(picture, bytes)]


def is_there(name: str, package: str) -> bool:
    """Whether a decoder can be called here."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return name != "libjpeg-turbo, a batch a call" or turbo().decode is not None


Spans = dict[tuple[str, int], list[tuple[float, float]]]
"""Of each decoder and number of threads: seconds, and seconds of CPU time, of each round."""


def measure(decoders: dict[str, Decoder], files: Sequence[bytes]) -> Spans:
    """All decoders, with one and two threads, in every round."""
    spans: Spans = {}
    for _ in range(ROUNDS):
        for name, decoder in decoders.items():
            for threads in (1, 2):
                spans.setdefault((name, threads), []).append(timed(decoder, files, threads))
    return spans


def timed(decoder: Decoder, files: Sequence[bytes], threads: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, that threads take which share the batches."""
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    shape = np.asarray(Image.open(io.BytesIO(files[0]))).shape[:2]

    def work(first: int) -> None:
        out = np.empty((BATCH, *shape, 3), np.uint8)
        for batch in batches[first::threads]:
            decoder(batch, out[: len(batch)])

    workers: list[Any] = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    started, before = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started, time.process_time() - before


def equal_to_pillow(decoder: Decoder, files: Sequence[bytes]) -> int:
    """How many pictures come with exactly Pillow's pixels."""
    equal = 0
    for file in files:
        wanted = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        out = np.zeros((1, *wanted.shape), np.uint8)
        decoder([file], out)
        equal += bool((out[0] == wanted).all())
    return equal


if __name__ == "__main__":
    main()
