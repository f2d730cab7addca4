"""generate: reads the plan and the generator, writes samples. A request that fails is a row with its reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from counterpoise import tables
from counterpoise.data.intake import pixel_hash
from counterpoise.generators.generator import Context, Failed, Row
from counterpoise.stages.stage import Step
from counterpoise.study import Lot, Study


def units(study: Study) -> list[str]:
    return [lot.samples(shard) for lot in study.lots() for shard in study.shards(lot)]


def work(study: Study, unit: str) -> None:
    started = time.perf_counter()
    lot = Lot.of(unit)
    plan = study.run.table(lot.plan)
    rows = plan.filter(np.asarray(plan["shard"]) == int(Path(unit).stem)).to_pylist()
    generator = study.synthesis(lot.synthesis).generator
    sample = generator.load(study.run / study.generator_of(lot), Context(real_rows(study, lot.draw)))
    # Samples are of the same kind as real rows, also where none could be made.
    shape, dtype = study.row_shape(lot.synthesis)
    made: list[dict] = []
    for batch in micro_batches(rows, study.recipe.rows_per_batch):
        for row, answer in zip(batch, sample(batch), strict=True):
            reason = str(answer) if isinstance(answer, Failed) else broken(answer)
            result = {"request_id": row["request_id"], "status": "failed", "reason": reason}
            if reason is None:
                assert isinstance(answer, np.ndarray)
                assert (answer.shape, answer.dtype) == (shape, dtype), (
                    f"{answer.shape} {answer.dtype} is no row"
                )
                result |= {"status": "made", "x": answer.tobytes(), "pixel_hash": pixel_hash(answer)}
            made.append(result)
        study.run.tell(unit, len(made) / len(rows))
    columns = {column: [row.get(column) for row in made] for column in tables.SAMPLES.names}
    meta = {"shape": list(shape), "dtype": str(dtype), "seconds": time.perf_counter() - started}
    study.run.put_table(unit, tables.table(tables.SAMPLES, columns, meta))


def micro_batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Fixed slices of a shard, each of one strength: a batch has one noise ladder. Workers never change them."""
    for _, alike in groupby(rows, key=lambda row: row["strength"]):
        members = list(alike)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def real_rows(study: Study, draw: int) -> Callable[[Sequence[str]], np.ndarray]:
    """Training rows by id, read as they are asked for."""
    vectors = study.vectors("train", draw)
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
