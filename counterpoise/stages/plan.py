"""plan: reads the audit, the tutor and train; writes one row per sample wanted. Frozen once written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import softmax

from counterpoise import tables
from counterpoise.gathering import flat, rows_of, shown_of
from counterpoise.lots import Lot
from counterpoise.proposals.budgets import Piloted
from counterpoise.proposals.pairings import TrainRows
from counterpoise.proposals.prompts import Shown, Written
from counterpoise.proposals.quotas import Quota
from counterpoise.proposals.strengths import Enough, Pilot
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.tutoring import TutorFile, needs_of


def units(study: Study) -> list[str]:
    return [lot.plan for lot in study.lots()]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    item, groups_n = study.synthesis(lot.synthesis), len(study.groups)
    rows, labels, groups, synthetic = rows_of(study, lot.draw, lot.synthesis, lot.round)
    cells = labels
    if item.by_group:
        study.cells("train")  # refuses rows without a group
        assert groups is not None
        cells = labels * groups_n + groups
    needs = needs_of(study, lot) if item.tutor else None
    if lot.round and isinstance(item.budget, Quota):
        wanted = study.more(lot)
    elif lot.round and isinstance(item.budget, Piloted):
        wanted = item.budget.rest(_counts(study, lot, cells[~synthetic]), needs)
    else:
        wanted = item.budget(_counts(study, lot, cells), needs)
    # Sources are real rows only. Seeds name the draw and the round, not the synthesis: two generators fed the same plan
    # share their luck.
    real = np.flatnonzero(~synthetic)
    ids = np.array(study.manifest("train")["id"].to_pylist())[study.draw_rows(lot.draw)]
    theirs = None if groups is None else groups[real]
    listens = item.tutor is not None and getattr(item.pairing, "listens", False)
    confusion = _confusion(study, lot) if listens else None
    enough = _enough(study, lot) if lot.round else None
    share_of = getattr(item.generator, "strength_at", None)
    train = TrainRows(ids, cells[real], theirs, flat(rows.raw(real)), confusion, enough, share_of)
    plan = item.pairing(wanted, train, study.seed("plan", lot.draw, lot.round))
    meta: dict[str, Any] = {"wanted": wanted.tolist()}
    if item.prompts is not None:
        written = _written(study, lot, wanted, cells[real])
        texts = [iter(mine) for mine in written.texts]
        plan = _with(plan, "prompt", [next(texts[cell]) for cell in plan["label"].to_pylist()])
        meta["prompts"] = written.told
    if item.by_group:
        plan = _apart(plan, groups_n)
    plan = plan.sort_by(
        [("strength", "ascending"), ("request_id", "ascending")]
    )  # a batch has one noise ladder
    shards = np.arange(len(plan)) // study.recipe.rows_per_shard
    plan = _with(plan, "shard", shards)
    meta["shards"] = int(shards[-1]) + 1 if len(plan) else 0
    study.run.put_table(unit, tables.with_meta(plan, meta))


def _counts(study: Study, lot: Lot, cells: np.ndarray) -> np.ndarray:
    return np.bincount(cells, minlength=study.cell_count(lot.synthesis))


def _written(study: Study, lot: Lot, wanted: np.ndarray, cells: np.ndarray) -> Written:
    """A text for each sample; `cells` are of the real rows of the draw, some of which may be described."""
    pictures, _, _ = shown_of(study, lot.draw, lot.synthesis)
    captions = study.manifest("train")["caption"].take(study.draw_rows(lot.draw)).to_pylist()
    names, seed = study.told_names(lot.synthesis), study.seed("prompts", lot.draw, lot.round)
    return study.synthesis(lot.synthesis).prompts(names, wanted, seed, Shown(cells, pictures, captions))


def _enough(study: Study, lot: Lot) -> np.ndarray | None:
    """The strength of each class that the rounds before have found enough, by all samples that were made, kept or not.

    A teacher knows classes only: cells of a class have one strength.
    """
    strength = getattr(study.synthesis(lot.synthesis).pairing, "strength", None)
    if not isinstance(strength, Enough):
        return None
    found: list[tuple[int, float, float]] = []
    for before in study.rounds(lot)[: lot.round]:
        asked = {row["request_id"]: row for row in study.run.table(before.plan).to_pylist()}
        for shard in study.shards(before):
            for said in study.run.table(before.scores(strength.score, shard)).to_pylist():
                row = asked[said["request_id"]]
                if row["source_label"] not in (None, row["label"]):
                    found.append((row["label"], row["strength"], said["score"]))
    label, tried, score = np.array(found, float).reshape(-1, 3).T
    each = strength(Pilot(label.astype(np.int64), tried, score), len(study.classes))
    return each.repeat(study.cell_count(lot.synthesis) // len(study.classes))


def _confusion(study: Study, lot: Lot) -> np.ndarray:
    """(true, said): the mean probability that teachers give each class on the validation rows of each; 0 where a class has none.

    A tutor knows classes only: cells are confused as their classes are.
    """
    said = softmax(TutorFile(study, lot).arrays("val/")["logits"].astype(np.float64), 1)
    labels, classes = study.labels("val"), len(study.classes)
    of_class = np.eye(classes)[labels].T @ said
    found = of_class / np.maximum(np.bincount(labels, minlength=classes), 1)[:, None]
    cells = study.cell_count(lot.synthesis) // classes
    return found.repeat(cells, 0).repeat(cells, 1)


def _apart(plan: pa.Table, groups: int) -> pa.Table:
    """Cells of a plan as the class and the group that they are."""
    cells = plan["label"].to_numpy()
    sources = [None if cell is None else cell // groups for cell in plan["source_label"].to_pylist()]
    return _with(
        _with(_with(plan, "label", cells // groups), "group", cells % groups), "source_label", sources
    )


def _with(plan: pa.Table, name: str, values: object) -> pa.Table:
    column = tables.PLAN.field(name)
    return plan.set_column(plan.schema.get_field_index(name), column, pa.array(values, column.type))


STEPS = (Step(units, work),)
