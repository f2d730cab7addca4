"""How far a sample has turned from its source's class, by who has not seen the source."""

import numpy as np
import pytest
from scipy.special import softmax

from counterpoise.scores.batch import Batch
from counterpoise.scores.turned import Turned
from counterpoise.types import Refusal, build, describe, load

RNG = np.random.default_rng(0)
SAID = RNG.normal(size=(30, 4)).astype(np.float32) * 4
LABELS, SOURCES = RNG.integers(0, 4, (2, 30))


def batch(rows=slice(None), asked=None, **changed):
    def unseen(folds):
        (asked if asked is not None else []).append(folds)
        return SAID[rows]

    n = len(LABELS[rows])
    given = {"sources": SOURCES[rows], "unseen": unseen} | changed
    return Batch(
        np.zeros((n, 2), np.float32),
        LABELS[rows],
        np.zeros((1, 2)),
        np.array(["a"]),
        np.zeros(1, int),
        **given,
    )


def test_it_is_the_share_of_the_class_wanted_of_the_two_whatever_the_others_get():
    found, nearest = Turned()(batch(), Turned().calibrate(np.zeros((3, 2))))
    p, rows = softmax(SAID.astype(float), 1), np.arange(30)
    share = p[rows, LABELS] / (p[rows, LABELS] + p[rows, SOURCES])
    own = LABELS == SOURCES
    assert 3 < own.sum() < 15
    assert found[~own] == pytest.approx(share[~own], abs=1e-6)
    assert (found[own] == 1).all(), "nothing to turn from"
    assert set(nearest) == {""}


def test_it_asks_as_many_folds_as_it_is_told_and_scores_rows_apart():
    asked = []
    whole, _ = Turned(folds=3)(batch(asked=asked), 0.0)
    assert asked == [3]
    alone = np.concatenate([Turned()(batch(slice(i, i + 4)), 0.0)[0] for i in range(0, 30, 4)])
    assert alone == pytest.approx(whole)


def test_certainty_neither_overflows_nor_leaves_the_share():
    sure = np.array([[900.0, -900, 0, 0], [-900, 900, 0, 0]], np.float32)
    found, _ = Turned()(batch(slice(0, 2), unseen=lambda folds: sure, sources=np.array([1, 1])), 0.0)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_without_anybody_to_ask_it_is_refused():
    with pytest.raises(Refusal, match="give the synthesis a tutor"):
        Turned()(batch(unseen=None), 0.0)
    with pytest.raises(Refusal, match=r"Turned\.folds"):
        build(Turned, {"folds": 1})
    assert load(describe(Turned(folds=4))) == Turned(folds=4)
