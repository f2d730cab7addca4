"""score: reads samples and train, writes one number per sample and score."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from counterpoise import tables
from counterpoise.scores.duplicates import Batch
from counterpoise.stages.stage import Step
from counterpoise.study import Lot, Study, flat, rows_of, samples_in


def units(study: Study) -> list[str]:
    return [
        lot.scores(score, shard)
        for lot in study.lots()
        for score, _ in study.synthesis(lot.synthesis).scores
        for shard in study.shards(lot)
    ]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    score = dict(study.synthesis(lot.synthesis).scores)[Path(unit).parts[-2]]
    x, ids = samples_in(study.run, lot.samples(int(Path(unit).stem)))
    plan = study.run.table(lot.plan, ["request_id", "label"])
    label_of = dict(zip(plan["request_id"].to_pylist(), plan["label"].to_pylist(), strict=True))
    rows, labels, _, _ = rows_of(study, lot.draw, None)
    real_ids = np.array(study.manifest("train")["id"].to_pylist())[study.draw_rows(lot.draw)]
    batch = Batch(
        flat(x), np.array([label_of[i] for i in ids]), flat(rows.raw(np.arange(len(rows)))), real_ids, labels
    )
    values, nearest = score(batch) if len(ids) else (np.zeros(0), np.zeros(0, str))
    columns = {"request_id": ids, "score": values, "nearest_id": list(map(str, nearest))}
    study.run.put_table(unit, tables.table(tables.SCORES, columns))


STEPS = (Step(units, work),)
