"""First and second moments of feature rows by class, and what they allow: to whiten rows, and to move one to a class.

The within-class covariance is one for all classes (pooled): a class of five rows has none of its own worth the name.
Translation is that of feature transfer learning (Yin et al. 2019, FTL; arXiv 1803.09014).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from counterpoise.data.pixels import Rows
from counterpoise.generators.generator import Context, Row
from counterpoise.types import Refusal

CHUNK = 4096  # rows in memory at once, as float64


@dataclass(frozen=True)
class Moments:
    """Everything in the units of the rows. A class without rows has the mean of all of them."""

    mean: np.ndarray  # (d,)
    scale: np.ndarray  # (d,) standard deviation; 1 where nothing varies
    means: np.ndarray  # (classes, d)
    counts: np.ndarray  # (classes,)
    within: np.ndarray  # (d, d) pooled within-class covariance

    @classmethod
    def of(cls, rows: Rows | np.ndarray, labels: np.ndarray, classes: int) -> Moments:
        """Twice over the rows, in chunks: class means first, so that the second sums lose no digits."""
        counts = np.bincount(labels, minlength=classes)
        sums: np.ndarray | float = 0.0
        for x, y in _chunks(rows, labels):
            if not np.isfinite(x).all():
                raise Refusal(
                    "feature rows must be finite numbers, found NaN or infinity in "
                    f"{(~np.isfinite(x)).any(1).sum()} of {len(x)} rows: drop or repair them"
                )
            sums = sums + _one_hot(y, classes) @ x
        mean = np.asarray(sums).sum(0) / len(labels)
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], mean)
        scatter: np.ndarray | float = 0.0
        for x, y in _chunks(rows, labels):
            rest = x - means[y]
            scatter = scatter + rest.T @ rest
        scatter = np.asarray(scatter)
        # total variance = within + between
        variance = (np.diag(scatter) + counts @ (means - mean) ** 2) / len(labels)
        constant = variance <= (np.finfo(np.float32).eps * mean) ** 2
        return cls(
            mean=mean,
            scale=np.where(constant, 1.0, np.sqrt(variance)),
            means=means,
            counts=counts,
            within=scatter / max(len(labels) - np.count_nonzero(counts), 1),
        )

    # --- whitening ---------------------------------------------------------------------------------------

    def whiten(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What rows have of their own, L^-1 (x - m_y): mean 0 and covariance 1 in every class, float32."""
        return (x - self.means[labels]).astype(np.float32) @ self._whitening

    def colour(self, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """And back, to the class of these labels: m_y + L z."""
        return (self.means[labels] + z @ self.root.T).astype(np.float32)

    def coloured(self, z: Tensor, labels: Tensor) -> Tensor:
        """The same on tensors; gradients pass."""
        means, root = self._tensors
        return means.to(z)[labels] + z @ root.to(z).T

    # --- moving --------------------------------------------------------------------------------------------

    def translate(
        self, x: np.ndarray, source_labels: np.ndarray, labels: np.ndarray, energy: float | None = None
    ) -> np.ndarray:
        """FTL's m_label + Q Q^T (x - m_source): what a row has of its own, put on another class mean.

        Q are the directions that hold `energy` of the within-class covariance. None: all, and Q Q^T = 1.
        """
        if energy is None:  # a row of the wanted class is the row itself, to the last bit
            moved = x + (self.means[labels] - self.means[source_labels])
        else:
            q = self.directions[:, : self.rank(energy)]
            moved = self.means[labels] + (x - self.means[source_labels]) @ q @ q.T
        return moved.astype(np.float32)

    def moved(self, rows: Sequence[Row], ctx: Context, energy: float | None) -> np.ndarray:
        """The sources of these rows of a plan, translated to the classes they want."""
        source = ctx.real([row["source_id"] for row in rows])
        theirs, wanted = (np.array([row[name] for row in rows]) for name in ("source_label", "label"))
        return self.translate(source, theirs, wanted, energy)

    def rank(self, energy: float) -> int:
        """How many leading directions hold this share of the within-class variance."""
        held = self.energies.cumsum()
        return int(np.searchsorted(held, energy * held[-1])) + 1

    @property
    def root(self) -> np.ndarray:
        """(d, d) L with L L^T = `within`, which may be singular."""
        return self.directions * np.sqrt(self.energies)

    @property
    def energies(self) -> np.ndarray:
        """(d,) eigenvalues of `within`, falling."""
        return self._eigen[0]

    @property
    def directions(self) -> np.ndarray:
        """(d, d) its eigenvectors, as columns."""
        return self._eigen[1]

    @cached_property
    def _whitening(self) -> np.ndarray:
        """(d, d) L^-1 transposed; a direction in which no class varies stays 0."""
        there = self.energies > self.energies[0] * len(self.energies) * np.finfo(np.float32).eps
        shrunk = np.where(there, 1 / np.sqrt(np.where(there, self.energies, 1)), 0)
        return (self.directions * shrunk).astype(np.float32)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.means).float(), torch.from_numpy(self.root).float()

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(self.within)
        return values[::-1].clip(0), np.ascontiguousarray(vectors[:, ::-1])

    # --- as arrays -----------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Other entries are not looked at."""
        return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


def feature_width(rows: Rows) -> int:
    """How many numbers a row has; pictures are refused."""
    shape = rows.raw(np.arange(1))[0].shape
    if len(shape) != 1:
        raise Refusal(
            f"this generator makes feature vectors, and these rows are pictures of {shape[0]} x {shape[1]} pixels: "
            "choose a backbone whose features it can work on (--backbone)"
        )
    return shape[0]


def _chunks(rows: Rows | np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for first in range(0, len(labels), CHUNK):
        picked = np.arange(first, min(first + CHUNK, len(labels)))
        x = rows.raw(picked) if isinstance(rows, Rows) else rows[picked]
        yield x.astype(np.float64), labels[picked]


def _one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(classes, b)"""
    return (labels == np.arange(classes)[:, None]).astype(np.float64)
