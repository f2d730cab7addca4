"""What came of listening to a classifier: every synthesis with a tutor, beside unguided samples, as facts of the report.

Nothing is decided here. What a gain is said to be is computed as the verdict's differences are, and is not the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from counterpoise.diffusion.criteria import Entropy, Loss
from counterpoise.diffusion.feedback import Feedback
from counterpoise.gains import Gains
from counterpoise.lots import Lot
from counterpoise.proposals.budgets import Adaptive, ByNeed
from counterpoise.recipe import Synthesis
from counterpoise.report.feedback import MOST_NEEDY, stopped, warnings
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.feedback import Fidelity, Usefulness
from counterpoise.study import Study
from counterpoise.tutoring import needs_of

KINDS = {"useful": Usefulness, "label": Fidelity, "nearest": NearestReal}
COIN = float(np.log(0.5))  # where the judge gives a class less than all others together, it does not name it


def feedback(study: Study, metrics: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Facts (`report.feedback.Feedback`); empty where no synthesis has a tutor."""
    heard = [item for item in study.recipe.synthesis if item.tutor is not None]
    if not heard:
        return {}
    gains = Gains(study, metrics, verdict)
    rows = [_row(study, item, gains) for item in heard]
    tutor = heard[0].tutor
    assert tutor is not None
    first = [study.history(Lot(heard[0].name, draw))[0] for draw in range(study.recipe.trials.draws)]
    return {
        "teacher": {"fit": tutor.fit, "members": tutor.members, "score": 100 * float(np.mean(first))},
        "slices": gains.slices,
        "rows": rows,
        "warnings": warnings(rows),
        "sweeps": [_sweep(study, alike, rows) for alike in _sweeps(heard)],
        "practices": [_practice(study, item) for item in heard if isinstance(item.budget, Adaptive)],
        "needs": [_needs(study, item, of) for item in heard if (of := _need_of(item.budget))],
    }


def families(study: Study) -> list[list[str]]:
    """The name of unguided samples, and of guided ones that were made from the same noise; for each kind of them."""
    found: dict[str, list[str]] = {}
    for item in study.recipe.synthesis:
        beside = reference(study, item)
        if item.guides and beside and _bare(beside) == _bare(item):
            found.setdefault(beside.name, [beside.name]).append(item.name)
    return list(found.values())


def reference(study: Study, item: Synthesis) -> Synthesis | None:
    """The unguided samples to put beside these: as many and from the same generator, else the first ones with a tutor."""
    plain = [other for other in study.recipe.synthesis if not other.guides]
    bare = _bare(item)
    alike = [other for other in plain if item.guides and _bare(other) == bare]
    first = [other for other in plain if other.tutor is not None]
    return next((other for other in [*alike, *first[:1]] if other.name != item.name), None)


def _bare(item: Synthesis) -> Synthesis:
    """What decides which samples are asked for, and of whom."""
    return replace(item, name="", guides=(), scores=(), tutor=None, select=None)


# --- how good the samples are ------------------------------------------------------------------------------------------


def _row(study: Study, item: Synthesis, gains: Gains) -> dict[str, Any]:
    draws = range(study.recipe.trials.draws)
    lots = [lot for draw in draws for lot in study.rounds(Lot(item.name, draw))]
    funnels = [study.run.meta(lot.selected)["funnel"] for lot in lots]
    found = {kind: _scores(study, item, lots, kind) for kind in KINDS}
    useful = next((score.criterion for _, score in item.scores if isinstance(score, Usefulness)), None)
    beside = reference(study, item)
    arm, against = gains.arm_of(item.name), gains.arm_of(beside.name) if beside else None
    return {
        "synthesis": item.name,
        "guides": [words_of(guide) for guide in item.guides],
        "criterion": "" if useful is None else name_of(useful),
        "asked": sum(funnel["asked"] for funnel in funnels),
        "kept": sum(funnel["kept"] for funnel in funnels),
        "useful": _mean(found["useful"]),
        "p": _mean(np.exp(found["label"])),
        "fidelity": _mean(found["label"] >= COIN),
        "nearest": float(np.median(found["nearest"])) if len(found["nearest"]) else None,
        **{share: _mean(_told(study, lots, share)) for share in ("held", "unfelt")},
        "validation": gains.validation(arm),
        "against": beside.name if beside else "",
        "same_budget": beside is not None and _bare(beside) == _bare(item),
        "gain": gains(arm, against) if arm and against else {},
    }


def _scores(study: Study, item: Synthesis, lots: Sequence[Lot], kind: str) -> np.ndarray:
    name = next((name for name, score in item.scores if isinstance(score, KINDS[kind])), None)
    if name is None:
        return np.zeros(0)
    files = [lot.scores(name, shard) for lot in lots for shard in study.shards(lot)]
    return np.concatenate([np.zeros(0), *(study.run.table(file, ["score"])["score"] for file in files)])


def _told(study: Study, lots: Sequence[Lot], column: str) -> np.ndarray:
    files = [lot.samples(shard) for lot in lots for shard in study.shards(lot)]
    told = [pc.drop_null(study.run.table(file, [column])[column]) for file in files]
    return np.concatenate([np.zeros(0), *told])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def words_of(guide: Any) -> str:
    """
    >>> words_of(Feedback(Entropy(), scale=3.0, every=2)), words_of(Feedback(Loss(), 0.03, 5, "published"))
    ('entropy × 3 at every 2nd noise level', 'loss × 0.03 at every 5th noise level, as published')
    """
    name = name_of(guide.criterion) if isinstance(guide, Feedback) else type(guide).__name__.lower()
    scale = f" × {guide.scale:g}" if hasattr(guide, "scale") else ""
    every = getattr(guide, "every", 1)
    each = {1: "", 2: " at every 2nd noise level", 3: " at every 3rd noise level"}
    often = each.get(every, f" at every {every}th noise level")
    published = isinstance(guide, Feedback) and guide.mode == "published"
    return f"{name}{scale}{often}{', as published' if published else ''}"


