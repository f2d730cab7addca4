"""How far samples leave their sources: one strength for all, or several that are dealt out evenly."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from counterpoise.types import Refusal


def _shares(found: float | tuple[float, ...]) -> float | tuple[float, ...]:
    if not np.size(found) or not all(0 <= strength <= 1 for strength in np.atleast_1d(found)):
        raise ValueError("a strength is a share of the way, from 0 to 1")
    return found


#: 0 leaves a source as it is, 1 forgets it; of several, every class gets each as often as the others.
Strengths = Annotated[float | tuple[float, ...], AfterValidator(_shares)]


def between(low: float, high: float, steps: int) -> tuple[float, ...]:
    """A range, as all of its strengths between which a sampler of so many `steps` knows a difference.

    A sampler goes whole steps. Strengths in between would make the same samples from the same noise, claim other labels
    for them, and leave batches of one row, because a batch comes down one ladder.

    >>> between(0.3, 0.5, 20)
    (0.3, 0.35, 0.4, 0.45, 0.5)
    """
    first, last = math.ceil(round(low * steps, 6)), math.floor(round(high * steps, 6))
    if not 0 <= first <= last <= steps:
        raise Refusal(
            f"strengths from {low:g} to {high:g} hold no whole number of {steps} steps: widen the range within 0 and 1, "
            "or take more steps"
        )
    return tuple(step / steps for step in range(first, last + 1))
