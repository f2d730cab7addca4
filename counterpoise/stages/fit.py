"""fit: reads train, writes the generator's weights. A generator without any has no unit here."""

from __future__ import annotations

from counterpoise.stages.stage import Step
from counterpoise.study import Lot, Study, rows_of


def units(study: Study) -> list[str]:
    return [
        f"{lot.generator}/done.json"
        for lot in study.lots()
        if study.synthesis(lot.synthesis).generator.learns
    ]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    rows, labels, groups, _ = rows_of(study, lot.draw, None)
    out = study.run / lot.generator
    out.mkdir(parents=True, exist_ok=True)
    seed = study.seed("generator", lot.synthesis, lot.draw)
    study.synthesis(lot.synthesis).generator.fit(rows, labels, groups, out, seed=seed)
    study.run.put_json(unit, {"seed": seed})


STEPS = (Step(units, work),)
