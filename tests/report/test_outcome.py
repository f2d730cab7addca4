from __future__ import annotations

import numpy as np

from counterpoise.metrics.verdict import decide
from counterpoise.report.outcome import by_group, outcome


def test_every_arm_has_its_value_and_claims_have_their_verdict():
    rng = np.random.default_rng(0)
    roles = {"plain": "baseline", "sampling": "baseline", "made": "candidate"}
    level = {"plain": 0.5, "sampling": 0.7, "made": 0.9}
    trials = {
        arm: {name: value + rng.normal(0, 0.01, 10) for name in ("all", "worst_class")}
        for arm, value in level.items()
    }
    validation = {arm: of["all"] for arm, of in trials.items()}
    seeds = {"split": range(10), "generator": range(10), "classifier": range(10)}
    verdict = decide(trials, roles, validation, dict.fromkeys(roles, 0.0), seeds, "plain")
    means = {
        arm: {name: float(of.mean()) for name, of in by.items()} | {"many": 1.0} for arm, by in trials.items()
    }
    found = outcome(roles, means, verdict)

    assert found["slices"] == ["all", "worst class"], "and nothing that the verdict is not about"
    assert (found["outcome"], found["arm"], found["opponent"]) == ("helps", "made", "sampling")
    rows = {row["arm"]: row for row in found["rows"]}
    assert [row["role"] for row in rows.values()] == ["baseline", "opponent", "candidate"]
    for arm, row in rows.items():
        for name, cell in row["slices"].items():
            assert cell["value"] == 100 * means[arm][name.replace(" ", "_")]
            assert ("mean" in cell) == (arm != "sampling"), "the opponent is not compared with itself"
            assert ("p_holm" in cell) == ("verdict" in cell) == (arm == "made")
    gap = 100 * (means["made"]["all"] - means["sampling"]["all"])
    assert abs(rows["made"]["slices"]["all"]["mean"] - gap) < 1e-9
    assert found["recommendation"].keys() == {"action", "arm", "sentence"}


def test_groups_come_with_their_mean_and_the_worst_of_each_trial():
    def arm(*accuracies, mean, worst):
        rows = [{"name": n, "test": 10, "accuracy": a} for n, a in zip("ab", accuracies, strict=True)]
        return {"groups": rows, "mean": {"group_mean": mean, "worst_group": worst}}

    arms = {"plain": arm(0.9, 0.5, mean=0.7, worst=0.4), "made": arm(0.8, 0.7, mean=0.75, worst=0.6)}
    found = by_group(arms, "plain", "made")
    assert (found["before_arm"], found["after_arm"]) == ("plain", "made")
    assert [(row["name"], row["before"], row["after"]) for row in found["rows"]] == [
        ("a", 90, 80),
        ("b", 50, 70),
    ]
    assert [(row["before"], row["after"]) for row in found["ends"]] == [(70, 75), (40, 60)]
    nothing = {"groups": [], "mean": {}}
    assert by_group({"plain": nothing}, "plain", "plain") == {}
