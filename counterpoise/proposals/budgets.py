"""How many synthetic samples each class gets, in imbalanced-learn's words, or by what a tutor found that it needs.

Where cells (a class in a group) take the place of classes, all of this holds for cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from counterpoise.types import Refusal, part

Words = Literal["minority", "not minority", "not majority", "all"]

#: A cell's own validation rows count against this many rows of a mean cell. Where error rates of mean m differ by a
#: standard deviation s, a Beta prior is worth m (1 - m) / s^2 - 1 rows: five for errors of 0.35 +- 0.2.
PRIOR_ROWS = 5


@dataclass(frozen=True)
class Needs:
    """What a tutor found on validation, by class: means over its validation rows, nan where it has none."""

    rows: np.ndarray  # (classes,) validation rows
    error: np.ndarray  # (classes,) share of them taken for something else
    loss: np.ndarray  # (classes,) nats
    entropy: np.ndarray  # (classes,) nats

    @classmethod
    def unheard(cls, classes: int) -> Needs:
        """Before any tutor has been heard: all alike."""
        nothing = np.full(classes, np.nan)
        return cls(np.zeros(classes, np.int64), nothing, nothing, nothing)


@runtime_checkable
class Budget(Protocol):
    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        """(classes,) real rows => (classes,) samples wanted, whole numbers; none where there is no real row."""
        ...


@part
class FillUp:
    """Fill the chosen classes up to a count: that of the largest class, or `to`.

    >>> FillUp()(np.array([100, 10, 1])).tolist()
    [0, 90, 99]
    >>> FillUp(strategy="minority", to=50)(np.array([100, 10, 1])).tolist()
    [0, 0, 49]
    """

    strategy: Words = "not majority"
    to: Annotated[int, Field(ge=1)] | None = None

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        target = int(counts.max()) if self.to is None else self.to
        return np.where(chosen(self.strategy, counts), np.maximum(target - counts, 0), 0)


@part
class Multiply:
    """`times` as many synthetic as real samples in each of the chosen classes.

    >>> Multiply(times=2.0, strategy="not majority")(np.array([100, 10, 1])).tolist()
    [0, 20, 2]
    """

    times: Annotated[float, Field(gt=0)] = 1.0
    strategy: Words = "all"

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        return np.where(chosen(self.strategy, counts), np.rint(counts * self.times), 0).astype(np.int64)


@part
class Fixed:
    """The same number for each of the chosen classes, however many real rows it has.

    With `unseen`, also for classes without any, as a model makes them that knows them by name.

    >>> Fixed(20, strategy="minority")(np.array([100, 10, 1])).tolist()
    [0, 0, 20]
    >>> Fixed(20)(np.array([100, 0])).tolist(), Fixed(20, unseen=True)(np.array([100, 0])).tolist()
    ([20, 0], [20, 20])
    """

    each: Annotated[int, Field(ge=1)]
    strategy: Words = "all"
    unseen: bool = False

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        meant = chosen(self.strategy, counts) | (self.unseen & (counts == 0))
        return np.where(meant, self.each, 0).astype(np.int64)


@part
class Even:
    """`times` as many synthetic as real samples in all, and of each class as many as of any other (Diff-Mix's pools).

    What does not divide goes to the rarest classes.

    >>> Even(times=2.0)(np.array([100, 10, 1])).tolist()
    [74, 74, 74]
    """

    times: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        there = counts > 0
        total, made = round(self.times * int(counts.sum())), np.zeros(len(counts), np.int64)
        even = np.full(there.sum(), total / max(1, there.sum()))
        made[there] = whole(even, total, -counts[there])
        return made


@part
class Sqrt:
    """Fill each class up to sqrt(n n_max): every ratio between two classes becomes its square root.

    Real and synthetic rows together then have the profile of square-root sampling (Mahajan et al. 2018), half way, on a
    logarithmic scale, between the data as they are and `FillUp`.

    >>> Sqrt()(np.array([100, 25, 1])).tolist()
    [0, 25, 9]
    """

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        return np.rint(np.sqrt(counts * float(counts.max())) - counts).astype(np.int64)


@part
class ByNeed:
    """As many samples as `budget` asks for in all (a `share` of them, or `total`), to each class by its need.

    Need is what a tutor found on validation, its mean `error`, `loss` or `entropy`, to the `power` given: at 1 the worst of
    many cells get hardly more than an even split (docs/log.md). Every class with real rows gets at
    least `floor` times what an even split would give it and at most `cap` times that, up to rounding; `floor=1` is the
    even split, and so the control that says what need is worth. A class with few validation rows is taken to be partly
    like the mean class, one without any to be the mean class: two wrong of two are weaker news than forty of forty.

    >>> needs = Needs(np.array([40, 20, 0]), np.array([0.1, 0.5, np.nan]), *np.full((2, 3), np.nan))
    >>> ByNeed(total=90)(np.array([100, 10, 1]), needs).tolist()
    [7, 59, 24]
    >>> ByNeed(floor=1.0)(np.array([100, 10, 1]), needs).tolist()  # as many as FillUp() makes: 189
    [63, 63, 63]
    """

    budget: Budget = FillUp()
    of: Literal["error", "loss", "entropy"] = "error"
    power: Annotated[float, Field(gt=0)] = 2.0
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    total: Annotated[int, Field(ge=1)] | None = None
    floor: Annotated[float, Field(ge=0, le=1)] = 0.25
    cap: Annotated[float, Field(ge=1)] | None = 4.0
    listens: ClassVar[bool] = True

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        if needs is None:
            raise Refusal(
                "ByNeed reads what a tutor found on validation, and there is none: give the synthesis a tutor"
            )
        total = round(self.share * self.budget(counts, needs).sum()) if self.total is None else self.total
        there = chosen("all", counts)
        assert there.any()
        need = smoothed(getattr(needs, self.of)[there], needs.rows[there]) ** self.power
        even = total / there.sum()
        exact = proportional(total, need, self.floor * even, total if self.cap is None else self.cap * even)
        made = np.zeros(len(counts), np.int64)
        made[there] = whole(exact, total, need, -counts[there])
        return made


@part
class Adaptive:
    """Rounds of `budget`, each with the needs of a tutor that has learnt from the rounds before, while they help.

    After Deliberate Practice (Askari-Hemmat et al. 2025, arXiv 2502.15588), whose patience grows as well: theirs counts
    evaluations of a classifier that never stops learning, ours whole rounds. Another one is made as long as the best
    validation score came at most `patience + growth * rounds made` rounds ago, and there are never more than `rounds`.

    >>> practice = Adaptive(rounds=9, patience=1, growth=0.25)
    >>> practice.goes_on([0.60]), practice.goes_on([0.60, 0.70, 0.68]), practice.goes_on([0.60, 0.70, 0.68, 0.69])
    (True, True, False)
    >>> practice.goes_on([0.60, 0.62, 0.64, 0.66, 0.70, 0.69, 0.69])  # as long without a better one, but later
    True
    """

    budget: Budget = ByNeed()
    rounds: Annotated[int, Field(ge=1)] = 5
    patience: Annotated[int, Field(ge=0)] = 1
    growth: Annotated[float, Field(ge=0, lt=1)] = 0.25  # 1 would wait as long as it has run: for ever
    listens: ClassVar[bool] = True

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        return self.budget(counts, needs)

    def goes_on(self, history: Sequence[float]) -> bool:
        """`history[r]` is the score of the tutor of round r, higher is better; that of round 0 knows real rows only."""
        made = len(history) - 1
        waited = made - int(np.argmax(history))
        return made < self.rounds and waited <= self.patience + self.growth * made


@part
class Piloted:
    """What `budget` asks for in two rounds: the first `pilot` samples of each class, to learn from, and then the others.

    The pairing says what is learnt (`strengths.Enough`); the first round tries what it chooses among.

    >>> two = Piloted(Fixed(20), pilot=8)
    >>> two(np.array([50, 3])).tolist(), two.rest(np.array([50, 3])).tolist()
    ([8, 8], [12, 12])
    """

    budget: Budget = FillUp()
    pilot: Annotated[int, Field(ge=1)] = 32
    rounds: ClassVar[int] = 2
    listens: ClassVar[bool] = True

    def __call__(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        return np.minimum(self.budget(counts, needs), self.pilot)

    def rest(self, counts: np.ndarray, needs: Needs | None = None) -> np.ndarray:
        """`counts` are of real rows: what was dropped of the pilot is not made again."""
        return self.budget(counts, needs) - self(counts, needs)

    def goes_on(self, history: Sequence[float]) -> bool:
        return True


def chosen(words: Words, counts: np.ndarray) -> np.ndarray:
    """Which classes imbalanced-learn's words mean; an empty class is nobody's minority: nothing can be made from it."""
    there = counts > 0
    smallest = counts == counts[there].min() if there.any() else there
    if words == "minority":
        return there & smallest
    if words == "not minority":
        return there & ~smallest
    if words == "not majority":
        return there & (counts < counts.max())
    return there


def smoothed(found: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Means of few rows drawn towards the mean over classes, so that luck on validation buys no samples.

    The mean of a Beta prior's posterior. A class weighs in the common mean as far as its own is to be trusted: by rows
    alone, a validation set that is as unbalanced as the data would speak of its largest classes only.
    """
    trust = rows / (rows + PRIOR_ROWS)
    known = np.where(rows > 0, found, 0.0)
    mean = trust @ known / trust.sum() if trust.any() else 0.0
    return trust * known + (1 - trust) * mean if mean > 0 else np.ones(len(rows))


def proportional(total: int, need: np.ndarray, low: float, high: float) -> np.ndarray:
    """clip(scale need, low, high) with the scale at which it sums to `total`; needs are positive."""
    corners = np.sort(np.concatenate([low / need, high / need]))
    spent = [np.clip(scale * need, low, high).sum() for scale in corners]
    return np.clip(np.interp(total, spent, corners) * need, low, high)  # linear between corners, so exact


def whole(exact: np.ndarray, total: int, *ties: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to `total`, by largest remainder; equal remainders go by the larger of `ties`, in order."""
    made = np.floor(exact).astype(np.int64)
    first = np.lexsort([*(-tie for tie in reversed(ties)), made - exact])
    made[first[: total - made.sum()]] += 1
    return made
