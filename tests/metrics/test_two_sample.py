import numpy as np
import pytest

from counterpoise.metrics.two_sample import one_nearest

RNG = np.random.default_rng(0)


def test_sets_of_one_law_cannot_be_told_apart():
    assert abs(one_nearest(RNG.normal(size=(1000, 3)), RNG.normal(size=(1000, 3))) - 0.5) < 0.04


def test_sets_that_lie_apart_are_told_apart():
    assert one_nearest(RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3)) + 100) == 1


def test_copies_are_below_one_half():
    x = RNG.normal(size=(50, 3))
    assert one_nearest(x + 1e-9, x) == 0


def test_counted_by_hand():
    fake, real = np.array([[0.0], [1.0], [10.0]]), np.array([[2.5], [10.1], [20.0]])
    # neighbours: 0 -> 1 and 1 -> 0 (their own side), 10 -> 10.1 (other), 2.5 -> 1 (other), 10.1 -> 10 (other), 20 -> 10.1 (own)
    assert one_nearest(fake, real) == pytest.approx(3 / 6)


def test_sets_of_unequal_sizes_are_a_mistake():
    with pytest.raises(AssertionError, match="unequal"):
        one_nearest(np.zeros((2, 1)), np.zeros((3, 1)))
