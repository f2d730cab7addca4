"""Labels for images that have none, guessed by another classifier: what unlabelled images are worth without a generator.

Pseudo-labels are of Lee 2013; keeping the same share of every class of Zou et al. 2018 (Class-Balanced Self-Training,
Algorithm 2). Nothing here knows pixels, networks or the disk.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import softmax

from counterpoise.types import part


@part
class PseudoLabels:
    """Of the images that the arm `teacher` gives to each class, the share `keep` that it is surest of, with that label.

    One threshold for all classes would keep the head, of which a teacher is sure, and hardly any of the tail. The
    teacher should be an arm whose logits favour no class (balanced softmax), or it will not name the tail at all.
    `soft` labels are its probabilities. The defaults were chosen on validation (digits with a long tail, five splits).
    """

    teacher: str
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    soft: bool = False

    def __call__(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N, C) => rows that are kept (n,), sorted, and their labels (n,), or (n, C) float32 if soft."""
        said = softmax(np.asarray(logits, np.float64), axis=1)
        label, sure = said.argmax(1), said.max(1)
        kept = [np.empty(0, np.int64)]
        for name in np.unique(label):
            mine = np.flatnonzero(label == name)
            most = int(np.ceil(self.keep * len(mine)))
            kept.append(mine[np.argsort(-sure[mine], kind="stable")[:most]])
        rows = np.sort(np.concatenate(kept))
        return rows, said[rows].astype(np.float32) if self.soft else label[rows]
