"""How far samples leave their sources: one strength for all, several that are dealt out evenly, what is enough for a class,
or what suits so few rows of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field
from sklearn.isotonic import isotonic_regression

from counterpoise.types import Refusal, part


@dataclass(frozen=True)
class Pilot:
    """What became of samples that started in another class: (n,) each."""

    label: np.ndarray  # the class wanted
    strength: np.ndarray
    score: np.ndarray


@part
class Enough:
    """For each class the least of several strengths at which its samples have turned: the mean of `score` reaches `level`.

    At 1/2 of `scores.turned.Turned` a classifier that has not seen the source would say the class wanted. The means are of
    the first round of a budget in two (`budgets.Piloted`), which tries all of `among` alike; they are taken to rise with the
    strength (isotonic regression), as few samples alone would not. A class that never gets there takes the largest
    strength, one without any sample from another class what is enough for all of them together. It does not know that some sources are
    nearer than others, nor whether what has turned shows its class well: a filter has to.

    >>> pilot = Pilot(np.zeros(4, int), np.array([0.3, 0.5, 0.7, 0.9]), np.array([0.1, 0.4, 0.6, 0.9]))
    >>> Enough()(pilot, classes=2).tolist()
    [0.7, 0.7]
    """

    among: Annotated[tuple[float, ...], Field(min_length=2)] = (0.3, 0.5, 0.7, 0.9)
    level: Annotated[float, Field(gt=0, lt=1)] = 0.5
    score: str = "turned"

    def __post_init__(self) -> None:
        _shares(self.among)

    def __call__(self, pilot: Pilot, classes: int) -> np.ndarray:
        """=> the strength of each class (C,)."""
        rungs = np.sort(self.among)
        tried = np.abs(pilot.strength[:, None] - rungs).argmin(1)  # plans keep them in single precision

        def least(rows: np.ndarray) -> float:
            times = np.bincount(tried[rows], minlength=len(rungs))
            there = times > 0
            if not there.any():
                return rungs[-1]
            means = np.bincount(tried[rows], pilot.score[rows], minlength=len(rungs))[there] / times[there]
            rising = isotonic_regression(means, sample_weight=times[there])
            reached = rungs[there][rising >= self.level]
            return reached[0] if len(reached) else rungs[-1]

        everyone = np.ones(len(tried), bool)
        mine = (pilot.label == label for label in range(classes))
        return np.array([least(rows if rows.any() else everyone) for rows in mine])


@part
class ByShots:
    """The fewer real rows a class has, the further its samples leave them: real guidance (He et al. 2023, arXiv 2210.07574).

    Each shot, a number of rows, has a signal-to-noise ratio in dB; between two it is even in the logarithm of the shots,
    and beyond the last that of the last. Generators find the strength at which their own noise is such (`strength_at`),
    so that it means the same on every schedule: a step's number does not. The published ratios are those of GLIDE's 64
    pixels, 15, 20, 35, 40 and 50 of the 100 steps of a cosine schedule (their Appendix C.3), which so cost that
    share of a whole run; of Stable Diffusion's 1,000 steps they are the 60th to the 357th. Latents are not pixels, and keep
    more of a picture at the same ratio, or less: tune it where it matters.

    >>> [round(ByShots()(shots), 1) for shots in (1, 3, 16, 500)]
    [-0.1, 3.5, 12.0, 12.0]
    """

    snr_db: Annotated[tuple[tuple[int, float], ...], Field(min_length=1)] = (
        (1, -0.1),
        (2, 2.6),
        (4, 4.1),
        (8, 9.5),
        (16, 12.0),
    )

    def __post_init__(self) -> None:
        shots = [shots for shots, _ in self.snr_db]
        if shots != sorted(set(shots)) or shots[0] < 1:
            raise Refusal(
                f"ByShots: numbers of rows rise from 1 or more, each with its dB, found {', '.join(map(str, shots))}"
            )

    def __call__(self, shots: int) -> float:
        """=> dB, of a class with so many rows, one at least."""
        known, ratios = zip(*self.snr_db, strict=True)
        return float(np.interp(math.log2(shots), np.log2(known), ratios))


#: What a pairing may be told.
Told = float | tuple[float, ...] | Enough | ByShots


def _shares(found: Told) -> Told:
    if isinstance(found, Enough | ByShots):
        return found
    if not np.size(found) or not all(0 <= strength <= 1 for strength in np.atleast_1d(found)):
        raise ValueError("a strength is a share of the way, from 0 to 1")
    return found


#: 0 leaves a source as it is, 1 forgets it; of several, every class gets each as often as the others.
Strengths = Annotated[Told, AfterValidator(_shares)]


def between(low: float, high: float, steps: int) -> tuple[float, ...]:
    """A range, as all of its strengths that are whole steps of a sampler of so many `steps`.

    Drawn from the whole range they would leave batches of one row, because a batch comes down one ladder.

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
