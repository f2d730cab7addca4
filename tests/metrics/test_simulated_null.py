"""A verdict that cannot flatter: whole simulated studies, from features to the recommendation.

Each study is a long tail of Gaussian classes with its own means; each of its 10 trials fits every arm by weighted
linear discriminant analysis, with random row weights in the place of an order seed. The candidates are copies of the
real rows, so that nothing can be gained or lost by them, unless an effect is planted. `logit_adjustment` corrects by
half only: about as good overall, but it divides its errors otherwise, which must not make a candidate "help the few".
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from counterpoise.metrics.accuracy import measure, slices
from counterpoise.metrics.verdict import decide

CLASSES, DIMENSIONS, TRIALS = 6, 5, 10
COUNTS = np.array([120, 55, 25, 15, 8, 6])
LABEL = np.repeat(np.arange(CLASSES), COUNTS)
TEST = np.repeat(np.arange(CLASSES), 100)
VAL = np.repeat(np.arange(CLASSES), 20)
GROUP = np.arange(len(TEST)) % 3
ROLES = {
    "ce": "baseline",
    "balanced_softmax": "baseline",
    "logit_adjustment": "baseline",
    "oversample": "baseline",
    "copies": "candidate",
    "shuffled_copies": "candidate",
}


def fit(x: np.ndarray, weight: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (T, C, D) and offsets (T, C) of weighted discriminant analysis; x (T, N, D), weight (T, N)."""
    per_class = weight[:, None, :] * (np.arange(CLASSES)[:, None] == LABEL)  # (T, C, N)
    means = per_class @ x / per_class.sum(2, keepdims=True)
    rest = x - means[:, LABEL]
    spread = np.swapaxes(rest * weight[:, :, None], 1, 2) @ rest / weight.sum(1)[:, None, None]
    slope = np.swapaxes(np.linalg.solve(spread, np.swapaxes(means, 1, 2)), 1, 2)
    return slope, np.log(prior) - (slope * means).sum(2) / 2


