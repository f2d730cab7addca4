"""select: reads samples and scores; writes every sample with a reason, kept or dropped, and the kept ones as one array.

Pictures of a study whose classifiers see features are written down as those, too.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from counterpoise import tables
from counterpoise.encoding import embed_unit
from counterpoise.gathering import samples_in
from counterpoise.lots import Lot
from counterpoise.stages.stage import Step
from counterpoise.study import Study


def units(study: Study) -> list[str]:
    return [lot.selected for lot in study.lots()]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    synthesis = study.synthesis(lot.synthesis)
    plan = study.run.table(lot.plan, ["request_id", "label"])
    files = [lot.samples(shard) for shard in study.shards(lot)]
    came = [
        row
        for file in files
        for row in study.run.table(file, ["request_id", "status", "reason", "attempt"]).to_pylist()
    ]
    failed = {row["request_id"]: row["reason"] for row in came if row["status"] != "made"}
    scores: dict[str, np.ndarray] = {}
    made: list[str] = []
    for score, _ in synthesis.scores:
        scored = [study.run.table(lot.scores(score, shard)) for shard in study.shards(lot)]
        joined = pa.concat_tables(scored) if scored else tables.SCORES.empty_table()
        made, scores[score] = joined["request_id"].to_pylist(), joined["score"].to_numpy()
    dropped = dict(zip(made, synthesis.select(scores), strict=True)) if synthesis.select and scores else {}
    drop = [f"failed: {failed[i]}" if i in failed else dropped.get(i) for i in plan["request_id"].to_pylist()]
    row = np.cumsum([reason is None for reason in drop]) - 1
    columns = {
        "request_id": plan["request_id"],
        "label": plan["label"],
        "drop": drop,
        "row": [int(r) if reason is None else None for r, reason in zip(row, drop, strict=True)],
    }
    kept = {i for i, reason in zip(columns["request_id"].to_pylist(), drop, strict=True) if reason is None}
    _write_kept(study, lot, files, kept)
    funnel = {
        "asked": len(plan),
        "retried": sum(row["attempt"] > 0 for row in came),
        "made": len(plan) - len(failed),
        "kept": len(kept),
        "dropped": Counter(filter(None, drop)),
    }
    study.run.put_table(unit, tables.table(tables.SELECTION, columns, {"funnel": funnel}))


def _write_kept(study: Study, lot: Lot, files: list[str], kept: set[str]) -> None:
    """The kept samples in plan order, copied shard by shard: memory holds one shard."""
    shape, dtype = study.row_shape(lot.synthesis)
    with study.run.building_array(lot.kept, (len(kept), *shape), dtype) as out:
        at = 0
        for file in files:
            x, ids = samples_in(study.run, file)
            mask = np.array([i in kept for i in ids], bool)
            out[at : at + mask.sum()] = x[mask]
            at += int(mask.sum())


def pictures(study: Study) -> list[str]:
    return [lot.embedded for lot in study.lots() if study.pictured(lot.synthesis)]


STEPS = (Step(units, work), Step(pictures, embed_unit))
