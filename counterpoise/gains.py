"""Arms compared trial by trial, over what is independent among the trials: the same differences that the verdict is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from counterpoise.metrics.accuracy import slices
from counterpoise.metrics.evidence import independent_units
from counterpoise.metrics.verdict import RARE, compare
from counterpoise.study import Study


class Gains:
    """Paired differences between arms, over the same independent units of trials as in the verdict."""

    def __init__(self, study: Study, metrics: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
        self.study, self.arms = study, metrics["arms"]
        self.slices = [name for name in verdict["family"]["slices"] if name in ("all", *RARE)]
        units = independent_units(study.trial_seeds)
        self.values = {
            arm: {name: units.average([slices(one)[name] for one in found["trials"]]) for name in self.slices}
            for arm, found in self.arms.items()
        }

    def __call__(self, arm: str, against: str) -> dict[str, dict[str, float | None]]:
        """In points, by slice."""
        found = {}
        for row in compare(self.values, [arm], against):
            bounded = row["high"] - row["low"] < 2  # else it is all that a difference of two rates can be
            ends = {name: 100 * row[name] if bounded else None for name in ("low", "high")}
            found[row["slice"]] = {"mean": 100 * row["mean"], **ends, "p": row["p"]}
        return found

    def arm_of(self, synthesis: str) -> str | None:
        fits = {fit.name for fit in self.study.recipe.fits if fit.synthesis == synthesis and not fit.own}
        return next((arm.name for arm in self.study.recipe.arms if arm.fit in fits), None)

    def validation(self, arm: str | None) -> float | None:
        return None if arm is None else 100 * float(np.mean(self.arms[arm]["validation"]))
