"""fit: reads train and the pool, writes the generator's weights. A generator without any has no unit here.

Rows of a study as a generator with a space of its own sees them are written down once, behind its weights.
"""

from __future__ import annotations

from counterpoise.encoding import encode_codes
from counterpoise.gathering import shown_of
from counterpoise.generators.generator import Lesson
from counterpoise.lots import Lot
from counterpoise.stages.stage import Step
from counterpoise.study import Study


def units(study: Study) -> list[str]:
    learning = [lot for lot in study.first_lots() if study.synthesis(lot.synthesis).generator.learns]
    return list(dict.fromkeys(f"{study.generator_of(lot)}/done.json" for lot in learning))


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    rows, labels, groups = shown_of(study, lot.draw, lot.synthesis)
    out = study.run / study.generator_of(lot)
    out.mkdir(parents=True, exist_ok=True)
    hear = lambda share: study.run.tell(unit, share)  # noqa: E731
    if study.synthesis(lot.synthesis).by_group:
        labels = study.cells("train")[study.draw_rows(lot.draw)]
    names = study.told_names(lot.synthesis)
    pool = study.pool(lot.draw, lot.synthesis)
    lesson = Lesson(rows, labels, groups, names, pool, hear, _captions(study, lot.draw))
    # Seeds name the draw, not the synthesis: two generators that differ in one setting share their luck.
    seed = study.seed("generator", lot.draw)
    study.synthesis(lot.synthesis).generator.fit(lesson, out, seed)
    study.run.put_json(unit, {"seed": seed})


def _captions(study: Study, draw: int) -> list[str | None] | None:
    known = study.manifest("train")
    if "caption" not in known.column_names:  # an older study
        return None
    found = known["caption"].take(study.draw_rows(draw)).to_pylist()
    return found if any(caption is not None for caption in found) else None


def codes(study: Study) -> list[str]:
    return [unit for role in ("train", "val", "pool") for unit in study.code_units(role)]


STEPS = (Step(units, work), Step(codes, encode_codes))
