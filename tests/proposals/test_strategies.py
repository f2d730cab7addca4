"""The published family: names, and the parts that they are settings of."""

from typing import get_args

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from counterpoise.proposals.budgets import Even
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


# --- pairs come as often as published ---------------------------------------------------------------------------

SIZES = np.array([12, 6, 3, 1])
OWN = np.repeat(np.arange(4), SIZES)
SEEDS = 600


def drawn(name, by):
    """(seeds, wanted class): the place of the source of one sample of each class, -1 for none; over seeds they are independent."""
    train = TrainRows(np.arange(22).astype(str), OWN, None, np.zeros((22, 2), np.float32))
    wanted = np.full(4, 3)
    found = []
    for seed in range(SEEDS):
        plan = strategy(name, 0.7, by).pairing(wanted, train, seed)
        assert np.bincount(plan["label"].to_numpy()).tolist() == [3] * 4
        places = [-1 if source is None else int(source) for source in plan["source_id"].to_pylist()]
        found.append(np.array(places).reshape(4, 3)[:, seed % 3])
    return np.array(found)


def even(times, expected):
    """Not told from draws with these expected numbers, and so without any impossible one."""
    assert times[expected == 0].sum() == 0
    possible = expected > 0
    return possible.sum() == 1 or chisquare(times[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("by", ["class", "image"])
@pytest.mark.parametrize("name", get_args(StrategyName))
def test_pairs_are_drawn_as_published(name, by):
    """Chi-square, for every class wanted: of all classes alike or of all images alike, of its own, or of none."""
    found = drawn(name, by)
    for label, sources in enumerate(found.T):
        if name.endswith("gen"):
            assert (sources == -1).all()
            continue
        of_class, of_image = np.bincount(OWN[sources], minlength=4), np.bincount(sources, minlength=22)
        if name.endswith("aug"):
            share = (label == OWN) / SIZES[label]
        elif by == "class":
            share = 1 / (4 * SIZES[OWN])
        else:
            share = np.full(22, 1 / 22)
        assert even(of_image, SEEDS * share)
        assert even(of_class, SEEDS * np.bincount(OWN, share, minlength=4))


def test_on_a_long_tail_targets_are_even_over_classes_and_sources_over_images_apart_from_each_other():
    """Diff-Mix's pool: 5 samples per row, of every class as many, whichever class the background is from."""
    wanted = Even(times=5.0)(SIZES)
    assert wanted.sum() == 110
    assert np.ptp(wanted) <= 1
    found = drawn("diff-mix", "image")
    table = np.array([np.bincount(OWN[sources], minlength=4) for sources in found.T])  # (wanted, source)
    assert chi2_contingency(table).pvalue > 1e-3
    train = TrainRows(np.arange(22).astype(str), OWN, None, np.zeros((22, 2), np.float32))
    plan = strategy("diff-mix", by="image").pairing(wanted * 20, train, 0)
    times = np.bincount(plan["source_id"].to_numpy(zero_copy_only=False).astype(int), minlength=22)
    assert chisquare(times).pvalue > 0.5, "a long plan is as even as can be"
