"""What became of the samples that were asked for, and whether the scores that dropped some are to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterpoise.lots import Lot
from counterpoise.recipe import Synthesis
from counterpoise.study import Study


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
                "notes": [*luck(funnels), *trust(study, item)],
            }
        )
    return found


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
