"""When a training has gone on for long enough: rows that it does not see, looked at with the same noise every time.

Adapters come to know few rows by heart. Then the rows that they see are denoised ever better, and others of the same
classes worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.seeding import generator
from counterpoise.types import part

FEWEST = 5  # rows of a class that can spare one


@part
class EarlyStop:
    """Ends a training when for `patience` looks, `every` so many steps, rows put aside were denoised no better.

    Put aside is a `share` of the rows of each class, at least one and never all, but none of a class of fewer than 5. The averaged
    weights are those of the best look.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    every: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int, Field(ge=1)] = 5

    def aside(self, labels: np.ndarray) -> np.ndarray:
        """Which rows are put aside (n,)."""
        found = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            if len(rows) >= FEWEST:
                some = min(max(1, round(self.share * len(rows))), len(rows) - 1)
                found[generator("put aside", label, len(rows)).permutation(rows)[:some]] = True
        return found


class Looks:
    """What was found so far, and the weights of the best look."""

    def __init__(self, settings: EarlyStop, net: nn.Module) -> None:
        self.settings, self.net = settings, net
        self.best, self.since = math.inf, 0
        self.kept = {name: value.clone() for name, value in net.state_dict().items()}

    def __call__(self, error: float) -> bool:
        """Whether that is enough."""
        self.since += 1
        if error < self.best:
            self.best, self.since = error, 0
            self.kept = {name: value.clone() for name, value in self.net.state_dict().items()}
        return self.since >= self.settings.patience

    def finish(self) -> None:
        """The network has its best weights again."""
        self.net.load_state_dict(self.kept)

    def state(self) -> dict[str, Tensor]:
        """All that `load` needs to go on exactly."""
        kept = {f"kept/{name}": value for name, value in self.kept.items()}
        return kept | {
            "best": torch.tensor(self.best, dtype=torch.float64),
            "since": torch.tensor(self.since),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.best, self.since = float(state["best"]), int(state["since"])
        self.kept = {name: state[f"kept/{name}"].to(value) for name, value in self.kept.items()}
