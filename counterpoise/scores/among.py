"""Does a sample look as much like its class as real pictures of it do? A threshold that is found on those.

The rule p > 1/N of `scores/clip.py` says nothing where there are a thousand classes, and asks for much where there are two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from counterpoise.scores.batch import Batch
from counterpoise.scores.clip import Asking, Clip, some_of_each
from counterpoise.types import part

MOST_COMPARED, FEW = 2000, 20  # real pictures: of all classes, and those that are not enough of one class


@part
class AmongReal:
    """The share of real pictures of its class that another score puts no higher, the sample counted among them: a conformal p-value.

    AtLeast("among_real", 0.1) drops a real picture, such as a sample should be, once in ten times (Vovk et al. 2005), whatever
    the score and the number of classes. A class with fewer than 20 real pictures is compared with those of all classes;
    where there are none at all there is nothing to be worse than, and every sample is at 1.
    """

    score: Asking = Clip()

    @property
    def spaces(self) -> tuple[str, ...]:
        return self.score.spaces

    @property
    def content(self) -> str:
        return self.score.content

    def ready(self, classes: Sequence[str] | None) -> None:
        self.score.ready(classes)

    def seconds(self, channels: int, size: int, classes: Sequence[str]) -> tuple[float, float]:
        _, each = self.score.seconds(channels, size, classes)
        return MOST_COMPARED * each, each

    def calibrate(self, real: np.ndarray) -> list[list[float]]:
        return []  # needs their classes

    def of_real(self, real: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """As its score has it; and the threshold, what that score gives to real pictures of each class, in rising order."""
        asked = some_of_each(labels, len(classes), MOST_COMPARED)
        values, own = self.score.values(real[asked], labels[asked], classes), labels[asked]
        threshold = [np.sort(values[own == label]).tolist() for label in range(len(classes))]
        return self.score.of_real(real, labels, classes) | {"threshold": threshold}

    def __call__(self, batch: Batch, threshold: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
        values, nearest = self.score(batch, 0.0)
        every = np.sort(np.concatenate([*map(np.asarray, threshold), np.zeros(0)]))
        found = np.ones(len(values))
        for label in np.unique(batch.labels):
            own = threshold[label] if len(threshold[label]) >= FEW else every
            mine = batch.labels == label
            found[mine] = (1 + np.searchsorted(own, values[mine], side="right")) / (1 + len(own))
        return found, nearest
