"""fit: reads train and the pool, writes the generator's weights. A generator without any has no unit here."""

from __future__ import annotations

from counterpoise.generators.generator import Lesson
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
    hear = lambda share: study.run.tell(unit, share)  # noqa: E731
    lesson = Lesson(rows, labels, groups, study.classes, study.pool(), hear)
    # Seeds name the draw, not the synthesis: two generators that differ in one setting share their luck.
    seed = study.seed("generator", lot.draw)
    study.synthesis(lot.synthesis).generator.fit(lesson, out, seed)
    study.run.put_json(unit, {"seed": seed})


STEPS = (Step(units, work),)
