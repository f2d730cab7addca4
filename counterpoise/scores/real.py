"""Is a sample of one class too close to real rows of another? Real filtering of He et al. (ICLR 2023, section 3.2).

They drop what is "very close" to such a row in the space of CLIP, and give neither a threshold nor code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from counterpoise.scores.batch import Batch
from counterpoise.scores.clip import some_of_each
from counterpoise.scores.looking import Looking
from counterpoise.types import Refusal, part

MOST_CALIBRATED, CHUNK = 2000, 512  # rows
DROPPED = 0.01  # of real rows, each held against the others
A_COPY = 0.99  # the cosine of what is as good as the same


@part
class Clearance(Looking):
    """min(tau, m_c + delta) - m_o, the greatest cosines with real rows of its own class and of others. Below 0 is too close.

    With delta = 0 a sample has to be closer to its own class than to any other, and of real pictures that it is held
    against for the first time most are not. Unsaid, tau and delta are what one in a hundred of the real rows exceeds, each held
    against the others; of fewer, what is well beyond all. A class without real rows has no m_c, and tau alone counts.
    """

    model: str = "miniature"  # as in Clip; "": the rows themselves, where those are features
    revision: str | None = None
    allow_pickle: bool = False
    tau: Annotated[float, Field(ge=-1, le=1)] | None = None
    delta: Annotated[float, Field(ge=-2, le=2)] | None = None

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("pixels",) if self.model else ("features",)

    @property
    def content(self) -> str:
        return self.pair().content.hex() if self.model else ""

    def ready(self, classes: Sequence[str] | None) -> None:
        if self.model:
            self.tokens()

    def seconds(
        self, channels: int, size: int, classes: Sequence[str], batch: int = 16
    ) -> tuple[float, float]:
        return super().seconds(channels, size, classes, batch) if self.model else (0.0, 0.0)

    def of_real(self, real: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """As threshold, tau and delta; and the share of real rows that are closer to another of their class than to others'."""
        asked, rows = some_of_each(labels, len(classes), MOST_CALIBRATED), self._unit(real)
        own, other, _ = closest(rows[asked], labels[asked], rows, labels, itself=asked)
        apart, both = np.isfinite(other), np.isfinite(own) & np.isfinite(other)
        found = {"tau": _rarely_exceeded(other[apart]), "delta": _rarely_exceeded((other - own)[both])}
        said = {name: getattr(self, name) for name in found if getattr(self, name) is not None}
        told = {"real_own": float((own > other)[both].mean())} if both.any() else {}
        return {"threshold": found | said, **told}

    def __call__(self, batch: Batch, threshold: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        shown = (batch.pictures, batch.real_pictures) if self.model else (batch.x, batch.real)
        x, real = map(self._unit, shown)
        own, other, place = closest(x, batch.labels, real, batch.real_labels)
        limit = np.minimum(threshold["tau"], np.where(np.isfinite(own), own + threshold["delta"], 1.0))
        near = batch.real_ids[place] if len(real) else ""
        return limit - np.maximum(other, -1), np.where(np.isfinite(other), near, "")

    def _unit(self, rows: np.ndarray | None) -> np.ndarray:
        """Pictures or vectors => unit rows (n, d)."""
        if self.model:
            return self.seen(rows).numpy()
        if rows is None or rows.dtype == np.uint8:
            raise Refusal(
                "Clearance without a model compares features, and this study's samples are pictures: name a model"
            )
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _rarely_exceeded(values: np.ndarray) -> float:
    """What one in a hundred exceeds; of too few to say, what lies halfway between the greatest and that of a copy, 1."""
    if len(values) < 1 / DROPPED:
        return float(values.max() + 1) / 2 if len(values) else A_COPY
    return float(np.quantile(values, 1 - DROPPED))


def closest(
    x: np.ndarray,
    labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
    itself: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of unit rows, the greatest cosines with real rows of the own class and with others, (n,) each, -inf where there are none;
    and the place of the other. `itself` names the row of `real` that each x is, and that is not held against it.
    """
    own, other, place = np.full(len(x), -np.inf), np.full(len(x), -np.inf), np.zeros(len(x), np.int64)
    for start in range(0, len(x) if len(real) else 0, CHUNK):
        rows = slice(start, start + CHUNK)
        cosines, mine = x[rows] @ real.T, labels[rows, None] == real_labels  # (chunk, m)
        theirs = np.where(mine, -np.inf, cosines)
        place[rows], other[rows] = theirs.argmax(1), theirs.max(1)
        if itself is not None:
            cosines[np.arange(len(cosines)), itself[rows]] = -np.inf
        own[rows] = np.where(mine, cosines, -np.inf).max(1)
    return own, other, place
