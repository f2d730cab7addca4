"""What a synthetic row claims to be: the class that was wanted of it, or still partly that of the row it started from.

A rule answers the share of the label that is the wanted class's; the rest is the source's, so that every label has mass
one. How often a row is drawn is another matter (`mixing`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from counterpoise.types import part

MORE_THAN_HALF = np.nextafter(np.float32(0.5), np.float32(1))


@dataclass(frozen=True)
class Origins:
    """Where synthetic rows come from, and their scores by name: (n,) each."""

    wanted: np.ndarray  # class
    source: np.ndarray  # class of the real row it started from; the class wanted where there is none
    strength: np.ndarray  # share of the way from there
    score: Callable[[str], np.ndarray]


@runtime_checkable
class Claims(Protocol):
    """Synthetic rows => the share of each one's label (n,) that is the wanted class's."""

    def __call__(self, origins: Origins) -> np.ndarray: ...


@part
class ByStrength:
    """(1 - s^gamma) of the label is the source's, s^gamma the wanted class's (Diff-Mix, Wang et al. 2024).

    gamma 0 is the hard label. The larger gamma, the longer the source is believed.

    >>> far = Origins(np.array([3]), np.array([1]), np.array([0.7]), dict.get)
    >>> ByStrength(gamma=0.5)(far).round(5).tolist()
    [0.83666]
    """

    gamma: Annotated[float, Field(ge=0)] = 0.0

    def __call__(self, origins: Origins) -> np.ndarray:
        return origins.strength**self.gamma


@part
class Confident:
    """The hard label where a classifier gives the wanted class at least the probability `least`; else `otherwise`.

    `score` names a log probability in nats, as `Fidelity` is. To drop the others instead, select
    `AtLeast(score, log(least))`. The classifier knows the sources: what hardly left them it takes for them.
    """

    score: str = "label"
    least: Annotated[float, Field(gt=0, le=1)] = 0.5
    otherwise: Claims = ByStrength(gamma=0.5)

    def __call__(self, origins: Origins) -> np.ndarray:
        sure = origins.score(self.score) >= np.log(self.least)
        return np.where(sure, 1.0, self.otherwise(origins))


@part
class Measured:
    """The share that a classifier gives to the class wanted, of that and the source's: no rule, a measurement.

    `score` names it, as `scores.turned.Turned` is, whose classifier has not seen the source.
    """

    score: str = "turned"

    def __call__(self, origins: Origins) -> np.ndarray:
        return origins.score(self.score)


def claimed(labels: np.ndarray, origins: Origins, rule: Claims, classes: int) -> np.ndarray:
    """Labels (n,), those of synthetic rows last => as they are, or soft (n, C) float32 if some row claims two classes."""
    share = np.where(origins.wanted == origins.source, 1, rule(origins)).astype(np.float32)
    if (share == 1).all():
        return labels
    share = np.where(share == 0.5, MORE_THAN_HALF, share)  # what needs one class has the wanted one
    eye, soft = np.eye(classes, dtype=np.float32), np.zeros((len(labels), classes), np.float32)
    real = len(labels) - len(share)
    soft[:real] = eye[labels[:real]]
    soft[real:] = share[:, None] * eye[origins.wanted] + (1 - share[:, None]) * eye[origins.source]
    return soft
