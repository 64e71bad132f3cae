"""How a picture is held in a store: ``raw`` pixels, ``png``, or ``jpeg`` (the publisher's own bytes where it is one)."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from datasets.picture import LARGEST_PIXELS, NotAPicture, header_of
from datasets.source import Example
from loaders.manifest import CodecName

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]

# Pictures that have to be made into JPEG lose little at this quality, and no colour resolution.
JPEG_QUALITY = 95

EXTENSION: dict[CodecName, str] = {"raw": "ppm", "png": "png", "jpeg": "jpg"}


class UndecodableError(ValueError):
    """These bytes are no picture of the codec, or not of the expected size. Callers add which sample it was."""


def is_jpeg(data: Buffer) -> bool:
    """Whether bytes begin as a JPEG file does."""
    return bytes(data[:3]) == b"\xff\xd8\xff"


def to_pixels(data: bytes, channels: int) -> Pixels:
    """Decode any picture file as torchvision's ``ImageFolder`` does: uint8 (height, width, channels).

    Palettes and CMYK are converted, alpha is dropped, EXIF orientation is not applied (``ImageFolder`` and torchvision's
    ``decode_image`` do neither by default). Grey of 16 bits keeps its upper 8, as 16-bit RGB does in Pillow.

    Raises:
        UndecodableError: the bytes are no picture, or cut short.
    """
    mode = "RGB" if channels == 3 else "L"
    try:
        # Absurd sizes are refused, not warned of: a picture of over 89 million pixels is Pillow's own bound.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as file:
                pixels = np.asarray(_eight_bits(file).convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UndecodableError(f"not a readable picture ({error})") from error
    return pixels.reshape(pixels.shape[0], pixels.shape[1], channels)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow cuts grey of 16 bits off at 255, which makes nearly every such picture white."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def encode(codec: CodecName, example: Example, channels: int) -> tuple[bytes | memoryview, int, int]:
    """The payload of an example under a codec, and its height and width in pixels.

    Raises:
        UndecodableError: the example's bytes are no picture.
    """
    picture = example.picture
    if codec == "jpeg" and isinstance(picture, bytes) and is_jpeg(picture):
        height, width = _jpeg_size(picture)
        return picture, height, width
    pixels = to_pixels(picture, channels) if isinstance(picture, bytes) else picture
    height, width = pixels.shape[:2]
    if codec == "raw":
        return np.ascontiguousarray(pixels).data.cast("B"), height, width
    file = io.BytesIO()
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    if codec == "png":
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue(), height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width, after decoding once: a damaged picture is found when it is packed, not when it is trained on."""
    try:
        header_of(data)  # refuses absurd sizes before memory is asked for
        pixels = simplejpeg.decode_jpeg(data)
    except NotAPicture as error:
        raise UndecodableError(str(error)) from error
    except ValueError:  # damaged: Pillow says how
        pixels = to_pixels(data, 3)
    return pixels.shape[0], pixels.shape[1]


def decode(codec: CodecName, payload: Buffer, height: int, width: int, channels: int) -> Pixels:
    """Decode a payload of known size: uint8 (height, width, channels).

    Raises:
        UndecodableError: the payload is damaged, or of another size.
    """
    if min(height, width) < 1 or height * width > LARGEST_PIXELS:
        raise UndecodableError(f"its size is given as {height} x {width} pixels")
    if codec == "raw":
        if len(payload) != height * width * channels:
            raise UndecodableError(f"{len(payload)} bytes where {height} x {width} x {channels} belong")
        return np.frombuffer(payload, np.uint8).reshape(height, width, channels)
    out = np.empty((height, width, channels), np.uint8)
    decode_into(codec, payload, out)
    return out


def decode_into(codec: CodecName, payload: Buffer, out: Pixels) -> None:
    """Decode a payload straight into ``out``: uint8 (height, width, channels), C-contiguous.

    JPEG gives exactly Pillow's pixels (tested); what simplejpeg does not take (CMYK) goes through Pillow.

    Raises:
        UndecodableError: the payload is damaged, or of another size than ``out``.
    """
    height, width, channels = out.shape
    if codec == "raw":
        np.copyto(out, decode(codec, payload, height, width, channels))
        return
    if codec == "jpeg":
        try:
            # libjpeg-turbo would turn CMYK into RGB too, but not as Pillow does.
            if simplejpeg.decode_jpeg_header(payload)[2] != "CMYK":
                decoded = simplejpeg.decode_jpeg(payload, colorspace="RGB" if channels == 3 else "GRAY", buffer=out)
                if decoded.shape == out.shape:
                    return
        except ValueError:  # damaged or too large for ``out``: Pillow says which
            pass
    pixels = to_pixels(bytes(payload), channels)
    if pixels.shape != out.shape:
        raise UndecodableError(f"{pixels.shape[0]} x {pixels.shape[1]} pixels where {height} x {width} belong")
    np.copyto(out, pixels)
