"""Labels of translated rows: the numbers of the method, mass one, and hard labels where nothing is mixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.classifiers.claims import ByStrength, Confident, Measured, Origins, claimed
from counterpoise.types import Refusal, build, describe, load

RULES = [
    ByStrength(),
    ByStrength(gamma=0.5),
    ByStrength(gamma=3),
    Confident(),
    Confident(least=0.9),
    Measured(),
]


def origins(wanted, source, strength, said=None) -> Origins:
    said = None if said is None else np.asarray(said, float)
    scores = {} if said is None else {"label": np.log(said), "turned": said}
    return Origins(np.array(wanted), np.array(source), np.array(strength, np.float32), scores.__getitem__)


def label_of(strength: float, gamma: float) -> np.ndarray:
    one = origins([3], [1], [strength])
    return claimed(np.array([3]), one, ByStrength(gamma=gamma), 5)[0]


def test_golden_labels() -> None:
    """Five classes, from class 1 to class 3 at strength .7."""
    np.testing.assert_allclose(label_of(0.7, 0.5), [0, 0.16334, 0, 0.83666, 0], atol=5e-6)
    np.testing.assert_allclose(label_of(0.7, 0.8), [0, 0.248241, 0, 0.751759, 0], atol=5e-7)


@pytest.mark.parametrize(
    ("strength", "shares"),
    [
        (0.5, [0.933, 0.707, 0.574, 0.5]),
        (0.7, [0.965, 0.837, 0.752, 0.7]),
        (0.9, [0.990, 0.949, 0.919, 0.9]),
    ],
)
def test_golden_shares_of_the_class_wanted(strength, shares) -> None:
    found = [label_of(strength, gamma)[3] for gamma in (0.1, 0.5, 0.8, 1)]
    assert found == pytest.approx(shares, abs=6e-4)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(st.integers(0, 2**32))
def test_every_label_has_mass_one_on_its_two_classes(rule, seed) -> None:
    rng = np.random.default_rng(seed)
    real, n = rng.integers(0, 4, 5), 9
    wanted, source = rng.integers(0, 4, (2, n))
    far = origins(wanted, source, rng.random(n), rng.random(n) * 0.999 + 1e-3)
    found = claimed(np.concatenate([real, wanted]), far, rule, 4)
    if found.ndim == 1:
        assert found.tolist() == [*real, *wanted]
        return
    assert found.dtype == np.float32
    assert found.sum(1) == pytest.approx(1, abs=1e-6)
    assert (found >= 0).all()
    assert (found[:5] == np.eye(4)[real]).all()
    for row, target, start in zip(found[5:], wanted, source, strict=True):
        assert set(np.flatnonzero(row)) <= {target, start}
    assert (found[5:][wanted == source].max(1) == 1).all(), "of one class there is nothing to mix"


def test_nothing_mixed_stays_as_it_is() -> None:
    labels = np.array([0, 2, 1, 1])
    for far, rule in [
        (origins([1, 1], [0, 2], [0.1, 0.7]), ByStrength(gamma=0)),
        (origins([1, 1], [1, 1], [0.1, 0.7]), ByStrength(gamma=1)),
        (origins([1, 1], [1, 1], [1.0, 1.0]), ByStrength(gamma=1)),  # from noise
        (origins([1, 1], [0, 2], [0.1, 0.7], [0.6, 0.9]), Confident(least=0.5)),
        (origins([], [], []), ByStrength(gamma=1)),
    ]:
        assert claimed(labels, far, rule, 3) is labels


def test_a_farther_way_claims_more_and_a_larger_gamma_less() -> None:
    strengths = np.linspace(0.05, 0.95, 10)
    far = origins(np.ones(10, int), np.zeros(10, int), strengths)
    table = np.stack([ByStrength(gamma=gamma)(far) for gamma in (0.1, 0.5, 0.8, 1, 2)])
    assert (np.diff(table, axis=1) > 0).all()
    assert (np.diff(table, axis=0) < 0).all()


def test_a_tie_is_the_class_wanted() -> None:
    """Halfway, with gamma 1: who asks for one class shall not get the one with the lower number."""
    for wanted, source in ((0, 1), (1, 0)):
        label = claimed(np.array([wanted]), origins([wanted], [source], [0.5]), ByStrength(gamma=1), 2)[0]
        assert label.argmax() == wanted
        assert label == pytest.approx([0.5, 0.5], abs=1e-6)


def test_who_is_sure_keeps_the_hard_label() -> None:
    far = origins([1, 1, 1], [0, 0, 0], [0.49, 0.49, 0.49], [0.2, 0.5000001, 0.9])
    assert Confident(otherwise=ByStrength(gamma=0.5))(far) == pytest.approx([0.7, 1, 1])
    with pytest.raises(Refusal, match=r"Confident\.least"):
        build(Confident, {"least": 0})


def test_a_measured_label_is_the_score_whatever_the_strength() -> None:
    far = origins([3, 2], [1, 1], [0.1, 0.9], [0.8, 0.25])
    found = claimed(np.array([3, 2]), far, Measured(), 4)
    np.testing.assert_allclose(found, [[0, 0.2, 0, 0.8], [0, 0.75, 0.25, 0]], atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_described_and_loaded_back(rule) -> None:
    assert load(describe(rule)) == rule
