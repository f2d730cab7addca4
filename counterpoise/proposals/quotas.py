"""How many samples until a class has as many as are wanted of those that a filter lets pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from counterpoise.proposals.budgets import Budget, FillUp, Needs
from counterpoise.types import Refusal, part

LUCK = 1.5  # standard deviations: so lucky a round may be, and still makes none too many


@dataclass(frozen=True)
class Tally:
    """What became of a class so far: (classes,) each."""

    made: np.ndarray  # or tried
    kept: np.ndarray


@part
class Quota:
    """As many *kept* samples of each class as `budget` wants, in rounds: a class that has them stops.

    A round asks for what would be enough if its luck were good: the rest over the upper bound of the share that is kept
    (Wilson's, one and a half standard deviations). So hardly a sample is made that nobody needs, in some five rounds (docs/log.md).
    A class is given up when `most` times what it wants has been made, or after all rounds. What it lacks then is said, never
    filled with what was dropped.

    >>> from counterpoise.proposals.budgets import Fixed
    >>> quota = Quota(Fixed(100), most=3)
    >>> wanted = quota(np.array([5, 5]))
    >>> quota.more(wanted, Tally(made=np.array([100, 100]), kept=np.array([40, 0]))).tolist()
    [126, 200]
    >>> quota.more(wanted, Tally(made=np.array([250, 300]), kept=np.array([100, 0]))).tolist()
    [0, 0]
    """

    budget: Budget = FillUp()
    most: Annotated[float, Field(ge=1)] = 5.0
    rounds: Annotated[int, Field(ge=2)] = 12

    def __post_init__(self) -> None:
        if hasattr(self.budget, "rounds"):
            raise Refusal(
                f"Quota works in rounds until samples are kept, and {type(self.budget).__name__} has rounds of its own: give it the "
                "budget within"
            )

    @property
    def listens(self) -> bool:
        return getattr(self.budget, "listens", False)

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        return self.budget(counts, needs)

    def more(self, wanted: np.ndarray, so_far: Tally) -> np.ndarray:
        """The next round's samples of each class."""
        made, kept = so_far.made, so_far.kept
        rest = np.maximum(wanted - kept, 0)
        room = np.maximum(np.floor(self.most * wanted).astype(np.int64) - made, 0)
        asked = np.floor(rest / _at_best(kept, made)).astype(np.int64)
        return np.where(rest > 0, np.minimum(asked, room), 0)


def _at_best(kept: np.ndarray, made: np.ndarray) -> np.ndarray:
    """The upper end of Wilson's interval for a share; 1 where nothing was made."""
    n, z = np.maximum(made, 1), LUCK
    share = np.where(made > 0, kept / n, 1.0)
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return np.minimum((middle + half) / (1 + z * z / n), 1.0)
