"""generate: reads the plan and the generator, writes samples. A request that fails is a row with its reason."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from counterpoise import tables
from counterpoise.data.intake import pixel_hash
from counterpoise.generators.simple import Context, Failed
from counterpoise.stages.stage import Step
from counterpoise.study import Lot, Study


def units(study: Study) -> list[str]:
    return [lot.samples(shard) for lot in study.lots() for shard in study.shards(lot)]


def work(study: Study, unit: str) -> None:
    started = time.perf_counter()
    lot = Lot.of(unit)
    plan = study.run.table(lot.plan)
    rows = plan.filter(np.asarray(plan["shard"]) == int(Path(unit).stem)).to_pylist()
    sample = study.synthesis(lot.synthesis).generator.load(
        study.run / lot.generator, Context(real_rows(study))
    )
    made: list[dict] = []
    shape: list[int] = []
    dtype = "uint8"
    for row in rows:
        result = {"request_id": row["request_id"], "status": "made"}
        try:
            x = sample(row)
            if reason := broken(x):
                raise Failed(reason)
        except Failed as failure:
            result |= {"status": "failed", "reason": str(failure)}
        else:
            shape, dtype = list(x.shape), str(x.dtype)
            result |= {"x": x.tobytes(), "pixel_hash": pixel_hash(x)}
        made.append(result)
    columns = {column: [row.get(column) for row in made] for column in tables.SAMPLES.names}
    meta = {"shape": shape, "dtype": dtype, "seconds": time.perf_counter() - started}
    study.run.put_table(unit, tables.table(tables.SAMPLES, columns, meta))


def real_rows(study: Study):  # type: ignore[no-untyped-def]
    """Training rows by id, read as they are asked for."""
    vectors = study.vectors("train")
    place = {name: row for row, name in enumerate(study.manifest("train")["id"].to_pylist())}
    return lambda ids: np.stack([np.asarray(vectors[place[name]]) for name in ids])


def broken(x: np.ndarray) -> str | None:
    """Why a sample is no sample at all; None for a sound one."""
    if not np.isfinite(x).all():
        return "not finite"
    if x.ndim == 3 and x.min() == x.max():
        return "blank image"
    return None


STEPS = (Step(units, work),)
