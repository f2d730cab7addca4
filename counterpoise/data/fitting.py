"""Pictures brought to the working resolution, one by one or many at a time with the same result, and their statistics."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

LONG_WAY = 6  # a square this many times the target is first reduced by a box, as `reducing_gap=3` has it
MOST_WAITING = 2 << 20  # bytes of pictures held back until there are enough to resize together


def fit(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """The centre square at the working resolution, (size, size, channels) uint8; the same array if it already is."""
    pixels = _coloured(pixels, channels)
    if pixels.shape[:2] != (size, size):
        square = _square(pixels, size)
        pixels = _resize_one(pixels, size) if square is None else _resize([square], size)[0]
    return _widened(pixels, channels)


class Fitting:
    """Fits pictures into the rows of a cache (n, size, size, channels). Equal squares are resized together: that is
    several times as fast. `finish` brings in the last ones."""

    def __init__(self, cache: np.ndarray) -> None:
        self.cache = cache
        self.waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        self.held = 0

    def put(self, row: int, pixels: np.ndarray) -> None:
        size, channels = self.cache.shape[2:]
        pixels = _coloured(pixels, channels)
        square = None if pixels.shape[:2] == (size, size) else _square(pixels, size)
        if square is None:
            self.cache[row] = fit(pixels, size, channels)
            return
        self.waiting.setdefault(square.shape, []).append((row, square))
        self.held += pixels.nbytes
        if self.held > MOST_WAITING:
            self.finish()

    def finish(self) -> None:
        size, channels = self.cache.shape[2:]
        for members in self.waiting.values():
            made = _resize([square for _, square in members], size)
            self.cache[[row for row, _ in members]] = _widened(made, channels)
        self.waiting, self.held = {}, 0


def _coloured(pixels: np.ndarray, channels: int) -> np.ndarray:
    assert {channels, pixels.shape[2]} <= {1, 3}, (channels, pixels.shape)
    if pixels.shape[2] == 3 and channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    return pixels


def _widened(pixels: np.ndarray, channels: int) -> np.ndarray:
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] < channels else pixels


def _square(pixels: np.ndarray, size: int) -> np.ndarray | None:
    """The centre square, with as much on both long sides as its edge pixels are made of; None if that would not lie
    on whole pixels of the picture and of the result, or if the square is far larger than the target."""
    height, width = pixels.shape[:2]
    side, spare = min(height, width), abs(height - width) // 2
    if (height + width) % 2 or side >= LONG_WAY * size:
        return None
    whole = math.gcd(side, size)
    step = side // whole  # so many pixels of the picture are a whole number of the result
    reach = 2 * max(1.0, side / size)  # of the bicubic filter
    margin = min(math.ceil(reach / step) * step, spare)
    if margin % step:
        return None
    top, left = (spare - margin, 0) if height > width else (0, spare - margin)
    return pixels[top : height - top, left : width - left]


def _resize(squares: list[np.ndarray], size: int) -> np.ndarray:
    """Antialiased bicubic on uint8: Pillow's filter in vector instructions; roundings differ by 1 in some 0.2 % of values."""
    height, width = squares[0].shape[:2]
    above, beside = (
        (length - min(height, width)) * size // (2 * min(height, width)) for length in (height, width)
    )
    x = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    shape = (size + 2 * above, size + 2 * beside)
    made = torch.nn.functional.interpolate(x, size=shape, mode="bicubic", antialias=True)
    made = made[:, :, above : above + size, beside : beside + size]
    return np.ascontiguousarray(made.permute(0, 2, 3, 1).numpy())


def _resize_one(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    # One antialiased step from the square to the target; only far larger images are first reduced by a box.
    box = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=LONG_WAY / 2)
    return np.asarray(image).reshape(size, size, -1)


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each image's values, (n, ...) uint8."""
    mean, std = np.zeros(len(images), np.float32), np.zeros(len(images), np.float32)
    values = int(np.prod(images.shape[1:]))
    step = max(1, (1 << 18) // values)  # float copies that stay in the processor's cache
    for row in range(0, len(images), step):
        x = images[row : row + step].reshape(-1, values).astype(np.float32)
        mean[row : row + step] = middle = x.sum(1) / values
        x -= middle[:, None]
        std[row : row + step] = np.sqrt(np.einsum("ij,ij->i", x, x) / values)
    return mean, std
