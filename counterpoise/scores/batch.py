"""What a score looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: What a classifier says of the samples of a batch => logits (n, C), features (n, k).
Opinion = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Batch:
    """Samples to score, and the real training rows they are held against. All vectors are float32 (n, d).

    Samples that are pictures are there as such, too, and so are the real rows then; text models are told class `label` as
    `classes[label]`. There may be no real rows at all.

    The teacher steered these samples; the judge did not, but may have stopped the teacher; those `unseen` says are of teachers
    without a part of the real rows. Each is asked only by scores that want to know.
    """

    x: np.ndarray
    labels: np.ndarray
    real: np.ndarray
    real_ids: np.ndarray
    real_labels: np.ndarray
    teacher: Opinion | None = None
    judge: Opinion | None = None
    pictures: np.ndarray | None = None  # (n, h, w, c) uint8; None: the study works on features
    classes: tuple[str, ...] = ()
    sources: np.ndarray | None = None  # (n,) class that each started in; its own where it started from noise
    unseen: Callable[[int], np.ndarray] | None = (
        None  # how many folds => logits (n, C) of who has not seen the source
    )
    real_pictures: np.ndarray | None = None  # (m, h, w, c) uint8
