"""Pictures are held and decoded as Pillow and torchvision's ImageFolder see them, whatever form they come in."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets.folder import pil_loader

from datasets.source import Example
from loaders.codec import Pixels, UndecodableError, decode, decode_into, encode, is_jpeg, to_pixels
from tests.loaders.sources import decoded, encoded, picture

RNG = np.random.default_rng(11)


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), np.uint8)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def filled(data: bytes, like: Pixels) -> Pixels:
    out = np.full_like(like, 0xAA)
    decode_into("jpeg", data, out)
    return out


# ---- JPEG: the fast decoder gives Pillow's pixels


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(5, 100),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
)
def test_jpeg_is_decoded_as_pillow_does(height: int, width: int, quality: int, subsampling: int, progressive: bool) -> None:
    """Colour JPEG of any size, quality and subsampling gives Pillow's pixels exactly."""
    data = encoded(noise(height, width), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    wanted = decoded(data, 3)
    assert (filled(data, wanted) == wanted).all()
    assert (decode("jpeg", data, height, width, 3) == wanted).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33)])
def test_grey_jpeg_is_decoded_as_pillow_does(size: tuple[int, int], channels: int) -> None:
    """Grey JPEG comes as one channel, or as three equal ones where the data set is in colour."""
    data = encoded(noise(*size, 1), "JPEG")
    wanted = decoded(data, channels)
    assert wanted.shape == (*size, channels)
    assert (filled(data, wanted) == wanted).all()


@pytest.mark.parametrize("quality", [60, 95])
def test_cmyk_jpeg_is_decoded_as_pillow_does(quality: int) -> None:
    """CMYK JPEG, which libjpeg-turbo would turn into other colours, goes through Pillow."""
    data = saved(Image.fromarray(noise(20, 31)).convert("CMYK"), "JPEG", quality=quality)
    wanted = decoded(data, 3)
    assert (filled(data, wanted) == wanted).all()
    assert encode("jpeg", Example(data, 0), 3) == (data, 20, 31)


def test_rgb_jpeg_is_decoded_as_pillow_does() -> None:
    """JPEG that holds RGB rather than YCbCr keeps its colours."""
    pixels = picture(RNG, 24, 24, 3)
    data = saved(Image.fromarray(pixels), "JPEG", quality=100, keep_rgb=True)
    wanted = decoded(data, 3)
    assert np.abs(wanted.astype(int) - pixels).mean() < 2
    assert (filled(data, wanted) == wanted).all()


def test_a_picture_is_decoded_into_a_part_of_a_batch() -> None:
    """Decoding fills its own row of a batch and nothing else."""
    data = encoded(noise(9, 7), "JPEG")
    batch = np.full((3, 9, 7, 3), 0xAA, np.uint8)
    decode_into("jpeg", data, batch[1])
    assert (batch[1] == decoded(data, 3)).all()
    assert (batch[[0, 2]] == 0xAA).all()


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
@pytest.mark.parametrize("codec", ["raw", "png", "jpeg"])
def test_any_buffer_is_decoded(codec: str, wrap: Callable[[bytes], bytes]) -> None:
    """Payloads may be bytes, views of a mapping or arrays."""
    pixels = noise(6, 5)
    data = (
        pixels.tobytes() if codec == "raw" else encoded(pixels, codec.upper(), **({"quality": 100} if codec == "jpeg" else {}))
    )
    wanted = decoded(data, 3) if codec == "jpeg" else pixels
    assert (decode(codec, wrap(data), 6, 5, 3) == wanted).all()  # type: ignore[arg-type]


# ---- damage


@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("codec", ["raw", "png", "jpeg"])
def test_a_payload_cut_short_is_refused(codec: str, part: float) -> None:
    """Half a picture is an error, never a picture that is half grey."""
    pixels = noise(40, 40)
    data = pixels.tobytes() if codec == "raw" else encoded(pixels, codec.upper())
    with pytest.raises(UndecodableError):
        decode(codec, data[: int(len(data) * part)], 40, 40, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(40, 41), (41, 40), (39, 40), (40, 39), (20, 80)])
@pytest.mark.parametrize("codec", ["raw", "png", "jpeg"])
def test_a_payload_of_another_size_is_refused(codec: str, size: tuple[int, int]) -> None:
    """A picture of another size than the batch takes is an error, be it larger or smaller."""
    pixels = noise(40, 40)
    data = pixels.tobytes() if codec == "raw" else encoded(pixels, codec.upper())
    if codec == "raw" and size == (20, 80):
        pytest.skip("as many bytes: raw pixels do not tell their shape")
    with pytest.raises(UndecodableError):
        decode(codec, data, *size, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 4), (-3, 4), (1 << 20, 1 << 20)])
def test_an_absurd_size_is_refused(size: tuple[int, int]) -> None:
    """Sizes out of a damaged column are refused before memory is asked for."""
    for codec in ("raw", "jpeg"):
        with pytest.raises(UndecodableError, match="its size is given as"):
            decode(codec, b"", *size, 3)


def bomb_png() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few kilobytes."""
    rows = zlib.compress(bytes(2501) * 20_000, 9)
    return png_of(struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0), rows)


def bomb_jpeg() -> bytes:
    """A JPEG that says it has 60,000 x 60,000 pixels."""
    data = bytearray(encoded(noise(16, 16), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


def png_of(header: bytes, data: bytes) -> bytes:
    """A PNG file of its header's and its data's bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("codec", ["raw", "png", "jpeg"])
