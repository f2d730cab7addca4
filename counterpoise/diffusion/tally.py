"""What a training tells of itself: the loss, overall and by noise level, and how fast it goes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

LEVELS = (0.1, 0.3, 1.0, 3.0)  # of sigma: where the loss is divided


class Tally:
    """Mean loss since the last time it was told, overall and by noise level; on a GPU it waits for nothing."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.pulls: Tensor | None = None
        self.steps, self.since = 0, time.perf_counter()

    def add(self, sigma: Tensor, errors: Tensor, pulls: Tensor) -> None:
        band = torch.bucketize(sigma, torch.tensor(LEVELS, device=sigma.device))
        both = torch.stack([errors, torch.ones_like(errors)], 1)
        sums = torch.zeros(len(LEVELS) + 1, 2, device=sigma.device).index_add_(0, band, both)
        self.sums = sums if self.sums is None else self.sums + sums
        self.pulls = pulls.mean() if self.pulls is None else self.pulls + pulls.mean()
        self.steps += 1

    def told(self, rows_per_step: int) -> dict[str, Any]:
        assert self.sums is not None, "nothing was added"
        assert self.pulls is not None
        loss = self.sums.cpu()
        names = [f"below_{level:g}" for level in LEVELS] + [f"above_{LEVELS[-1]:g}"]
        row = {
            "loss": float(loss[:, 0].sum() / loss[:, 1].sum()),
            "balance": float(self.pulls) / self.steps,
            "by_sigma": {
                name: float(total / n) for name, (total, n) in zip(names, loss, strict=True) if n > 0
            },
            "rows_per_s": round(self.steps * rows_per_step / (time.perf_counter() - self.since), 1),
        }
        self.sums = self.pulls = None
        self.steps, self.since = 0, time.perf_counter()
        return row
