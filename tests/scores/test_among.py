"""A threshold found on real pictures, whatever the score and the number of classes."""

import json

import numpy as np
import pytest

from counterpoise.scores.among import FEW, AmongReal
from counterpoise.scores.batch import Batch
from counterpoise.scores.clip import Asking, Clip, Margin
from counterpoise.scores.select import AtLeast
from counterpoise.types import Refusal, build, describe, load

RNG = np.random.default_rng(0)
CLASSES = ("a", "b", "c")


class Bright(Asking):
    """The first number of a picture, in place of what a model says."""

    template, spaces, content, par = "{a}", ("pixels",), "", 0.0

    def values(self, pictures, labels, classes):
        return pictures[:, 0, 0, 0].astype(np.float32)

    def of_real(self, real, labels, classes):
        return {"told": len(real)}

    def __call__(self, batch, threshold):
        return self.values(batch.pictures, batch.labels, batch.classes), np.full(len(batch.labels), "")


def pictures(values):
    return np.broadcast_to(np.asarray(values, np.uint8)[:, None, None, None], (len(values), 2, 2, 3))


def ranked(values, labels, real, real_labels):
    score = AmongReal(Bright())
    told = json.loads(json.dumps(score.of_real(pictures(real), np.asarray(real_labels, np.int64), CLASSES)))
    assert told["told"] == len(real)
    x, labels = np.zeros((len(values), 1), np.float32), np.asarray(labels, np.int64)
    batch = Batch(x, labels, x[:0], np.array([], str), labels[:0], pictures=pictures(values), classes=CLASSES)
    return score(batch, told["threshold"])[0]


def test_it_is_the_share_of_real_pictures_that_are_no_better():
    real = np.arange(100, 100 + FEW)
    found = ranked([99, 100, 109, 200], [0] * 4, real, [0] * FEW)
    np.testing.assert_allclose(found, np.array([1, 2, 11, 21]) / 21)


def test_a_share_of_real_pictures_is_dropped_in_every_class_however_they_are_scored():
    labels = np.repeat([0, 1, 2], 400)
    everything = RNG.normal(np.repeat([60, 120, 180], 400), np.repeat([3, 10, 20], 400)).clip(0, 255)
    known = np.arange(1200) % 2 == 0
    found = ranked(everything[~known], labels[~known], everything[known], labels[known])
    kept = np.array([reason is None for reason in AtLeast("x", 0.1)({"x": found}, labels[~known])])
    for label in range(3):
        assert 0.85 < kept[labels[~known] == label].mean() < 0.96
    assert ranked([90], [0], everything[known], labels[known]) == 1.0
    assert ranked([90], [2], everything[known], labels[known]) < 0.01


def test_a_class_with_few_is_compared_with_all():
    real, labels = [10] * 30 + [200] * 5, [0] * 30 + [1] * 5
    found = ranked([100, 100, 100], [0, 1, 2], real, labels)
    np.testing.assert_allclose(found, [1.0, 31 / 36, 31 / 36])


def test_without_real_pictures_nothing_is_worse_than_they_are():
    assert ranked([0, 255], [0, 1], [], []).tolist() == [1.0, 1.0]
    assert ranked([], [], [1, 2], [0, 1]).shape == (0,)


def test_it_is_described_with_its_score_and_takes_no_other_kind():
    score = AmongReal(Margin(template="{name}"))
    assert load(json.loads(json.dumps(describe(score)))) == score
    assert (score.spaces, AmongReal().score) == (("pixels",), Clip())
    with pytest.raises(Refusal, match=r"AmongReal\.score"):
        build(AmongReal, {"score": AtLeast()})
