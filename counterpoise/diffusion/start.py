"""Where x starts: noise that belongs to its row, alone or on top of a source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def row_noise(seeds: Sequence[int], shape: Sequence[int], stream: int = 0) -> Tensor:
    """(b, *shape) float32 standard normal on the CPU; row i depends on seeds[i], shape and stream alone.

    Philox takes both numbers whole, as its key, so that streams of a row never meet. (Torch's own CPU generator keeps
    32 bits of a seed: among 100,000 rows, two would most likely be the same.)
    """
    noise = np.empty((len(seeds), *shape), np.float32)
    philox = np.random.Philox(key=np.array([0, stream], np.uint64))
    draw, fresh = np.random.Generator(philox).standard_normal, philox.state
    for row, seed in enumerate(seeds):
        fresh["state"]["key"][0] = seed
        philox.state = fresh  # a third of the time that a new generator for every row takes
        draw(dtype=np.float32, out=noise[row : row + 1])
    return torch.from_numpy(noise)


def from_noise(ladder: Tensor, seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Nothing but noise, at the first rung."""
    return float(ladder[0]) * row_noise(seeds, shape)


def from_source(ladder: Tensor, x0: Tensor, seeds: Sequence[int]) -> Tensor:
    """A source with noise on it up to the first rung (SDEdit); the source itself where only the final 0 is left."""
    return x0 + float(ladder[0]) * row_noise(seeds, x0.shape[1:]).to(x0)
