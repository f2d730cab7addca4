"""Rows of decoded pixels: real ones from the memory-mapped cache, synthetic ones behind them, read by number.

Only the rows that are asked for are read. Nothing here knows labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Several arrays (uint8 pixels (n, h, w, c), or features (n, d)) seen as one; `order[i]` is the place of row i in their concatenation."""

    arrays: Sequence[np.ndarray]
    order: np.ndarray

    @classmethod
    def of(cls, *arrays: np.ndarray, order: np.ndarray | None = None) -> Rows:
        total = sum(len(array) for array in arrays)
        return cls(arrays, np.arange(total) if order is None else np.asarray(order, np.int64))

    def __len__(self) -> int:
        return len(self.order)

    def raw(self, picked: np.ndarray) -> np.ndarray:
        """The rows themselves, in the order asked for."""
        places = self.order[picked]
        if len(self.arrays) == 1:
            return np.asarray(self.arrays[0][places])
        out = np.empty((len(places), *self.arrays[0].shape[1:]), self.arrays[0].dtype)
        first = 0
        for array in self.arrays:
            mine = (places >= first) & (places < first + len(array))
            out[mine] = array[places[mine] - first]
            first += len(array)
        return out

    def batch(self, picked: np.ndarray) -> Tensor:
        """(b, c, h, w) uint8: geometry is cheapest on bytes, so augmentation starts there."""
        return torch.from_numpy(self.raw(picked)).permute(0, 3, 1, 2)


def as_float(x: Tensor) -> Tensor:
    """[0, 255] bytes => [0, 1] floats; floats pass."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def as_seen(rows: np.ndarray) -> Tensor:
    """Rows as they are stored, as a classifier sees them: bytes (n, h, w, c) => [0, 1] (n, c, h, w); vectors pass."""
    x = torch.from_numpy(np.array(rows))
    return as_float(x.permute(0, 3, 1, 2)) if x.ndim == 4 else x
