import json

import numpy as np
import pytest

from counterpoise.metrics.verdict import decide

N = 10
NOISE = np.random.default_rng(0).normal(0, 0.004, (8, N))
NOISE -= NOISE.mean(1, keepdims=True)  # so that the planted gains are the means
FRESH = {"split": range(N), "generator": range(N), "classifier": range(N)}


def study(gains, roles, validation=None, seeds=FRESH, noise=NOISE, **more):
    """Arms with a planted mean per slice (points over a common, noisy trial), and validation as good as "all"."""
    n = len(seeds["classifier"])
    trial = np.linspace(0.55, 0.65, n)
    slices, score = {}, {}
    for row, (arm, gain) in zip(noise, gains.items(), strict=False):
        gain = gain if isinstance(gain, dict) else {"all": gain, "few": gain}
        slices[arm] = {name: trial + value / 100 + row[:n] for name, value in gain.items()}
        score[arm] = trial + gain["all"] / 100
    return decide(
        slices,
        roles,
        {arm: np.asarray((validation or {}).get(arm, score[arm])) for arm in gains},
        more.get("cost", dict.fromkeys(gains, 2.0)),
        seeds,
        plain="ce",
    )


CHEAP = {"ce": "baseline", "balanced_softmax": "baseline", "copies": "control"}
ROLES = CHEAP | {"interpolate": "candidate"}


def row(verdict, arm, name="all", table="comparisons"):
    return next(r for r in verdict[table] if r["arm"] == arm and r["slice"] == name)


def test_a_clear_gain_is_generated_and_everything_is_plain_json():
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 8}, ROLES)
    assert found["opponent"] == "balanced_softmax"
    assert found["recommendation"]["action"] == "generate"
    assert found["recommendation"]["arm"] == "interpolate"
    assert row(found, "interpolate")["verdict"] == "helps"
    assert found["headline"].startswith("interpolate helps: +3.")
    assert found["family"]["comparisons"] == 2
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_arms_that_claim_nothing_are_described_only():
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 8}, ROLES)
    plain = row(found, "ce")
    assert plain["high"] < 0
    assert plain["against"] == "balanced_softmax"
    assert plain["verdict"] is None
    assert plain["p_adjusted"] is None


def test_no_gain_ends_in_the_named_cheap_arm():
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 5}, ROLES)
    assert found["recommendation"] == found["recommendation"] | {
        "action": "use a cheap arm",
        "arm": "balanced_softmax",
    }
    assert found["headline"].startswith("No evidence that interpolate helps: ")
    assert found["headline"].endswith("against balanced_softmax; use balanced_softmax.")


def test_no_gain_anywhere_ends_in_the_plain_arm():
    found = study({"ce": 0, "balanced_softmax": -3, "copies": 0, "interpolate": -3}, ROLES)
    assert found["opponent"] == "ce"
    assert found["recommendation"]["action"] == "do not generate"
    assert found["recommendation"]["arm"] == "ce"
    assert found["headline"].startswith("interpolate hurts: -3.")
    assert found["headline"].endswith("use ce.")


def test_a_gain_for_the_few_is_recommended_only_while_all_is_not_harmed():
    gains = {"ce": 0, "balanced_softmax": 5, "copies": 0}
    good = study(gains | {"interpolate": {"all": 5, "few": 9}}, ROLES)
    assert good["recommendation"]["action"] == "generate"
    assert good["recommendation"]["scope"] == "rare"
    assert good["recommendation"]["sentence"].startswith("Generate, for the rare classes: ")
    assert "helps the classes with few images: +" in good["headline"]
    bad = study(gains | {"interpolate": {"all": 3, "few": 9}}, ROLES)
    assert row(bad, "interpolate", "few")["verdict"] == "helps"
    assert bad["recommendation"]["arm"] == "balanced_softmax"


def test_the_opponent_is_chosen_on_validation_whatever_the_test_says():
    validation = {"copies": np.full(N, 0.9)}
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 1, "interpolate": 4}, ROLES, validation)
    assert found["opponent"] == "copies"
    # ... but a lucky choice cannot flatter: balanced_softmax is as good overall and is not beaten.
    assert found["as_good"] == ["balanced_softmax"]
    interpolate = row(found, "interpolate")
    assert interpolate["low"] > 0
    assert interpolate["verdict"] == "no evidence"
    assert interpolate["hardest"] == "balanced_softmax"
    assert "balanced_softmax" in interpolate["note"]
    assert found["recommendation"]["action"] == "use a cheap arm"


def test_another_division_of_the_same_errors_is_no_help_for_the_few():
    gains = {
        "ce": {"all": 0, "few": 0},
        "balanced_softmax": {"all": 5.3, "few": 5},
        "copies": {"all": 5.2, "few": 9},
    }
    found = study(gains | {"interpolate": {"all": 5.2, "few": 9}}, ROLES)
    assert found["opponent"] == "balanced_softmax"
    assert row(found, "interpolate", "few")["verdict"] == "no evidence"


def test_of_several_candidates_that_help_validation_picks():
    roles = ROLES | {"mixture": "candidate", "noise": "candidate"}
    gains = {"ce": 0, "balanced_softmax": 1, "copies": 0, "interpolate": 8, "mixture": 7, "noise": -5}
    validation = {"mixture": np.full(N, 0.8), "interpolate": np.full(N, 0.7), "noise": np.full(N, 0.95)}
    found = study(gains, roles, validation)
    assert found["recommendation"]["arm"] == "mixture"
    assert found["family"]["arms"] == ["interpolate", "mixture", "noise"]


