"""What every generator is: settings that learn from a lesson, and load into a sampler that answers rows of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from counterpoise.data.pixels import Rows


@dataclass(frozen=True)
class Lesson:
    """What a generator may learn from: the real training rows of one draw, and the pool, whose labels nobody knows."""

    rows: Rows
    labels: np.ndarray
    groups: np.ndarray | None
    classes: Sequence[str]
    pool: Rows | None = None
    hear: Callable[[float], None] = field(default=lambda share: None)  # is told the share that is done
    captions: Sequence[str | None] | None = None  # what each row shows, in words, where anybody said so


Row = dict[str, Any]  # of a plan, with `ordinal`: how many of its class were wanted before it, in all rounds
TEXT = "text"  # in a row, from a generator that reads prompts: the tokens that it is told (length,)


@dataclass(frozen=True)
class Context:
    """What a generator may look at while it samples: the real training rows of its own draw, by id.

    With `guides`, also what they listen to. `class_of` tells a teacher's class where labels are finer ones; `dealt` gives
    each row of a plan a real row of its class; `tell` hears what befell the rows of a batch, a share of noise levels each.
    `pool` is there where samples are pictures and there are unlabelled ones.
    """

    real: Callable[[Sequence[str]], np.ndarray]
    guides: tuple[Any, ...] = ()
    teacher: Any = None
    judge: Any = None
    class_of: Callable[[np.ndarray], np.ndarray] = field(default=lambda labels: labels)
    dealt: Callable[[Sequence[Row]], np.ndarray] | None = None
    pool: Rows | None = None
    tell: Callable[[Sequence[Row], dict[str, np.ndarray]], None] = field(default=lambda rows, shares: None)


class Failed(Exception):
    """This one request cannot be met; the reason goes into its row."""


#: A batch of plan rows of one strength => a sample, or why there is none, for each; sample i depends on row i alone.
Sampler = Callable[[Sequence[Row]], list[np.ndarray | Failed]]


class Generator(Protocol):
    """Frozen settings; the weights, if there are any, live on disk."""

    learns: ClassVar[bool]  # whether there is anything to fit
    takes_guides: ClassVar[bool]  # whether there is a denoiser to guide
    reads_prompts: ClassVar[bool]  # whether a row is told the prompt that the plan has for it
    spaces: ClassVar[tuple[str, ...]]  # the rows it works on: "pixels", "features"
    own_space: ClassVar[
        bool
    ]  # whether its samples are codes of its own encoder, and not rows like the real ones

    def fit(self, lesson: Lesson, out: Path, seed: int) -> None: ...
    def load(self, out: Path, ctx: Context) -> Sampler: ...


class Encodes(Generator, Protocol):
    """A generator with a space of its own, in which its samples lie and a classifier of them has to work."""

    def encoder(self, out: Path) -> Callable[[np.ndarray], np.ndarray]:
        """Rows of the study (n, ...) => codes (n, z) float32."""
        ...

    def head(self, out: Path, kind: Literal["softmax", "mixture"]) -> dict[str, np.ndarray]:
        """Its own predictions, as weight (C, z), bias (C,) and, maybe, square (C, z) on its codes."""
        ...


def one_by_one(sample: Callable[[Row], np.ndarray]) -> Sampler:
    """The sampler of a generator that looks at one row at a time."""

    def answer(row: Row) -> np.ndarray | Failed:
        try:
            return sample(row)
        except Failed as failure:
            return failure

    return lambda rows: [answer(row) for row in rows]
