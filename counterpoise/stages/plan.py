"""plan: reads the audit, the teacher and train; writes one row per sample wanted. Frozen once written."""

from __future__ import annotations

import numpy as np

from counterpoise import tables
from counterpoise.proposals.pairings import TrainRows
from counterpoise.stages.stage import Step
from counterpoise.study import Lot, Study, flat, real_of


def units(study: Study) -> list[str]:
    return [lot.plan for lot in study.lots()]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    synthesis = study.synthesis(lot.synthesis)
    rows, labels, groups = real_of(study, lot.draw, lot.synthesis)
    ids = np.array(study.manifest("train")["id"].to_pylist())[study.draw_rows(lot.draw)]
    wanted = synthesis.budget(np.bincount(labels, minlength=len(study.classes)))
    # Seeds name the draw and the round, not the synthesis: two generators fed the same plan share their luck.
    train = TrainRows(ids, labels, groups, flat(rows.raw(np.arange(len(rows)))))
    plan = synthesis.pairing(wanted, train, study.seed("plan", lot.draw, lot.round))
    plan = plan.sort_by(
        [("strength", "ascending"), ("request_id", "ascending")]
    )  # a batch has one noise ladder
    size = study.recipe.rows_per_shard
    shards = np.arange(len(plan)) // size
    plan = plan.set_column(
        plan.schema.get_field_index("shard"), tables.PLAN.field("shard"), [shards.astype(np.int32)]
    )
    meta = {"shards": int(shards[-1]) + 1 if len(plan) else 0, "wanted": wanted.tolist()}
    study.run.put_table(unit, tables.with_meta(plan, meta))


STEPS = (Step(units, work),)
