"""Streams of rows: their length, their seeds, and that the stated prior is the one that comes out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from counterpoise.classifiers.claims import ByStrength, Origins, claimed
from counterpoise.classifiers.mixing import (
    ClassBalancedSampling,
    Concatenate,
    GroupBalanced,
    Instance,
    Progressive,
    Replace,
    Sampler,
    Sqrt,
    effective_prior,
    hard,
    label_mass,
    patch_weights,
    prior_of,
    row_probability,
    soft,
    stream,
)
from counterpoise.types import Refusal, build, describe, load

SAMPLERS: list[Sampler] = [Instance(), Sqrt(), ClassBalancedSampling(), Progressive(), GroupBalanced()]
contract = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
N = np.array([100, 10, 1])
LABELS = np.repeat(np.arange(3), N)
GROUPS = np.arange(111) % 4
EVEN = np.ones(111)


def test_golden_shares() -> None:
    assert Sqrt()(N) == pytest.approx([0.706, 0.223, 0.071], abs=5e-4)
    assert Instance()(N) == pytest.approx(N / 111)
    assert ClassBalancedSampling()(N) == pytest.approx([1 / 3] * 3)
    assert Progressive()(N, 0.25) == pytest.approx(0.75 * N / 111 + 0.25 / 3)


@contract
def test_contract_shares_are_probabilities_and_dead_classes_get_none(sampler: Sampler) -> None:
    for progress in (0.0, 0.3, 1.0):
        share = sampler(np.array([3.0, 0.0, 1e-9, 40.0]), progress)
        assert share.sum() == pytest.approx(1)
        assert share[1] == 0
        assert (share[[0, 2, 3]] > 0).all()
        assert (progress == 0) or (
            sampler.moves == bool((share != sampler(np.array([3.0, 0.0, 1e-9, 40.0]))).any())
        )


@contract
@pytest.mark.parametrize("weights", [EVEN, np.linspace(0, 2, 111)], ids=["even", "uneven"])
def test_contract_streams_are_fixed_by_the_seed_and_complete(sampler: Sampler, weights: np.ndarray) -> None:
    made = [stream(sampler, LABELS, weights, 50, 17, seed, GROUPS) for seed in (1, 1, 2)]
    assert made[0].shape == (50, 17)
    assert made[0].dtype == np.int64
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()
    assert (weights[made[0]] > 0).all()


@contract
@pytest.mark.parametrize("weights", [EVEN, np.linspace(0, 2, 111) ** 2], ids=["even", "uneven"])
def test_contract_views_come_as_often_as_stated(sampler: Sampler, weights: np.ndarray) -> None:
    """Averaged over the training, every row appears with its stated probability (five standard deviations)."""
    steps, batch = 400, 500
    views = np.bincount(stream(sampler, LABELS, weights, steps, batch, 5, GROUPS).ravel(), minlength=111)
    moments = [row_probability(sampler, LABELS, weights, at / steps, GROUPS) for at in range(steps)]
    stated = np.mean(moments, axis=0)
    assert stated.sum() == pytest.approx(1)
    sd = np.sqrt(stated * (1 - stated) / (steps * batch))
    assert (np.abs(views / (steps * batch) - stated) <= 5 * sd + 1e-12).all()


@contract
def test_contract_described_and_loaded_back(sampler: Sampler) -> None:
    assert load(describe(sampler)) == sampler


def test_progressive_moves_from_instance_to_balanced() -> None:
    drawn = LABELS[stream(Progressive(), LABELS, EVEN, 400, 100, 0)]
    first, last = (np.bincount(part.ravel(), minlength=3) / part.size for part in (drawn[:40], drawn[-40:]))
    assert first == pytest.approx(Progressive()(N, 0.05), abs=0.03)
    assert last == pytest.approx(Progressive()(N, 0.95), abs=0.03)


def test_instance_with_even_weights_shows_every_row_once_before_any_twice() -> None:
    views = stream(Instance(), LABELS, 0.3 * EVEN, 10, 37, 3).ravel()  # 370 views of 111 rows
    for turn in range(3):
        assert sorted(views[111 * turn : 111 * (turn + 1)]) == list(range(111))
    assert len(set(views[333:])) == 37
    assert (views[:111] != views[111:222]).any()


def test_group_balanced_needs_groups() -> None:
    with pytest.raises(Refusal, match="balances groups"):
        stream(GroupBalanced(), LABELS, EVEN, 1, 1, 0)
    groups = np.repeat([-1, 7, 3], N)  # any numbers; rows without a group (-1) are one group
    views = stream(GroupBalanced(), LABELS, EVEN, 300, 100, 0, groups)
    assert np.bincount(LABELS[views.ravel()]) / views.size == pytest.approx([1 / 3] * 3, abs=0.02)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(Refusal, match="no row"):
        stream(Instance(), LABELS, 0 * EVEN, 1, 1, 0)
    with pytest.raises(Refusal, match="no row"):
        prior_of(Instance(), LABELS, 0 * EVEN)


# --- mixes and the effective prior -------------------------------------------------------------------------

softs = st.integers(0, 2**31).map(np.random.default_rng)


def soft_labels(rng: np.random.Generator, rows: int, classes: int = 3) -> np.ndarray:
    return rng.dirichlet(np.full(classes, 0.5), rows)


@settings(max_examples=60, deadline=None)
@given(softs, st.floats(0, 1), st.integers(1, 300))
def test_replace_yields_exactly_the_mixed_prior(rng: np.random.Generator, p: float, synthetic: int) -> None:
    """Evidence rule: (1-p) real + p synthetic label mass, soft labels by their mass, whatever the row weights."""
    labels = np.concatenate([np.eye(3)[LABELS], soft_labels(rng, synthetic)])
    own = rng.random(111 + synthetic) + 0.01
    weights = Replace(p)(own[:111], own[111:])
    real, fake = (effective_prior(labels[at], own[at]) for at in (slice(111), slice(111, None)))
    expected = (1 - p) * real + p * fake
    found = effective_prior(labels, row_probability(Instance(), labels, weights))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(weights.sum(), own[:111].sum(), rtol=1e-10)


def test_replace_yields_the_mixed_prior_in_the_stream_too() -> None:
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.eye(3)[LABELS], soft_labels(rng, 60)])
    weights = Replace(0.3)(EVEN, np.ones(60))
    views = stream(Instance(), labels, weights, 1000, 200, 1)
    assert (views >= 111).mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 200_000))
    expected = 0.7 * N / 111 + 0.3 * labels[111:].mean(0)
    assert labels[views.ravel()].mean(0) == pytest.approx(expected, abs=0.006)
    assert prior_of(Instance(), labels, weights) == pytest.approx(expected * 171)


@contract
def test_the_prior_is_the_label_mass_that_streams_yield(sampler: Sampler) -> None:
    """Every sampler, with soft synthetic labels among the rows: expectation against a long stream."""
    rng = np.random.default_rng(2)
    labels = np.concatenate([np.eye(3)[LABELS], soft_labels(rng, 40)])
    groups = rng.integers(0, 5, 151)
    weights = Concatenate(0.5)(EVEN, np.ones(40))
    steps, batch = 500, 400
    seen = labels[stream(sampler, labels, weights, steps, batch, 9, groups).ravel()].mean(0)
    stated = np.mean([prior_of(sampler, labels, weights, at / steps, groups) for at in range(steps)], axis=0)
    assert stated.sum() == pytest.approx(151)
    assert seen == pytest.approx(stated / 151, abs=0.006)


def test_priors_in_rows() -> None:
    assert prior_of(Instance(), LABELS, EVEN) == pytest.approx(N)
    assert prior_of(ClassBalancedSampling(), LABELS, EVEN) == pytest.approx([37] * 3)
    assert prior_of(Instance(), LABELS, EVEN, classes=5) == pytest.approx([100, 10, 1, 0, 0])
    both = np.concatenate([LABELS, LABELS])
    assert prior_of(Instance(), both, Concatenate()(EVEN, EVEN)) == pytest.approx(2 * N)
    assert prior_of(Instance(), both, Concatenate(0.0)(EVEN, EVEN)) == pytest.approx(N)
    assert label_mass(np.eye(3)[LABELS], EVEN) == pytest.approx(label_mass(LABELS, EVEN))


def test_mixes_without_synthetic_rows_are_the_real_rows() -> None:
    for mix in (Concatenate(), Replace(0.5)):
        assert mix(EVEN, np.zeros(0)) == pytest.approx(EVEN)
    assert Replace(0.0)(EVEN, np.ones(5)) == pytest.approx(np.concatenate([EVEN, np.zeros(5)]))
    assert Replace(1.0)(EVEN, np.ones(5))[:111] == pytest.approx(0)
    for cls, bad in [(Replace, {"p": 1.1}), (Concatenate, {"weight": -1})]:
        with pytest.raises(Refusal, match=cls.__name__):
            build(cls, bad)


def test_a_view_is_replaced_with_probability_p() -> None:
    """Inside the 99.9 % interval of the binomial distribution, whatever p and however many rows there are."""
    for seed, (p, synthetic) in enumerate([(0.1, 500), (0.3, 7), (0.5, 111), (0.9, 40)]):
        weights = Replace(p)(EVEN, np.ones(synthetic))
        views = stream(Instance(), np.zeros(111 + synthetic, int), weights, 100, 64, seed)
        low, high = binomtest(int((views >= 111).sum()), views.size).proportion_ci(0.999)
        assert low <= p <= high


def test_rare_classes_replace_most() -> None:
    """P(class) ~ 1 / (n + 1) among the synthetic rows, any row of the class, whatever was made of each."""
    wanted = np.repeat([0, 1, 2, 3], [200, 50, 4, 9])  # of the last class there is no real row
    mix = Replace(0.3, rare=True)
    weights = mix(EVEN, np.ones(263), (LABELS, wanted))
    synthetic = weights[111:]
    shares = np.bincount(wanted, synthetic)
    assert shares / shares.sum() == pytest.approx(
        np.array([1 / 101, 1 / 11, 1 / 2, 1]) / (1 / 101 + 1 / 11 + 1.5)
    )
    assert all(np.ptp(synthetic[wanted == c]) == pytest.approx(0) for c in range(4))
    assert weights[:111] == pytest.approx(0.7)
    assert synthetic.sum() == pytest.approx(0.3 * 111)
    views = stream(Instance(), np.concatenate([LABELS, wanted]), weights, 400, 100, 0)
    drawn = np.bincount(wanted[views[views >= 111] - 111], minlength=4)
    assert chisquare(drawn, drawn.sum() * shares / shares.sum()).pvalue > 1e-3
    assert mix(EVEN, np.zeros(0), (LABELS, np.zeros(0, int))) == pytest.approx(EVEN)
    kept = Replace(0.3, rare=True)(EVEN, np.linspace(0, 1, 263), (LABELS, wanted))[111:]
    assert kept[wanted == 3] / kept[wanted == 3].sum() == pytest.approx(
        np.linspace(0, 1, 263)[-9:] / np.linspace(0, 1, 263)[-9:].sum()
    ), "weights of rows count within their class"


def test_the_prior_of_mixed_labels_is_the_label_mass_that_comes() -> None:
    """Rows from class to class, replaced with p, the rarest first: (1-p) real + p synthetic mass, as it is drawn."""
    rng, p = np.random.default_rng(4), 0.3
    wanted, source = rng.integers(0, 3, (2, 90))
    far = Origins(wanted, source, rng.choice([0.3, 0.7], 90), dict[str, np.ndarray]().__getitem__)
    labels = claimed(np.concatenate([LABELS, wanted]), far, ByStrength(gamma=0.5), 3)
    weights = Replace(p, rare=True)(EVEN, np.ones(90), (LABELS, wanted))
    stated = prior_of(Instance(), labels, weights) / 201
    rare = 1 / (N + 1)
    by_class = np.stack([labels[111:][wanted == c].mean(0) for c in range(3)])
    assert stated == pytest.approx((1 - p) * N / 111 + p * rare / rare.sum() @ by_class, rel=1e-5)
    seen = labels[stream(Instance(), labels, weights, 1000, 200, 1).ravel()].mean(0)
    assert seen == pytest.approx(stated, abs=0.006)
    hard_prior = (1 - p) * N / 111 + p * rare / rare.sum()
    assert np.abs(seen - hard_prior).max() > 0.02, "the classes wanted alone would be another prior"


def test_soft_and_hard_labels_are_each_others() -> None:
    assert (hard(soft(LABELS, 3)) == LABELS).all()
    given_ = soft_labels(np.random.default_rng(0), 5)
    assert soft(given_, 3) is given_
    assert soft(LABELS, 5).shape == (111, 5)


def test_patches_come_from_the_tail() -> None:
    for power, expected in [(1.0, [1 / 3] * 3), (0.0, N / 111), (2.0, 1 / N / (1 / N).sum())]:
        weights = patch_weights(LABELS, EVEN, power)
        assert effective_prior(LABELS, weights / weights.sum()) == pytest.approx(expected)


def test_a_million_views_take_a_moment() -> None:
    """The stream of a whole training is made at once; slower than this it would show in short trainings."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 100, 50_000)
    for sampler in (Instance(), Progressive()):
        begin = time.process_time()
        stream(sampler, labels, np.ones(50_000), 7813, 128, 0)
        assert time.process_time() - begin < 3.0
