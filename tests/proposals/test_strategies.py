"""The published family: names, and the parts that they are settings of."""

from typing import get_args

import numpy as np
import pytest

from counterpoise.proposals.pairings import FromAny, FromNoise, SameClass, TrainRows
from counterpoise.proposals.strategies import StrategyName, strategy

PUBLISHED = {  # what is learnt, source, label
    "diff-mix": ("lora", FromAny, True),
    "diff-aug": ("lora", SameClass, False),
    "diff-gen": ("lora", FromNoise, False),
    "real-mix": ("none", FromAny, True),
    "real-aug": ("none", SameClass, False),
    "real-gen": ("none", FromNoise, False),
    "ti-mix": ("words", FromAny, True),
    "ti-aug": ("words", SameClass, False),
}


def test_the_eight_of_the_paper():
    assert set(get_args(StrategyName)) == set(PUBLISHED)
    for name, (adapt, pairing, mixed) in PUBLISHED.items():
        found = strategy(name)
        assert (found.adapt, type(found.pairing), found.mixed) == (adapt, pairing, mixed)
    assert strategy("diff-mix") == strategy("diff-mix", strength=0.7, by="class")
    assert strategy("real-aug", strength=0.1).pairing == SameClass(strength=0.1)
    assert strategy("diff-mix", (0.3, 0.9), "image").pairing == FromAny(by="image", strength=(0.3, 0.9))


@pytest.mark.parametrize("name", get_args(StrategyName))
def test_augmentation_stays_in_its_class_and_generation_has_no_source(name):
    labels = np.repeat([0, 1, 2], [9, 4, 2])
    train = TrainRows(np.arange(15).astype(str), labels, None, np.zeros((15, 2), np.float32))
    rows = strategy(name, 0.5).pairing(np.array([4, 20, 20]), train, 3).to_pylist()
    if name.endswith("gen"):
        assert {(row["source_id"], row["strength"]) for row in rows} == {(None, 1.0)}
    elif name.endswith("aug"):
        assert all(row["source_label"] == row["label"] for row in rows)
    else:
        assert {row["source_label"] for row in rows if row["label"] == 2} == {0, 1, 2}
    if not name.endswith("gen"):
        assert {row["strength"] for row in rows} == {0.5}