def predict(model: tuple[np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.argmax(x @ np.swapaxes(model[0], 1, 2) + model[1][:, None, :], axis=2)  # (T, N)


def nudge(predicted: np.ndarray, label: np.ndarray, effect: float, rng: np.random.Generator) -> np.ndarray:
    """Right some wrong answers (or spoil right ones), so that the expected accuracy moves by the effect."""
    wrong = predicted != label
    if effect >= 0:
        return np.where(wrong & (rng.random(wrong.shape) < effect / wrong.mean()), label, predicted)
    spoilt = ~wrong & (rng.random(wrong.shape) < -effect / (1 - wrong.mean()))
    return np.where(spoilt, (label + 1) % CLASSES, predicted)


def study(number: int, effect: float = 0.0) -> dict:
    """One study of ten trials. In every other one all trials share the split, so that only the order is drawn."""
    rng = np.random.default_rng([7, number])
    means = rng.normal(0, 1.1, (CLASSES, DIMENSIONS))
    draws = 1 if number % 2 else TRIALS
    x = means[LABEL] + rng.normal(size=(draws, len(LABEL), DIMENSIONS))
    x = np.broadcast_to(x, (TRIALS, *x.shape[1:]))
    test = means[TEST] + rng.normal(size=(len(TEST), DIMENSIONS))
    val = means[VAL] + rng.normal(size=(len(VAL), DIMENSIONS))
    real, flat = COUNTS / COUNTS.sum(), np.full(CLASSES, 1 / CLASSES)
    share = np.ones(len(LABEL)) / COUNTS[LABEL]  # copies until every class has as many rows
    tuned: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "ce": (np.ones(len(LABEL)), real),
        "balanced_softmax": (share, flat),
        "logit_adjustment": (np.ones(len(LABEL)), np.sqrt(real * flat)),
        "oversample": (share, flat),
        "copies": (share, flat),
        "shuffled_copies": (share, flat),
    }
    results, validation = {}, {}
    shared = rng.exponential(
        size=(TRIALS, len(LABEL))
    )  # trials are paired: half of the order is the trial's own
    for arm, (weight, prior) in tuned.items():
        order = shared + rng.exponential(size=(TRIALS, len(LABEL)))
        model = fit(x, weight * order, prior / prior.sum())
        moved = effect if ROLES[arm] == "candidate" else 0.0
        predicted = nudge(predict(model, test), TEST, moved, rng)
        chosen = nudge(predict(model, val), VAL, moved, rng)
        results[arm] = [
            slices(measure(TEST, row, np.ones(len(TEST)), np.zeros(len(TEST)), GROUP, COUNTS, CLASSES))
            for row in predicted
        ]
        validation[arm] = (chosen == VAL).mean(1)
    return decide(
        {arm: {name: [row[name] for row in rows] for name in rows[0]} for arm, rows in results.items()},
        ROLES,
        validation,
        cost=dict.fromkeys(ROLES, 1.0),
        seeds={"split": [t % draws for t in range(TRIALS)], "classifier": list(range(TRIALS))},
        plain="ce",
    )


def claimed(verdict: dict, word: str, name: str | None = None) -> bool:
    return any(
        row["verdict"] == word
        for row in verdict["comparisons"]
        if row["claim"] and (name is None or row["slice"] == name)
    )


def share(hits: list[bool]) -> tuple[float, float, float]:
    ci = binomtest(sum(hits), len(hits)).proportion_ci(method="exact")
    return sum(hits) / len(hits), ci.low, ci.high


@pytest.fixture(scope="module")
def null() -> list[dict]:
    return [study(number) for number in range(200)]


def test_where_nothing_is_planted_help_is_claimed_in_at_most_a_twentieth(null):
    rate, low, high = share([claimed(verdict, "helps") for verdict in null])
    print(f"null: helps on any slice in {rate:.1%} [{low:.1%}, {high:.1%}]")
    assert low <= 0.05, f"'helps' in {rate:.1%} of the studies"
    assert all(verdict["family"]["comparisons"] == 14 for verdict in null)
    assert len({verdict["opponent"] for verdict in null}) > 1, "the opponent is chosen anew in every study"


def test_the_null_is_a_hard_one(null):
    """The candidates are as good as the opponent, so that the test above is not passed by arms that lose anyway."""
    level = [v for v in null if v["opponent"] in ("balanced_softmax", "oversample")]
    on_all = [row for v in level for row in v["comparisons"] if row["claim"] and row["slice"] == "all"]
    assert abs(np.mean([row["mean"] for row in on_all])) < 0.002
    raw = np.mean([row["p"] <= 0.05 for row in on_all])
    print(f"null: p <= .05 on all classes, uncorrected, in {raw:.1%} of {len(on_all)}")
    assert 0.02 < raw < 0.09, "one comparison alone, uncorrected, should err in about a twentieth"
    other = [v for v in null if v["opponent"] == "logit_adjustment"]
    few = [row for v in other for row in v["comparisons"] if row["claim"] and row["slice"] == "few"]
    assert np.mean([row["p"] <= 0.05 for row in few]) > 0.3, "here, beating the opponent alone proves nothing"


def test_cheap_arms_that_do_help_are_still_found(null):
    """Power at the same time: reweighting beats plain training in these studies, and that is what is recommended."""
    assert np.mean([v["recommendation"]["action"] == "use a cheap arm" for v in null]) > 0.8


def test_three_planted_points_are_found():
    found = [study(number, effect=0.03) for number in range(1000, 1060)]
    power, low, high = share([claimed(verdict, "helps", "all") for verdict in found])
    print(f"+3 points: found in {power:.1%} [{low:.1%}, {high:.1%}]")
    assert power >= 0.8
    assert np.mean([v["recommendation"]["action"] == "generate" for v in found]) >= 0.8


def test_it_says_no(null):
    """Ties and losses are not recommended."""
    hurt = [study(number, effect=-0.03) for number in range(2000, 2040)]
    tie, *_ = share([v["recommendation"]["action"] != "generate" for v in null])
    loss, *_ = share([v["recommendation"]["action"] != "generate" for v in hurt])
    print(f"not generate: {tie:.1%} of ties, {loss:.1%} of losses")
    assert min(tie, loss) >= 0.9
    assert np.mean([claimed(verdict, "hurts", "all") for verdict in hurt]) >= 0.8
