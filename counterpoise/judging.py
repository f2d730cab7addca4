"""The samples of a run in the features of a network that the run does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.lots import Lot
from counterpoise.nets.judges import open_judge, reference
from counterpoise.stages.measure import measured
from counterpoise.study import Study
from counterpoise.types import Refusal


def judge_run(path: str | Path, judge: str, synthesis: str = "", draw: int = 0) -> dict[str, Any]:
    """Per synthesis: `metrics.fidelity.by_band` of its kept samples against validation and train."""
    study = Study.open(path)
    pictures = [item.name for item in study.recipe.synthesis if study.pictures(item.name)]
    others = {item.name for item in study.recipe.synthesis}.difference(pictures)
    if not pictures or synthesis in others:
        raise Refusal(f"the samples of {path} are vectors: a network of pictures cannot judge them")
    learnt = [name for name in pictures if study.synthesis(name).generator.learns]
    names = [synthesis] if synthesis else learnt or pictures
    for name in names:
        if name not in pictures:
            raise Refusal(f"there is no synthesis {name!r}: made are {', '.join(sorted(pictures))}")
        if not study.run.has(Lot(name, draw).selected):
            raise Refusal(
                f"{name} has no selected samples of draw {draw} yet: run its command again to go on"
            )
    net, cache = (
        open_judge(judge),
        study.run / "fidelity" / "features",
    )  # the real rows are the same every time
    return {
        name: measured(
            study,
            Lot(name, draw),
            lambda rows: reference(net, rows.raw(np.arange(len(rows))), cache),
            pictures=True,
        )
        for name in names
    }
