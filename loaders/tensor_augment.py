"""Cropping and mirroring by operations of torch: for whole batches, on the device that they lie on."""

from __future__ import annotations

import torch

from loaders.augment import DRAWN, Augment
from loaders.order import GOLDEN, MIXERS, keyed

_INT32_PIXELS = 2**31


class Drawer:
    """``Augment.draw`` on a device, bit for bit.

    It is ``order.uniform`` in int64: products wrap as those of uint64 do, and shifts are made logical.
    """

    def __init__(self, augment: Augment, device: torch.device) -> None:
        # Made once: a tensor made of Python's numbers is copied to a GPU, and waits for it.
        self._which = torch.tensor([_signed(GOLDEN + draw) for draw in DRAWN], device=device)[:, None]
        self._sides = torch.tensor(augment.sides, dtype=torch.float64, device=device)[:, None]

    def __call__(self, indices: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
        """Row and column of the crop, and whether it is mirrored: int32 (3, B) for int64 (B,), both on the device."""
        state = _mix(indices + _signed(keyed(seed, epoch)))
        bits = _shifted(_mix(state[None] + self._which), 11)
        return (bits.to(torch.float64) * 2.0**-53 * self._sides).to(torch.int32)


def _signed(word: int) -> int:
    """The int64 of the same 64 bits."""
    word %= 2**64
    return word - 2**64 if word >= 2**63 else word


def _shifted(words: torch.Tensor, by: int) -> torch.Tensor:
    return (words >> by) & ((1 << (64 - by)) - 1)


def _mix(words: torch.Tensor) -> torch.Tensor:
    words = (words ^ _shifted(words, 30)) * _signed(MIXERS[0])
    words = (words ^ _shifted(words, 27)) * _signed(MIXERS[1])
    return words ^ _shifted(words, 31)


class Cutter:
    """Pads pictures of one size, crops them back at places of their own, and mirrors some: by one gather of pixels.

    A pixel of three colours is gathered as one int32: docs/gpu.md has what that saves a GPU; a CPU takes as long.

    Args:
        augment: how far, and the padding's colour.
        size: (height, width) of the pictures.
        device: that they lie on.
    """

    def __init__(self, augment: Augment, size: tuple[int, int], device: torch.device) -> None:
        self._padding, self._size = augment.padding, size
        rows, columns = augment.padding
        self._frame = (size[0] + 2 * rows, size[1] + 2 * columns)
        self._channels = len(augment.fill)
        fill = torch.tensor([*augment.fill, 0] if self._channels == 3 else augment.fill, dtype=torch.uint8, device=device)
        self._fill = fill.view(torch.int32) if self._channels == 3 else fill
        along = torch.arange(size[1], dtype=torch.int32, device=device)
        self._columns = torch.stack((along, along.flip(0)))
        self._rows = (torch.arange(size[0], dtype=torch.int32, device=device) * self._frame[1])[None, :, None]
        self._numbers = along

    def __call__(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The crops, uint8 (B, H, W, C), of pictures likewise, for ``Augment.draw``'s (3, B) on the device."""
        if self._padding == (0, 0):
            return torch.where(drawn[2].bool().view(-1, 1, 1, 1), images.flip(2), images)
        if len(images) > len(self._numbers):
            self._numbers = torch.arange(len(images), dtype=torch.int32, device=images.device)
        return self.cut(self.framed(images), self._numbers[: len(images)], drawn)

    def framed(self, images: torch.Tensor) -> torch.Tensor:
        """The pictures inside frames of the padding's colour, an element a pixel: (B, height, width), int32 or uint8."""
        (rows, columns), (height, width) = self._padding, self._size
        framed = self._fill.expand(len(images), *self._frame).contiguous()
        inside = framed.view(torch.uint8).view(*framed.shape, -1)[:, rows : rows + height, columns : columns + width]
        inside[..., : self._channels] = images
        return framed

    def cut(self, framed: torch.Tensor, which: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Crops, uint8 (B, H, W, C), out of ``framed`` at ``which``, integers (B,)."""
        height, width = self._frame
        # Half the bytes of int64, where it holds them.
        kind = torch.int32 if framed.numel() < _INT32_PIXELS else torch.int64
        top, left, mirrored = drawn.to(kind).unbind(0)
        start = torch.add(left, which.to(kind), alpha=height * width).add_(top, alpha=width)
        across = self._columns.to(kind).index_select(0, mirrored).add_(start[:, None])
        pixels = across[:, None, :] + self._rows
        cropped = framed.view(-1).index_select(0, pixels.view(-1)).view(torch.uint8)
        return cropped.view(len(which), *self._size, -1)[..., : self._channels].contiguous()
