"""select: reads samples and scores; writes every sample with a reason, kept or dropped, and the kept ones as one array.

Pictures of a study whose classifiers see features are written down as those, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from counterpoise import tables
from counterpoise.encoding import embed_unit
from counterpoise.gathering import samples_in
from counterpoise.lots import Lot
from counterpoise.proposals.quotas import Quota
from counterpoise.stages.stage import Step
from counterpoise.study import Study


def units(study: Study) -> list[str]:
    return [lot.selected for lot in study.lots()]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    synthesis = study.synthesis(lot.synthesis)
    plan = study.run.table(lot.plan, ["request_id", "label", "group"])
    label = dict(zip(plan["request_id"].to_pylist(), plan["label"].to_pylist(), strict=True))
    files = [lot.samples(shard) for shard in study.shards(lot)]
    came = [
        row
        for file in files
        for row in study.run.table(file, ["request_id", "status", "reason", "attempt"]).to_pylist()
    ]
    failed = {row["request_id"]: row["reason"] for row in came if row["status"] != "made"}
    made = [row["request_id"] for row in came if row["request_id"] not in failed]
    scores: dict[str, np.ndarray] = {}
    for score, _ in synthesis.scores:
        scored = [study.run.table(lot.scores(score, shard)) for shard in study.shards(lot)]
        joined = pa.concat_tables(scored) if scored else tables.SCORES.empty_table()
        assert joined["request_id"].to_pylist() == made, "scores are in the order of the samples"
        scores[score] = joined["score"].to_numpy()
    labels = np.array([label[i] for i in made], np.int64)
    dropped = dict(zip(made, synthesis.select(scores, labels), strict=True)) if synthesis.select else {}
    drop = [f"failed: {failed[i]}" if i in failed else dropped.get(i) for i in plan["request_id"].to_pylist()]
    if isinstance(synthesis.budget, Quota):
        cells = study.cells_of(plan, lot.synthesis)
        drop = [why or late for why, late in zip(drop, _too_late(drop, cells, study.room(lot)), strict=True)]
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


def _too_late(drop: Sequence[str | None], cells: np.ndarray, room: np.ndarray) -> list[str | None]:
    """Of samples that nothing else drops, those that come when their class has its quota."""
    kept, left = np.array([why is None for why in drop]), room.copy()
    found: list[str | None] = [None] * len(drop)
    for at in np.flatnonzero(kept).tolist():
        if left[cells[at]] == 0:
            found[at] = "the quota of its class was full"
        left[cells[at]] -= left[cells[at]] > 0
    return found


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
    chosen = [
        lot for lot in study.lots() if study.run.has(lot.selected)
    ]  # a quota may begin another round by now
    return [lot.embedded for lot in chosen if study.pictured(lot.synthesis)]


STEPS = (Step(units, work), Step(pictures, embed_unit))
