"""The eight strategies that Diff-Mix is compared by (Wang et al. 2024), as settings of parts that are there.

A name says two things: what of a text-to-image model learns the classes, and where a sample starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from counterpoise.proposals.pairings import FromAny, FromNoise, SameClass
from counterpoise.proposals.strengths import Strengths

StrategyName = Literal[
    "diff-mix", "diff-aug", "diff-gen", "real-mix", "real-aug", "real-gen", "ti-mix", "ti-aug"
]
#: diff: a word for each class and adapters; ti (textual inversion): the words alone; real: class names, nothing learnt.
LEARNT: dict[str, Literal["lora", "words", "none"]] = {"diff": "lora", "ti": "words", "real": "none"}


@dataclass(frozen=True)
class Strategy:
    """What of the model is adapted, where samples start, and whether they are still partly of their source's class."""

    adapt: Literal["lora", "words", "none"]
    pairing: FromNoise | SameClass | FromAny
    mixed: bool


def strategy(
    name: StrategyName, strength: Strengths = 0.7, by: Literal["class", "image", "confusion"] = "class"
) -> Strategy:
    """The published ones take the source `by` "class", and "image" on long tails.

    >>> strategy("ti-aug", strength=(0.25, 0.5, 0.75, 1.0))  # what Diff-Mix calls DA-Fusion
    Strategy(adapt='words', pairing=SameClass(strength=(0.25, 0.5, 0.75, 1.0), dropout=0.0), mixed=False)
    """
    model, start = name.split("-")
    starts: dict[str, FromNoise | SameClass | FromAny] = {
        "mix": FromAny(by=by, strength=strength),
        "aug": SameClass(strength=strength),
        "gen": FromNoise(),
    }
    return Strategy(LEARNT[model], starts[start], mixed=start == "mix")
