import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from counterpoise.metrics.evidence import (
    bootstrap_interval,
    detectable,
    fewest_trials,
    holm,
    independent_units,
    paired,
    sign_flip_p,
)

CARD = np.array([0.5, 0.5, 0.1, 0.9, 0.7])
differences = st.lists(st.integers(-20, 20), min_size=1, max_size=12).map(lambda d: np.array(d) / 20)


def test_the_card():
    found = paired(CARD, np.zeros(5))
    assert found.mean == pytest.approx(0.54)
    assert found.p == 0.0625
    assert found.n == 5
    bca = stats.bootstrap((CARD,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    assert (bca.low, bca.high) == pytest.approx((0.26, 0.74), abs=0.05)
    assert found.low < bca.low < bca.high < found.high, "BCa is too narrow for five pairs, ours is wider"


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=5))
def test_five_pairs_cannot_go_below_a_sixteenth(d):
    assert sign_flip_p(np.array(d)) >= 0.0625


@given(differences.filter(lambda d: len(d) > 1))
def test_the_test_is_the_permutation_test_of_scipy(d):
    expected = stats.permutation_test(
        (d, np.zeros_like(d)),
        lambda a, b, axis: np.round(np.mean(a - b, axis=axis), 12),
        permutation_type="samples",
        vectorized=True,
    )
    assert sign_flip_p(d) == pytest.approx(expected.pvalue)


@given(differences)
def test_swapping_the_arms_mirrors_everything_and_order_does_not_matter(d):
    a, b = paired(d, np.zeros_like(d)), paired(np.zeros_like(d), d[::-1])
    assert a.mean == pytest.approx(-b.mean)
    assert a.p == pytest.approx(b.p)
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low))
    assert a.low <= a.mean <= a.high


@given(differences, st.floats(0.01, 100))
def test_points_or_shares_give_the_same_answer(d, scale):
    a, b = paired(d, 0 * d), paired(scale * d, 0 * d)
    assert a.p == b.p
    assert (b.low, b.high) == pytest.approx((scale * a.low, scale * a.high), abs=1e-9)


@pytest.mark.parametrize("n", [2, 10, 25])
def test_equal_differences_leave_one_number_and_the_test_says_what_it_is_worth(n):
    found = paired(np.full(n, 0.1) + np.arange(n), np.arange(n))
    assert (found.low, found.high) == pytest.approx((0.1, 0.1), abs=1e-6)
    assert found.p == pytest.approx(2.0 ** (1 - n), abs=2e-5)
    assert paired(np.ones(n), np.ones(n)).p == 1


def test_one_pair_says_nothing():
    found = paired([0.9], [0.1])
    assert (found.p, found.low, found.high) == (1.0, -math.inf, math.inf)


def test_many_pairs_are_drawn_instead_of_enumerated_and_agree_with_theory():
    rng = np.random.default_rng(3)
    d = rng.normal(0.2, 1, 60)
    found, t = paired(d, 0 * d), stats.ttest_1samp(d, 0)
    assert found.p == pytest.approx(t.pvalue, abs=0.01)
    assert (found.low, found.high) == pytest.approx(tuple(t.confidence_interval(0.95)), abs=0.03)
    assert paired(d, 0 * d) == found


def coverage(draw, truth, n, studies=1500):
    hits = 0
    for seed in range(studies):
        low, high = bootstrap_interval(draw(np.random.default_rng([n, seed]), n))
        hits += low <= truth <= high
    return hits / studies


def coarse(rng, n):
    """Differences of two rates over twenty images, as a worst class gives them."""
    return (rng.binomial(20, 0.7, n) - rng.binomial(20, 0.7, n)) / 20


@pytest.mark.parametrize("draw", [lambda rng, n: rng.normal(0, 1, n), coarse], ids=["normal", "coarse"])
@pytest.mark.parametrize("n", [5, 10])
def test_the_interval_covers_what_it_promises(draw, n):
    assert 0.93 <= coverage(draw, 0.0, n) <= 0.98


def test_the_test_errs_as_often_as_it_promises():
    rng = np.random.default_rng(4)
    p = np.array([sign_flip_p(d) for d in rng.normal(size=(2000, 10))])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=0.035)


def test_the_interval_and_the_test_rarely_disagree():
    rng = np.random.default_rng(5)
    found = [paired(d, 0 * d) for d in rng.normal(0.7, 1, size=(1000, 10))]
    apart = [(one.p <= 0.05) != (one.low > 0 or one.high < 0) for one in found]
    assert np.mean(apart) < 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_its_definition(p):
    adjusted = holm(p)
    m = len(p)
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(sorted(range(m), key=lambda i: p[i])):  # Holm 1979, step by step
            if p[index] * (m - step) > alpha:
                break
            rejected.add(index)
        assert {i for i in range(m) if adjusted[i] <= alpha} == rejected
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))


@given(st.integers(1, 500))
def test_the_fewest_trials_suffice_and_one_less_does_not(m):
    n = fewest_trials(m)
    assert 2.0 ** (1 - n) * m <= 0.05 < 2.0 ** (2 - n) * m


def test_what_is_called_detectable_is_found_four_times_in_five():
    rng = np.random.default_rng(6)
    effect = detectable(stats.norm.ppf((np.arange(10) + 0.5) / 10), 0.05)
    scale = np.std(stats.norm.ppf((np.arange(10) + 0.5) / 10), ddof=1)
    p = [sign_flip_p(d) for d in rng.normal(effect, scale, size=(1000, 10))]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.8, abs=0.06)


# --- which trials are independent --------------------------------------------------------------------------


def test_seeds_drawn_anew_leave_every_trial_a_unit():
    units = independent_units({"split": range(10), "generator": range(10), "classifier": range(10)})
    assert units.count == 10
    assert units.conditional_on == ()


def test_one_shared_split_is_a_condition_and_ties_nothing():
    units = independent_units({"split": [3] * 10, "classifier": range(10)})
    assert units.count == 10
    assert units.conditional_on == ("split",)


def test_six_shared_draws_are_averaged_and_five_are_a_condition():
    six = independent_units({"split": [t // 2 for t in range(12)], "classifier": [0, 1] * 6})
    assert six.count == 6
    assert six.conditional_on == ()
    assert six.average(np.arange(12)).tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]
    five = independent_units({"split": [t // 2 for t in range(10)], "classifier": [0, 1] * 5})
    assert five.count == 10
    assert five.conditional_on == ("split",)


def test_crossed_factors_tie_trials_through_each_other():
    """Splits share generators in a chain, so that nothing is independent of anything."""
    seeds = {"split": [t // 2 for t in range(14)], "generator": [(t + 1) // 2 % 7 for t in range(14)]}
    units = independent_units(seeds)
    assert units.conditional_on == ("split", "generator")
    assert units.count == 14


def test_averaging_within_draws_keeps_the_error_that_flipping_trials_would_not():
    """No effect, but each of eight splits favours one arm or the other in all of its five trials."""
    rng = np.random.default_rng(7)
    split = np.repeat(np.arange(8), 5)
    units = independent_units({"split": split, "classifier": np.tile(np.arange(5), 8)})
    d = rng.normal(0, 1, (400, 8))[:, split] + rng.normal(0, 0.5, (400, 40))
    ours = np.mean([sign_flip_p(units.average(x)) <= 0.05 for x in d])
    naive = np.mean(
        [stats.ttest_1samp(x, 0).pvalue <= 0.05 for x in d]
    )  # of 40 pairs; sign flips do the same
    assert naive > 0.2
    assert ours < 0.08
