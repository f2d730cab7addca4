"""The decision: does generating help, against the strongest thing that costs next to nothing?

`decide` compares arms trial by trial and returns plain JSON values:

- `shown`: the arm that the headline speaks of, null where there is nothing to compare.
- `headline`: one sentence with the difference and its interval, in percent points.
- `recommendation`: `action` ("generate", "use a cheap arm" or "do not generate"), `arm`, `scope` ("all", "rare", or
  None where nothing beat the plain arm), `sentence`.
- `opponent`: the strongest cheap arm by *validation*, never by test; `plain`: the ordinary baseline.
- `comparisons`: one row per arm and slice. Rows with `claim` are the family that Holm corrects; they have `p_adjusted`
  and a `verdict`: "helps" (adjusted p <= alpha and the interval above zero), "hurts" (the same, below zero) or
  "no evidence". The other rows describe and claim nothing. Numbers are shares (0.01 is one point): `value` and `base`
  are the means of `arm` and of `against`, `mean` the mean paired difference, `low`, `high` and `p` its 95 % interval
  and test *before* any correction; `note` says so where they seem to disagree. `n` counts independent pairs.
- `as_good`: cheap arms that are not shown to be worse than the opponent on all classes. To help on a slice, a candidate
  has to beat each of them there as well; `hardest` names the one that `p_adjusted` comes from.
- `against_plain`: every other cheap arm against the plain one; it says which cheap arm is worth using when generating is
  not. Their claims are on all classes only, a family of its own: ten arms on six slices could never be decided.
- `family`: what was corrected for: `against`, `arms`, `slices`, `comparisons`, `smallest_p`, `trials_needed`.
- `arms`: `role`, mean `validation` score, `cost`, and `cost_ratio` to the plain arm (None if that cost nothing).
- `trials`, `units` (the independent ones among them), `missing_variance` (which chance the interval leaves out),
  `what_would_change` (what could turn the verdict).

With candidates, the claims are candidates against the opponent: as many of them, the best on validation first, as the
trials can decide (ten trials: 25 comparisons); further ones are described. Without, cheap arms against the plain one: "use a cheap
arm" or "do not generate" is then all that can be recommended. Nothing here knows images, files or training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from counterpoise.metrics import sentences
from counterpoise.metrics.evidence import fewest_trials, holm, independent_units, paired
from counterpoise.metrics.sentences import Row, find

Role = Literal["baseline", "control", "candidate"]
Trials = Sequence[float] | np.ndarray

ALPHA = 0.05
RARE = (
    "few",
    "rarest",
    "worst_group",
    "worst_cell",
)  # where a gain is worth a recommendation if all classes are not harmed


def decide(
    slices: Mapping[str, Mapping[str, Trials]],
    roles: Mapping[str, Role],
    validation: Mapping[str, Trials],
    cost: Mapping[str, float],
    seeds: Mapping[str, Sequence[int]],
    plain: str,
) -> dict[str, Any]:
    """The verdict over arms: `slices[arm][slice]` and `validation[arm]` have one value per trial, in one order.

    `seeds` has the seed of each factor (split, generator, classifier) in each trial; `cost` is seconds per arm.
    Slices are rates between 0 and 1 and include "all". Baselines and controls are the cheap arms.
    """
    trials = len(next(iter(seeds.values())))
    assert set(roles) == set(slices) == set(validation) == set(cost), (
        "roles, slices, validation, cost: other arms"
    )
    assert roles.get(plain) == "baseline", f"{plain!r} is no baseline among {list(roles)}"
    assert "all" in slices[plain], f"no slice 'all' among {list(slices[plain])}"
    for arm, of in slices.items():
        assert set(of) == set(slices[plain]), f"{arm} has the slices {list(of)}"
        assert all(len(v) == trials for v in (validation[arm], *of.values())), (
            f"{arm} does not have {trials} trials"
        )

    units = independent_units(seeds)
    values = {arm: {name: units.average(of[name]) for name in slices[plain]} for arm, of in slices.items()}
    score = {arm: float(np.mean(validation[arm])) for arm in roles}
    cheap = [arm for arm in roles if roles[arm] != "candidate"]
    rivals = [arm for arm in cheap if arm != plain]
    candidates = [arm for arm in roles if roles[arm] == "candidate"]
    opponent = max(cheap, key=score.__getitem__)

    # Only on all classes: ten arms on six slices would be a family that ten trials can never decide.
    against_plain = compare(values, rivals, plain, claim=("all",))
    # As many candidates claim as these trials can decide at all, the best on validation first; the rest is described.
    decided = max(1, int(ALPHA * 2.0 ** (units.count - 1) / len(values[plain])))
    chosen = sorted(candidates, key=lambda arm: -score[arm])[:decided]
    claimed, against = (
        ([arm for arm in candidates if arm in chosen], opponent) if candidates else (rivals, plain)
    )
    described = [arm for arm in roles if arm != opponent and arm not in claimed]
    others = compare(values, described, opponent) if candidates else []
    # Two cheap arms that are level overall may divide their errors differently between head and tail. A candidate
    # trained like the one would then "help" the tail against the other: that was claimed in 15 % of 200 simulated
    # studies without any effect, and in 1 % since a candidate has to beat both (tests/metrics/test_simulated_null.py).
    as_good = [
        row["arm"] for row in others if row["arm"] in cheap and row["slice"] == "all" and row["high"] >= 0
    ]
    claims = (
        compare(values, claimed, opponent, tuple(values[plain]), as_good) if candidates else against_plain
    )

    family = sum(row["claim"] for row in claims)
    made = _winner(claims, score) if candidates else None
    kept = _winner(against_plain, score)
    if made:
        arm, scope, told = made
        ratio = cost[arm] / cost[opponent] if cost[opponent] > 0 else None
        action, sentence = "generate", sentences.generate(told, find(claims, arm, "all"), ratio)
    elif kept:
        arm, scope, told = kept
        action, sentence = "use a cheap arm", sentences.cheap(told, instead=bool(candidates))
    else:
        action, arm, scope = "do not generate", plain, None
        sentence = sentences.neither(plain, compared=len(roles) > 1)

    # Shown first: the arm a claim was won by, otherwise the claimant that validation liked best.
    won = made if candidates else kept
    best = won[0] if won else max(claimed, key=score.__getitem__, default=None)
    return {
        "shown": best,
        "headline": sentences.headline(
            won[2] if won else None, find(claims, best, "all") if best else None, arm
        ),
        "recommendation": {"action": action, "arm": arm, "scope": scope, "sentence": sentence},
        "opponent": opponent,
        "as_good": as_good,
        "plain": plain,
        "alpha": ALPHA,
        "trials": trials,
        "units": units.count,
        "family": {
            "against": against,
            "arms": claimed,
            "slices": list(values[plain]),
            "comparisons": family,
            "smallest_p": 2.0 ** (1 - units.count),
            "trials_needed": fewest_trials(max(1, family), ALPHA),
        },
        "comparisons": [*claims, *others],
        "against_plain": against_plain,
        "arms": {
            arm: {
                "role": roles[arm],
                "validation": score[arm],
                "cost": float(cost[arm]),
                "cost_ratio": float(cost[arm] / cost[plain]) if cost[plain] > 0 else None,
            }
            for arm in roles
        },
        "missing_variance": sentences.missing_variance(units),
        "what_would_change": sentences.what_would_change(
            family, values[best]["all"] - values[against]["all"] if best else None, units, ALPHA
        ),
    }


def compare(
    values: Mapping[str, Mapping[str, np.ndarray]],
    arms: Sequence[str],
    against: str,
    claim: Sequence[str] = (),
    as_good: Sequence[str] = (),
) -> list[Row]:
    """Rows of every arm and slice against one arm; those of the slices in `claim` are one family under Holm.

    Where a difference is positive, the p that goes into Holm is the largest one against this arm and those that are
    `as_good`: to beat all of them is to reject all of the hypotheses (an intersection-union test, which needs no
    correction of its own).
    """
    rows: list[Row] = []
    claimed = []
    for arm in arms:
        for name, base in values[against].items():
            found = paired(values[arm][name], base)
            rows.append(
                {
                    "arm": arm,
                    "against": against,
                    "slice": name,
                    "claim": name in claim,
                    "n": found.n,
                    "value": float(values[arm][name].mean()),
                    "base": float(base.mean()),
                    "mean": found.mean,
                    # Rates differ by at most 1: where so few pairs bound nothing, that is all that is known.
                    "low": max(found.low, -1.0),
                    "high": min(found.high, 1.0),
                    "p": found.p,
                    "p_adjusted": None,
                    "hardest": None,
                    "verdict": None,
                    "note": "",
                }
            )
            if name not in claim:
                continue
            hardest = [(found.p, against)]
            if found.mean > 0:
                rivals = {rival: paired(values[arm][name], values[rival][name]) for rival in as_good}
                hardest += [(rival.p if rival.mean > 0 else 1.0, other) for other, rival in rivals.items()]
            claimed.append(max(hardest, key=lambda pair: pair[0]))
    adjusted = holm([p for p, _ in claimed]) if claimed else []
    claims = [row for row in rows if row["claim"]]
    for row, p, (_, hardest_arm) in zip(claims, adjusted, claimed, strict=True):
        row |= {"p_adjusted": p, "hardest": hardest_arm, "verdict": _verdict(row, p)}
        row["note"] = sentences.note(row, len(claims), ALPHA)
    return rows


def _verdict(row: Row, adjusted: float) -> str:
    """Both the test and the interval have to say it, so that a verdict never contradicts what is printed beside it."""
    if adjusted <= ALPHA and row["low"] > 0:
        return "helps"
    if adjusted <= ALPHA and row["high"] < 0:
        return "hurts"
    return "no evidence"


def _winner(claims: Sequence[Row], score: Mapping[str, float]) -> tuple[str, str, Row] | None:
    """The arm to use, for whom ("all" or "rare") and the row it rests on: the best by validation of those that help."""
    arms = sorted({row["arm"] for row in claims}, key=lambda arm: (-score[arm], arm))
    for arm in arms:
        overall = find(claims, arm, "all")
        if overall["verdict"] == "helps":
            return arm, "all", overall
    for arm in arms:
        gains = [r for r in claims if r["arm"] == arm and r["slice"] in RARE and r["verdict"] == "helps"]
        # Harm to all classes needs no proof: an interval below zero, even before Holm, is enough to decline.
        if gains and find(claims, arm, "all")["high"] >= 0:
            return arm, "rare", gains[0]
    return None
