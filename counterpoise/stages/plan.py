"""plan: reads the audit, the tutor and train; writes one row per sample wanted. Frozen once written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.special import softmax

from counterpoise import tables
from counterpoise.lots import Lot
from counterpoise.proposals.pairings import TrainRows
from counterpoise.stages.stage import Step
from counterpoise.study import Study, flat, rows_of
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
    counts = np.bincount(cells, minlength=study.cell_count(lot.synthesis))
    wanted = item.budget(counts, needs_of(study, lot) if item.tutor else None)
    # Sources are real rows only. Seeds name the draw and the round, not the synthesis: two generators fed the same plan
    # share their luck.
    real = np.flatnonzero(~synthetic)
    ids = np.array(study.manifest("train")["id"].to_pylist())[study.draw_rows(lot.draw)]
    theirs = None if groups is None else groups[real]
    listens = item.tutor is not None and getattr(item.pairing, "listens", False)
    confusion = _confusion(study, lot) if listens else None
    train = TrainRows(ids, cells[real], theirs, flat(rows.raw(real)), confusion)
    plan = item.pairing(wanted, train, study.seed("plan", lot.draw, lot.round))
    if item.by_group:
        plan = _apart(plan, groups_n)
    plan = plan.sort_by(
        [("strength", "ascending"), ("request_id", "ascending")]
    )  # a batch has one noise ladder
    shards = np.arange(len(plan)) // study.recipe.rows_per_shard
    plan = _with(plan, "shard", shards)
    meta = {"shards": int(shards[-1]) + 1 if len(plan) else 0, "wanted": wanted.tolist()}
    study.run.put_table(unit, tables.with_meta(plan, meta))


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
