"""tutor: reads train, val and what earlier rounds kept; writes the classifiers that guides, budgets and scores listen to.

A synthesis that works in rounds gets a tutor before each of them. It may say that validation gains no more: then that
round is not begun. Where a score asks who has not seen a source, there are teachers without each fold of the real rows.
"""

from __future__ import annotations

from dataclasses import replace

from counterpoise.crossfitting import fold_units, make_fold
from counterpoise.scores.turned import Turned
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.tutoring import make_tutor


def units(study: Study) -> list[str]:
    found = []
    for first in study.first_lots():
        item = study.synthesis(first.synthesis)
        if item.tutor is None:
            continue
        if not item.retold:
            found.append(study.tutor_of(first))
            continue
        begun = study.rounds(first)
        found += [study.tutor_of(lot) for lot in begun]
        made = study.run.has(begun[-1].selected) and len(study.shards(begun[-1]))
        if made and len(begun) < item.rounds:  # a round that asked for nothing is the last
            found.append(replace(first, round=len(begun)).tutor)
    return list(dict.fromkeys(found))


def folds(study: Study) -> list[str]:
    found = [
        fold_units(study, lot, score.folds)
        for lot in study.first_lots()
        for _, score in study.synthesis(lot.synthesis).scores
        if isinstance(score, Turned)
    ]
    return list(dict.fromkeys(unit for units_ in found for unit in units_))


STEPS = (Step(units, make_tutor), Step(folds, make_fold))
