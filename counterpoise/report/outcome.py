"""From what `evaluate` wrote to the rows of the verdict's tables: every arm on every slice, in percent points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def outcome(
    roles: Mapping[str, str], means: Mapping[str, Mapping[str, float]], verdict: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts (`report.facts.Verdict`) from each arm's role and mean per slice, and the verdict over them."""
    against, slices = verdict["family"]["against"], verdict["family"]["slices"]
    cells = {(row["arm"], row["slice"]): _cell(row) for row in verdict["comparisons"]}
    rows = [
        {
            "arm": arm,
            "role": "opponent" if arm == against else role,
            "slices": {
                _words(name): {"value": 100 * means[arm][name]} | cells.get((arm, name), {})
                for name in slices
            },
        }
        for arm, role in roles.items()
    ]
    spoken = [row for row in verdict["comparisons"] if row["claim"] and row["slice"] == "all"]
    told = next((row for row in spoken if row["arm"] == verdict["shown"]), None)
    return {
        "headline": verdict["headline"],
        **({"outcome": told["verdict"], "arm": told["arm"]} if told else {}),
        "metric": "balanced accuracy",
        "recommendation": {k: verdict["recommendation"][k] for k in ("action", "arm", "sentence")},
        "would_change": verdict["what_would_change"],
        "missing_variance": [row["sentence"] for row in verdict["missing_variance"]],
        "trials": verdict["trials"],
        "opponent": against,
        "slices": [_words(name) for name in slices],
        "rows": rows,
    }


def by_group(arms: Mapping[str, Mapping[str, Any]], before_arm: str, after_arm: str) -> dict[str, Any]:
    """Facts (`report.facts.Groups`) from what `evaluate` says of two arms, in per cent; empty where no group was tested."""
    before, after = arms[before_arm], arms[after_arm]
    rows = [
        {"name": a["name"], "test": a["test"], "before": 100 * a["accuracy"], "after": 100 * b["accuracy"]}
        for a, b in zip(before["groups"], after["groups"], strict=True)
    ]
    ends = [
        {"name": name, "before": 100 * before["mean"][key], "after": 100 * after["mean"][key]}
        for name, key in {"mean of the groups": "group_mean", "worst group": "worst_group"}.items()
        if rows
    ]
    return {"before_arm": before_arm, "after_arm": after_arm, "rows": rows, "ends": ends} if rows else {}


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    cell = {name: 100 * row[name] for name in ("mean", "low", "high")} | {"p": row["p"]}
    return cell | ({"p_holm": row["p_adjusted"], "verdict": row["verdict"]} if row["claim"] else {})


def _words(name: str) -> str:
    return name.replace("_", " ")