@pytest.mark.parametrize("bomb", [bomb_png, bomb_jpeg])
def test_a_decompression_bomb_is_refused(bomb: Callable[[], bytes], codec: str) -> None:
    """A small file of an absurd number of pixels is refused, not unpacked."""
    with pytest.raises(UndecodableError):
        encode(codec, Example(bomb(), 0), 3)  # type: ignore[arg-type]


def test_a_bomb_in_a_store_is_refused() -> None:
    """A payload that says it is enormous does not fill the batch."""
    with pytest.raises(UndecodableError):
        decode("jpeg", bomb_jpeg(), 16, 16, 3)


# ---- any picture, as ImageFolder sees it


def palette(transparent: bool) -> bytes:
    image = Image.fromarray(noise(12, 9)).quantize(16)
    return saved(image, "PNG", **({"transparency": 3} if transparent else {}))


def alpha(mode: str, form: str = "PNG") -> bytes:
    channels = {"LA": 2, "RGBA": 4}[mode]
    return saved(Image.fromarray(noise(12, 9, channels)), form, **({"lossless": True} if form == "WEBP" else {}))


def turned() -> bytes:
    """A JPEG whose EXIF data ask for a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(noise(12, 9)), "JPEG", exif=exif)


PICTURES: dict[str, Callable[[], bytes]] = {
    "palette": lambda: palette(transparent=False),
    "palette with transparency": lambda: palette(transparent=True),
    "alpha": lambda: alpha("RGBA"),
    "grey with alpha": lambda: alpha("LA"),
    "1 bit": lambda: saved(Image.fromarray(noise(12, 9)).convert("1"), "PNG"),
    "grey": lambda: saved(Image.fromarray(noise(12, 9, 1)[:, :, 0]), "PNG"),
    "cmyk": lambda: saved(Image.fromarray(noise(12, 9)).convert("CMYK"), "JPEG"),
    "turned by EXIF": turned,
    "webp": lambda: encoded(noise(12, 9), "WEBP", quality=80),
    "webp with alpha": lambda: alpha("RGBA", "WEBP"),
    "bmp": lambda: encoded(noise(12, 9), "BMP"),
    "bmp, grey": lambda: encoded(noise(12, 9, 1), "BMP"),
    "bmp, palette": lambda: saved(Image.fromarray(noise(12, 9)).quantize(16), "BMP"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_any_picture_is_what_image_folder_sees(kind: str, tmp_path: Path) -> None:
    """Palettes, alpha, CMYK, single bits and EXIF turns come out as torchvision's ImageFolder gives them."""
    data = PICTURES[kind]()
    (tmp_path / "picture").write_bytes(data)
    wanted = np.asarray(pil_loader(str(tmp_path / "picture")))
    assert wanted.shape == (12, 9, 3)
    assert (to_pixels(data, 3) == wanted).all()
    payload, height, width = encode("raw", Example(data, 0), 3)
    assert (height, width) == (12, 9)
    assert bytes(payload) == wanted.tobytes()


def test_grey_of_16_bits_keeps_its_upper_8() -> None:
    """Deep grey is scaled, where Pillow alone would cut it off at 255 and make it white."""
    deep = np.random.default_rng(3).integers(0, 65536, (12, 9), np.uint16)
    data = saved(Image.fromarray(deep), "PNG")
    wanted = (deep >> 8).astype(np.uint8)
    assert (to_pixels(data, 1)[:, :, 0] == wanted).all()
    assert (to_pixels(data, 3) == wanted[:, :, None]).all()


def test_colour_of_16_bits_keeps_its_upper_8() -> None:
    """Deep colour is scaled likewise."""
    deep = np.random.default_rng(3).integers(0, 65536, (12, 9, 3), np.uint16)
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in deep)
    data = png_of(struct.pack(">IIBBBBB", 9, 12, 16, 2, 0, 0, 0), zlib.compress(rows))
    assert (to_pixels(data, 3) == (deep >> 8).astype(np.uint8)).all()


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF0000WEBP", bytes(1000)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    """Bytes that are no picture are an error of one kind under every codec."""
    for codec in ("raw", "png", "jpeg"):
        with pytest.raises(UndecodableError):
            encode(codec, Example(data, 0), 3)


# ---- what is held


def test_the_publisher_s_jpeg_is_held_unchanged() -> None:
    """A published JPEG is the payload, byte for byte, with its metadata."""
    data = turned()
    assert encode("jpeg", Example(data, 0), 3) == (data, 12, 9)
    assert is_jpeg(data)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_held_as_they_are(channels: int) -> None:
    """Raw and PNG give back the pixels that went in, of whatever memory layout they were."""
    pixels = noise(13, 8, channels)
    turned_over = np.asfortranarray(pixels)
    for codec in ("raw", "png"):
        payload, height, width = encode(codec, Example(turned_over, 0), channels)
        assert (decode(codec, payload, height, width, channels) == pixels).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_become_a_good_jpeg(channels: int) -> None:
    """Pixels that have to be made into JPEG lose little, and no colour resolution."""
    pixels = picture(RNG, 32, 32, channels)
    payload, height, width = encode("jpeg", Example(pixels, 0), channels)
    assert is_jpeg(payload)
    found = decode("jpeg", payload, height, width, channels)
    assert np.abs(found.astype(int) - pixels).mean() < 3


def test_a_png_becomes_a_jpeg() -> None:
    """A picture published otherwise is decoded and made into JPEG where that codec is asked for."""
    pixels = picture(RNG, 16, 24, 3)
    payload, height, width = encode("jpeg", Example(encoded(pixels, "PNG"), 0), 3)
    assert (height, width) == (16, 24)
    assert is_jpeg(payload)
    assert np.abs(decoded(bytes(payload), 3).astype(int) - pixels).mean() < 3