def test_as_many_candidates_claim_as_the_trials_can_decide_and_validation_says_which():
    """Two slices: seven pairs decide three comparisons at most, so that one candidate of three can claim; ten, all."""
    roles = ROLES | {"mixture": "candidate", "noise": "candidate"}
    gains = {"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 8, "mixture": 9, "noise": 3}
    few = {name: range(7) for name in FRESH}
    found = study(gains, roles, seeds=few)
    assert found["family"]["arms"] == ["mixture"]
    assert row(found, "mixture")["verdict"] == "helps"
    assert row(found, "interpolate")["verdict"] is None, "described: it has a difference and an interval"
    assert row(found, "interpolate")["low"] > 0
    assert "interpolate" not in found["as_good"], "a cheap arm is, a candidate never"
    assert study(gains, roles)["family"]["arms"] == ["interpolate", "mixture", "noise"]
    worst_on_validation = study(gains, roles, {"mixture": np.zeros(7)}, seeds=few)
    assert worst_on_validation["family"]["arms"] == ["interpolate"]


def test_without_candidates_cheap_arms_are_held_against_the_plain_one():
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0}, CHEAP)
    assert found["family"]["against"] == "ce"
    assert found["comparisons"] == found["against_plain"]
    assert row(found, "balanced_softmax")["verdict"] == "helps"
    assert found["recommendation"]["arm"] == "balanced_softmax"
    assert found["headline"].startswith("balanced_softmax helps: +")
    none = study({"ce": 0, "balanced_softmax": 0, "copies": -1}, CHEAP)
    assert none["recommendation"]["action"] == "do not generate"
    assert none["headline"].endswith("use ce.")


def test_one_arm_alone_has_nothing_to_compare():
    found = study({"ce": 0}, {"ce": "baseline"})
    assert found["comparisons"] == []
    assert found["recommendation"]["action"] == "do not generate"
    assert "nothing to compare" in found["headline"]
    json.dumps(found, allow_nan=False)


def test_too_few_trials_decide_nothing_and_say_how_many_would():
    seeds = {"split": range(5), "classifier": range(5)}
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 40}, ROLES, seeds=seeds)
    assert row(found, "interpolate")["verdict"] == "no evidence"
    assert row(found, "interpolate")["low"] > 0
    assert "after Holm" in row(found, "interpolate")["note"]
    assert found["family"]["trials_needed"] == 7
    assert any("at least 7 are needed" in said for said in found["what_would_change"])


def test_a_single_trial_bounds_nothing_but_is_still_a_report():
    seeds = {"split": [0], "classifier": [0]}
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 40}, ROLES, seeds=seeds)
    only = row(found, "interpolate")
    assert (only["low"], only["high"], only["p"], only["verdict"]) == (-1.0, 1.0, 1.0, "no evidence")
    json.dumps(found, allow_nan=False)


def test_what_was_shared_is_named_and_the_test_images_always_are():
    seeds = FRESH | {"split": [0] * N, "generator": [t // 5 for t in range(N)]}
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 8}, ROLES, seeds=seeds)
    missing = {entry["factor"]: entry["draws"] for entry in found["missing_variance"]}
    assert missing == {"split": 1, "generator": 2, "test images": 1}
    assert any("another split or generator" in said for said in found["what_would_change"])
    fresh = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 8}, ROLES)
    assert [entry["factor"] for entry in fresh["missing_variance"]] == ["test images"]


def test_trials_that_share_a_draw_count_once():
    seeds = {"split": [t // 2 for t in range(12)], "classifier": [0, 1] * 6}
    noise = np.random.default_rng(1).normal(0, 0.004, (4, 12))
    gains = {"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 40}
    found = study(gains, ROLES, seeds=seeds, noise=noise)
    assert (found["trials"], found["units"], row(found, "interpolate")["n"]) == (12, 6, 6)
    assert row(found, "interpolate")["p"] == 2.0**-5
    assert row(found, "interpolate")["verdict"] == "no evidence", "six draws do not reach two comparisons"
    assert any("7 are needed" in said and "draws" in said for said in found["what_would_change"])


def test_a_verdict_never_contradicts_the_interval_beside_it():
    rng = np.random.default_rng(2)
    for _ in range(40):
        gains = dict(zip(ROLES, rng.normal(0, 0.5, 4), strict=True))
        found = study(gains, ROLES, noise=rng.normal(0, 0.008, (4, N)))
        for r in found["comparisons"] + found["against_plain"]:
            assert r["verdict"] != "helps" or (r["low"] > 0 and r["p_adjusted"] <= 0.05)
            assert r["verdict"] != "hurts" or (r["high"] < 0 and r["p_adjusted"] <= 0.05)
            assert r["low"] <= r["mean"] <= r["high"]
            if r["verdict"] == "no evidence" and not r["low"] <= 0 <= r["high"]:
                assert r["note"], "an interval clear of zero without a claim needs its reason"


def test_what_generating_cost_is_said():
    cost = {"ce": 1.0, "balanced_softmax": 2.0, "copies": 1.0, "interpolate": 7.0}
    found = study({"ce": 0, "balanced_softmax": 5, "copies": 0, "interpolate": 8}, ROLES, cost=cost)
    assert "at 3.5 times the cost" in found["recommendation"]["sentence"]
    assert found["arms"]["interpolate"]["cost_ratio"] == 7.0


def test_arms_with_other_trials_are_our_mistake():
    with pytest.raises(AssertionError, match="does not have 3 trials"):
        decide(
            {"ce": {"all": [0.1, 0.2]}},
            {"ce": "baseline"},
            {"ce": [0.1, 0.2]},
            {"ce": 1.0},
            {"classifier": [0, 1, 2]},
            "ce",
        )
