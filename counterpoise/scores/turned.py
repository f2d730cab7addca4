"""Has a sample turned from the class that it started in to the one wanted? Asked of who has not seen where it started."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy.special import expit

from counterpoise.scores.batch import Batch
from counterpoise.types import Refusal, part


@part
class Turned:
    """p(wanted) / (p(wanted) + p(source)), by the one of `folds` teachers that the source was kept from; higher is farther.

    A classifier that has learnt the source knows it again in a sample that hardly left it, and says its class for that
    reason; these are cross-fitted. What is of neither class is not noticed here: that is `feedback.Fidelity`'s to say. A
    sample of its source's class, or without a source, has nothing to turn from: 1.
    """

    folds: Annotated[int, Field(ge=2)] = 5
    listens: ClassVar[bool] = True

    def calibrate(self, real: np.ndarray) -> float:
        return 0.0

    def __call__(self, batch: Batch, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        if batch.unseen is None or batch.sources is None:
            raise Refusal(
                "Turned asks teachers that have not seen a source, and there are none: give the synthesis a tutor"
            )
        said, rows = batch.unseen(self.folds).astype(np.float64), np.arange(len(batch.labels))
        turned = expit(
            said[rows, batch.labels] - said[rows, batch.sources]
        )  # of two in a softmax: a logistic
        return np.where(batch.labels == batch.sources, 1.0, turned), np.full(len(rows), "")
