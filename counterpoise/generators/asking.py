"""Asking a sampler for the rows of a shard: a few at a time, fewer where memory is short, and again where luck was bad.

What comes back depends on the shard alone, not on who works on it. How much memory there is changes how long it takes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from counterpoise.generators.generator import Failed, Row, Sampler
from counterpoise.seeding import derive
from counterpoise.types import Refusal

ATTEMPTS = 3  # seeds that a row is tried with
SHORT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "ALLOC_FAILED",
)  # torch's words, on chips of all kinds


@dataclass(frozen=True)
class Answer:
    """What became of a row: a sample, or the reason why there is none, with the last of its seeds that was tried."""

    x: np.ndarray | None
    reason: str | None
    attempt: int


def answers(
    sample: Sampler,
    rows: Sequence[Row],
    rows_at_once: int,
    hear: Callable[[float], None] = lambda share: None,  # is told the share that is done
) -> list[Answer]:
    """An answer to each row, in their order.

    A sample that is none is asked for again with another seed. A reason that is not chance comes back with every seed:
    where a second one helps nobody in the shard, no third is tried.
    """
    frugal = Frugal(sample, rows_at_once)
    found: dict[int, Answer] = {}
    left = list(range(len(rows)))
    for attempt in range(ATTEMPTS):
        asked = [rows[at] | {"seed": seed_of(rows[at]["seed"], attempt)} for at in left]
        for batch in micro_batches(asked, rows_at_once):
            made = frugal([asked[place] for place in batch])
            found |= {left[place]: _answer(one, attempt) for place, one in zip(batch, made, strict=True)}
            hear(len(found) / len(rows))
        failed = [at for at in left if found[at].reason is not None]
        if not failed or (attempt and len(failed) == len(left)):
            break
        left = failed
    return [found[at] for at in range(len(rows))]


def seed_of(seed: int, attempt: int) -> int:
    """The seed of an attempt: at first the plan's, then others that it decides."""
    return derive("retry", seed, attempt) if attempt else seed


def micro_batches(rows: Sequence[Row], rows_at_once: int) -> Iterator[list[int]]:
    """Places of all rows, each batch of one strength: it comes down one noise ladder."""

    def strength(place: int) -> float:
        return rows[place]["strength"]

    for _, alike in groupby(sorted(range(len(rows)), key=strength), key=strength):
        places = list(alike)
        yield from (places[start : start + rows_at_once] for start in range(0, len(places), rows_at_once))


class Frugal:
    """The same sampler, which is asked for half as many rows at once whenever memory did not hold them."""

    def __init__(self, sample: Sampler, rows_at_once: int) -> None:
        self.sample, self.rows_at_once, self.shrunk = sample, rows_at_once, False

    def __call__(self, rows: Sequence[Row]) -> list[np.ndarray | Failed]:
        made: list[np.ndarray | Failed] = []
        while len(made) < len(rows):
            batch = rows[len(made) : len(made) + self.rows_at_once]
            try:
                made += self.sample(batch)
            except (RuntimeError, MemoryError) as error:
                self._shrink(len(batch), error)
        return made

    def _shrink(self, rows: int, error: Exception) -> None:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in SHORT_OF_MEMORY):
            raise error
        if rows == 1:
            raise Refusal(
                f"one sample alone needs more memory than there is ({str(error).splitlines()[0][:200]}): use fewer "
                "--workers, a smaller --size, a smaller model or a machine with more memory; what is done stays done"
            ) from error
        if not self.shrunk:
            warnings.warn(
                f"memory does not hold {rows} rows of a plan at once, so fewer are made at once: the samples are the same",
                stacklevel=2,
            )
        self.rows_at_once, self.shrunk = rows // 2, True


def _answer(made: np.ndarray | Failed, attempt: int) -> Answer:
    reason = str(made) if isinstance(made, Failed) else broken(made)
    return Answer(made if reason is None and isinstance(made, np.ndarray) else None, reason, attempt)


def broken(x: np.ndarray) -> str | None:
    """Why a sample is no sample at all; None for a sound one."""
    if not np.isfinite(x).all():
        return "not finite"
    if x.ndim == 3 and x.min() == x.max():
        return "blank image"
    return None
