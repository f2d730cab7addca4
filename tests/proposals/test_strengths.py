from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.diffusion.ladder import cut
from counterpoise.proposals.pairings import FromAny
from counterpoise.proposals.strengths import ByShots, Enough, Pilot, between
from counterpoise.types import Refusal, build, describe, load


@given(st.integers(1, 60), st.data())
def test_a_range_is_every_whole_step_within_it(steps, data):
    first = data.draw(st.integers(0, steps))
    last = data.draw(st.integers(first, steps))
    found = between(first / steps, last / steps, steps)
    assert [Fraction(s).limit_denominator(100) for s in found] == [
        Fraction(k, steps) for k in range(first, last + 1)
    ]


@pytest.mark.parametrize("steps", [6, 20, 25])
def test_each_of_them_is_another_ladder_as_a_plan_stores_it(steps):
    ladder = torch.linspace(1, 0, steps + 1)
    lengths = [len(cut(ladder, float(np.float32(s)))) - 1 for s in between(0.0, 1.0, steps)]
    assert lengths == list(range(steps + 1))


@pytest.mark.parametrize(
    ("low", "high", "steps"), [(0.51, 0.59, 10), (0.7, 0.3, 10), (0.5, 1.2, 10), (-0.2, 0.5, 10)]
)
def test_a_range_without_a_step_is_refused(low, high, steps):
    with pytest.raises(Refusal, match="no whole number of 10 steps: widen the range"):
        between(low, high, steps)


# --- what is enough ---------------------------------------------------------------------------------------------

AMONG = (0.3, 0.5, 0.7, 0.9)


def pilot(*classes, times=50, seed=0):
    """Samples of classes whose scores are, on average, the given ones at the four strengths."""
    rng = np.random.default_rng(seed)
    label, strength, score = [], [], []
    for number, means in enumerate(classes):
        for rung, mean in zip(AMONG, means, strict=True):
            label += [number] * times
            strength += [float(np.float32(rung))] * times
            score += rng.beta(8 * mean, 8 * (1 - mean), times).tolist()
    return Pilot(np.array(label), np.array(strength), np.array(score))


def test_enough_is_the_least_strength_at_which_a_class_has_turned():
    tried = pilot((0.1, 0.6, 0.8, 0.9), (0.02, 0.1, 0.3, 0.7), (0.9, 0.9, 0.9, 0.9), (0.1, 0.1, 0.2, 0.3))
    assert Enough()(tried, 4).tolist() == [0.5, 0.9, 0.3, 0.9], "the last one never turns"
    assert Enough(level=0.75)(tried, 4).tolist() == [0.7, 0.9, 0.3, 0.9]


def test_order_and_repeats_of_strengths_do_not_matter():
    tried = pilot((0.1, 0.2, 0.7, 0.9))
    assert Enough(among=(0.9, 0.3, 0.7, 0.5))(tried, 1).tolist() == [0.7]


def test_luck_at_one_strength_is_not_believed():
    """A mean above the level between two far below it: few samples, and a probability that rises with the strength."""
    label, strength = np.zeros(8, int), np.repeat(AMONG, 2)
    score = np.array([0.1, 0.1, 0.6, 0.5, 0.1, 0.2, 0.9, 0.9])
    assert Enough()(Pilot(label, strength, score), 1).tolist() == [0.9]


def test_a_class_without_samples_takes_what_is_enough_for_all_and_nobody_the_most():
    tried = pilot((0.1, 0.6, 0.8, 0.9))
    assert Enough()(tried, 3).tolist() == [0.5, 0.5, 0.5]
    nothing = Pilot(np.empty(0, int), np.empty(0), np.empty(0))
    assert Enough()(nothing, 2).tolist() == [0.9, 0.9]


@pytest.mark.parametrize("bad", [{"among": (0.3,)}, {"among": (0.3, 1.2)}, {"level": 0.0}, {"level": 1.0}])
def test_one_strength_is_no_choice_and_a_level_is_a_share(bad):
    with pytest.raises(Refusal, match="Enough"):
        build(Enough, bad)


def test_enough_is_a_strength_of_a_pairing():
    pairing = FromAny(strength=Enough(level=0.6))
    assert load(describe(pairing)) == pairing


# --- by the number of real rows ---------------------------------------------------------------------------------

ABAR = {
    16: 0.941,
    8: 0.899,
    4: 0.720,
    2: 0.647,
    1: 0.494,
}  # that GLIDE's noise leaves (He et al. 2023, Appendix C.3)


@pytest.mark.parametrize("shots", ABAR)
def test_the_published_table(shots):
    assert ByShots()(shots) == pytest.approx(10 * np.log10(ABAR[shots] / (1 - ABAR[shots])), abs=0.06)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_more_rows_never_mean_more_noise(a, b):
    few, many = sorted((a, b))
    assert -0.1 <= ByShots()(few) <= ByShots()(many) <= 12.0


def test_between_two_shots_it_is_even_in_their_logarithm_and_beyond_them_it_stays():
    table = ByShots(snr_db=((2, 0.0), (8, 6.0)))
    assert [table(shots) for shots in (1, 2, 4, 8, 900)] == pytest.approx([0, 0, 3, 6, 6])


@pytest.mark.parametrize("bad", [(), ((4, 0.0), (2, 1.0)), ((2, 0.0), (2, 1.0)), ((0, 1.0),)])
def test_a_table_rises_from_one_row(bad):
    with pytest.raises(Refusal, match="ByShots"):
        build(ByShots, {"snr_db": bad})
