"""What became of the samples that were asked for, and whether the scores that dropped some are to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from counterpoise.lots import Lot
from counterpoise.proposals.quotas import Quota
from counterpoise.recipe import Synthesis
from counterpoise.study import Study

MOST_NAMED = 8  # classes


def funnel(study: Study) -> list[dict[str, Any]]:
    found = []
    for item in study.recipe.synthesis:
        funnels = [
            study.run.meta(lot.selected)["funnel"] for lot in study.lots() if lot.synthesis == item.name
        ]
        total: dict[str, Any] = {key: sum(f[key] for f in funnels) for key in ("asked", "made", "kept")}
        dropped: dict[str, int] = {}
        for reason, n in ((r, n) for f in funnels for r, n in f["dropped"].items()):
            if not reason.startswith("failed"):
                dropped[reason] = dropped.get(reason, 0) + n
        found.append(
            {
                "arm": item.name,
                **total,
                "failed": total["asked"] - total["made"],
                "dropped": dropped,
                "notes": [*short(study, item), *luck(funnels), *trust(study, item)],
            }
        )
    return found


def short(study: Study, item: Synthesis) -> list[str]:
    """Which classes lack samples that a quota wanted; of the first draw, for others lack like numbers."""
    if not isinstance(item.budget, Quota):
        return []
    lots, names = study.rounds(Lot(item.name, 0)), study.cell_names(item.name)
    wanted = np.array(study.run.meta(lots[0].plan)["wanted"])
    tally = study.tally(lots)
    lacking = np.flatnonzero(tally.kept < wanted)
    if not len(lacking):
        return []
    told = [f"{names[c]} {tally.kept[c]} of {tally.made[c]}" for c in lacking[:MOST_NAMED]]
    more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
    return [
        f"{len(lacking)} of {len(names)} classes lack samples, for the filter let too few pass in {len(lots)} rounds "
        f"(kept of made: {', '.join(told)}{more}); nothing that was dropped takes their place"
    ]


def luck(funnels: Sequence[dict[str, Any]]) -> list[str]:
    """How many samples were asked for again, and what became of them."""
    retried = sum(told["retried"] for told in funnels)
    failed = sum(told["asked"] - told["made"] for told in funnels)
    if not retried:
        return []
    return [
        f"{retried} samples came out as none and were asked for again with another seed; {failed} failed even so"
    ]


def trust(study: Study, item: Synthesis) -> list[str]:
    """What a score says of the real pictures, of which the class is known: is it to be believed of made ones?"""
    notes = []
    for name, _ in item.scores:
        unit = Lot(item.name, 0).calibration(name)
        told = study.run.json(unit) if study.run.has(unit) else {}
        if "real_kept" not in told:
            continue
        note = (
            f"{name} finds {told['real_top1']:.0%} of real pictures under the name of their class "
            f"(by chance {1 / len(study.classes):.0%})"
        )
        if lost := [label for label, share in told["real_kept"].items() if share < 0.5]:
            note += f", and would drop most real pictures of {', '.join(lost)}: there it filters by noise"
        notes.append(note)
    return notes
