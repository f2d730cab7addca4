"""How a verdict is put into words. It decides nothing: `verdict.py` does, and hands over rows and choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from counterpoise.metrics.evidence import Units, detectable, fewest_trials

Row = dict[str, Any]

WORDS = {
    "all": "all classes",
    "many": "the classes with many images",
    "medium": "the classes with a medium number of images",
    "few": "the classes with few images",
    "rarest": "the rarest classes",
    "worst_class": "the worst class",
    "worst_group": "the worst group",
    "worst_cell": "the worst class in a group",
}


def points(row: Row) -> str:
    """
    >>> points({"mean": -0.004, "low": -0.012, "high": 0.003})
    '-0.4 points [-1.2, +0.3]'
    """
    mean, low, high = (round(100 * row[key], 1) + 0.0 for key in ("mean", "low", "high"))
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def find(rows: Sequence[Row], arm: str, name: str) -> Row:
    return next(row for row in rows if row["arm"] == arm and row["slice"] == name)


def note(row: Row, m: int, alpha: float) -> str:
    """Why a row says "no evidence" although the interval, or the test, taken alone would say more."""
    if row["verdict"] == "no evidence" and (row["low"] > 0 or row["high"] < 0):
        if row["hardest"] != row["against"]:
            return (
                f"{row['hardest']}, as good on all classes, is not beaten here: p is {row['p_adjusted']:.3f}"
            )
        return f"the interval alone is clear of zero, but p is {row['p_adjusted']:.3f} after Holm over {m} comparisons"
    if row["verdict"] == "no evidence" and row["p_adjusted"] <= alpha:
        return "the test alone says so, but the interval contains zero"
    return ""


def gain(row: Row) -> str:
    return f"{row['arm']} gains {points(row)} against {row['against']} on {WORDS[row['slice']]}"


def generate(told: Row, overall: Row, cost_ratio: float | None) -> str:
    rare = told is not overall
    sentence = f"Generate{', for the rare classes' if rare else ''}: {gain(told)}"
    if rare:
        sentence += f" and {points(overall)} on all classes"
    if cost_ratio is not None:
        sentence += f", at {cost_ratio:.1f} times the cost"
    return sentence + "."


def cheap(told: Row, instead: bool) -> str:
    return f"Use {told['arm']}{' instead of generating' if instead else ''}: {gain(told)}."


def neither(plain: str, compared: bool) -> str:
    if compared:
        return f"Do not generate: nothing that was tried is shown to beat {plain}."
    return f"Do not generate: only {plain} was trained, so there is nothing to compare."


def headline(told: Row | None, overall: Row | None, use: str) -> str:
    """`told` is the row a recommended claim rests on, None if no claim won; `overall` is of the arm shown, on all."""
    if overall is None:
        return f"Only {use} was trained: there is nothing to compare."
    arm, against = overall["arm"], overall["against"]
    if told is overall:
        return f"{arm} helps: {points(told)} against {against}."
    if told:
        where = WORDS[told["slice"]]
        return f"{arm} helps {where}: {points(told)} against {against}; {points(overall)} on all classes."
    opening = f"{arm} hurts" if overall["verdict"] == "hurts" else f"No evidence that {arm} helps"
    return f"{opening}: {points(overall)} against {against}; use {use}."


def missing_variance(units: Units) -> list[dict[str, Any]]:
    """Which chance the interval leaves out, factor by factor."""
    n = len(units.of_trial)
    found = []
    for factor, draws in units.draws.items():
        if draws == 1 < n:
            said = f"all {n} trials share one {factor}: the verdict holds for that one"
        elif factor in units.conditional_on:
            said = f"{n} trials share {draws} draws of the {factor}, too few to test over: the verdict holds for those"
        else:
            continue
        found.append({"factor": factor, "draws": draws, "sentence": said})
    tested = "every trial is tested on the same images: the interval does not say how other test images would come out"
    return [*found, {"factor": "test images", "draws": 1, "sentence": tested}]


def what_would_change(m: int, shown: np.ndarray | None, units: Units, alpha: float) -> list[str]:
    """What could turn a verdict over m comparisons; `shown` are the differences of the best claimant on all classes."""
    if shown is None:
        return ["a second arm: there was nothing to compare"]
    what = "trials" if units.count == len(units.of_trial) else "independent draws"
    said = []
    needed = fewest_trials(m, alpha)
    if units.count < needed:
        said.append(
            f"more {what}: {units.count} cannot reach p = {alpha:.2f} over {m} comparisons "
            f"whatever they show, at least {needed} are needed"
        )
    elif (least := 100 * detectable(shown, alpha / m)) > 0:
        said.append(
            f"an effect larger than was seen, or more {what}: at this spread {units.count} find a difference of "
            f"{least:.1f} points on all classes in four studies of five, and smaller ones less often"
        )
    if units.conditional_on:
        said.append(f"another {' or '.join(units.conditional_on)}: it was not drawn anew in every trial")
    return said
