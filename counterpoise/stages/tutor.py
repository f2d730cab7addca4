"""tutor: reads train, val and what earlier rounds kept; writes the classifiers that guides, budgets and scores listen to.

A synthesis that works in rounds gets a tutor before each of them. It may say that validation gains no more: then that
round is not begun.
"""

from __future__ import annotations

from dataclasses import replace

from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.tutoring import make_tutor


def units(study: Study) -> list[str]:
    found = []
    for first in study.first_lots():
        item = study.synthesis(first.synthesis)
        if item.tutor is None:
            continue
        begun = study.rounds(first)
        found += [study.tutor_of(lot) for lot in begun]
        made = study.run.has(begun[-1].selected) and len(study.shards(begun[-1]))
        if made and len(begun) < item.rounds:  # a round that asked for nothing is the last
            found.append(replace(first, round=len(begun)).tutor)
    return list(dict.fromkeys(found))


STEPS = (Step(units, make_tutor),)