def name_of(criterion: Any) -> str:
    """
    >>> name_of(Loss(cap=2.0)), name_of(Entropy(on_label=0.5))
    ('loss up to 2', 'entropy + 0.5 log p')
    """
    match criterion:
        case Loss(cap=float(cap)):
            return f"loss up to {cap:g}"
        case Entropy(on_label=share) if share:
            return f"entropy + {share:g} log p"
    return type(criterion).__name__.lower()


# --- scales ------------------------------------------------------------------------------------------------------------


def _sweeps(heard: Sequence[Synthesis]) -> list[list[Synthesis]]:
    """Those that differ only in how strongly the first guide pulls. What pulls nowhere, or backwards, has no place on the axis."""
    found: list[tuple[Synthesis, list[Synthesis]]] = []
    for item in heard:
        if not item.guides or getattr(item.guides[0], "scale", 0.0) <= 0:
            continue
        key = replace(item, name="", guides=(replace(item.guides[0], scale=1.0), *item.guides[1:]))
        alike = next((members for other, members in found if other == key), None)
        if alike is None:
            found.append((key, [item]))
        else:
            alike.append(item)
    return [members for _, members in found if len(members) > 1]


def _sweep(study: Study, alike: Sequence[Synthesis], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    beside, known = reference(study, alike[0]), {row["synthesis"]: row for row in rows}
    scales = sorted((float(item.guides[0].scale), item.name) for item in alike)
    if beside is not None and beside.name in known and known[alike[0].name]["same_budget"]:
        scales.insert(0, (0.0, beside.name))
    points = [{"scale": scale, "synthesis": name} for scale, name in scales]
    tried = [point for point in points if known[point["synthesis"]]["validation"] is not None]
    chosen = max(tried, key=lambda point: known[point["synthesis"]]["validation"], default=None)
    return {
        "guide": words_of(replace(alike[0].guides[0], scale=1.0)).replace(" × 1", ""),
        "points": points,
        "chosen": chosen["synthesis"] if chosen else "",
    }


# --- rounds and needs --------------------------------------------------------------------------------------------------


def _practice(study: Study, item: Synthesis) -> dict[str, Any]:
    draws = []
    for draw in range(study.recipe.trials.draws):
        begun = study.rounds(Lot(item.name, draw))
        asked, kept = (
            [study.run.meta(lot.selected)["funnel"][n] for lot in begun] for n in ("asked", "kept")
        )
        history = study.history(_last_heard(study, begun))
        draws.append(
            {
                "history": [100 * score for score in history],
                "learnt": [0, *np.cumsum(kept).tolist()][: len(history)],  # samples a tutor had seen
                "asked": sum(asked),
                "rounds": len(begun),
                "waited": len(history) - 1 - int(np.argmax(history)),
            }
        )
    whole = [int(_whole(item.budget)(_counts(study, item, draw)).sum()) for draw in range(len(draws))]
    return {
        "synthesis": item.name,
        "most": item.rounds,
        "draws": draws,
        "whole": float(np.mean(whole)),
        "sentence": stopped(draws, item.rounds),
    }


def _last_heard(study: Study, begun: Sequence[Lot]) -> Lot:
    """The last lot that has a tutor: it may be that of a round that was not begun."""
    after = replace(begun[-1], round=len(begun))
    return after if study.run.has(after.tutor) else begun[-1]


def _whole(budget: Any) -> Any:
    """What need is measured against: the budget in the budget."""
    while isinstance(budget, ByNeed | Adaptive):
        budget = budget.budget
    return budget


def _counts(study: Study, item: Synthesis, draw: int) -> np.ndarray:
    cells = study.cells("train") if item.by_group else study.labels("train")
    return np.bincount(cells[study.draw_rows(draw)], minlength=study.cell_count(item.name))


def _need_of(budget: Any) -> str | None:
    """What a budget calls need; None where it asks for none, or spreads evenly all the same."""
    if isinstance(budget, Adaptive):
        return _need_of(budget.budget)
    return budget.of if isinstance(budget, ByNeed) and budget.floor < 1 else None


def _needs(study: Study, item: Synthesis, of: str) -> dict[str, Any]:
    """Of the first draw: the neediest classes (or cells), before the first round and after the last one."""
    begun = study.rounds(Lot(item.name, 0))
    last = _last_heard(study, begun)
    before = getattr(needs_of(study, begun[0]), of)
    after = getattr(needs_of(study, last), of) if last.round else np.full(len(before), np.nan)
    made = np.sum([study.run.meta(lot.plan)["wanted"] for lot in begun], axis=0)
    names, real = study.cell_names(item.name), _counts(study, item, 0)
    there = [cell for cell in range(len(names)) if real[cell] or made[cell]]
    there.sort(key=lambda cell: (np.isnan(before[cell]), -before[cell], -made[cell]))
    return {
        "synthesis": item.name,
        "draws": study.recipe.trials.draws,
        "of": of,
        "cells": "class × group" if item.by_group else "class",
        "rows": [
            {
                "name": names[cell],
                "need": _known(before[cell]),
                "last": _known(after[cell]),
                "real": int(real[cell]),
                "made": int(made[cell]),
            }
            for cell in there[:MOST_NEEDY]
        ],
        "left_out": max(len(there) - MOST_NEEDY, 0),
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
