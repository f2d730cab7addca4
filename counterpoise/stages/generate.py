"""generate: reads the plan, the generator and the tutor, writes samples. A request that fails is a row with its reason.

Where classes are filled by group, a generator counts class x group cells as its classes; a tutor never does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise import tables
from counterpoise.data.intake import pixel_hash
from counterpoise.data.pixels import as_seen
from counterpoise.diffusion.ranks import Ranks
from counterpoise.generators.generator import Context, Failed, Row
from counterpoise.lots import Lot
from counterpoise.stages.stage import Step
from counterpoise.study import Study, real_of
from counterpoise.tutoring import tutors_of


def units(study: Study) -> list[str]:
    return [lot.samples(shard) for lot in study.lots() for shard in study.shards(lot)]


def work(study: Study, unit: str) -> None:
    started = time.perf_counter()
    lot = Lot.of(unit)
    plan = study.run.table(lot.plan)
    rows = plan.filter(np.asarray(plan["shard"]) == int(Path(unit).stem)).to_pylist()
    item, befell = study.synthesis(lot.synthesis), {}
    if item.by_group:
        rows = _celled(study, rows)

    def tell(batch: Sequence[Row], shares: dict[str, np.ndarray]) -> None:
        for at, row in enumerate(batch):
            befell[row["request_id"]] = {what: float(share[at]) for what, share in shares.items()}

    ctx = Context(real_rows(study, lot.draw), tell=tell, **(_listening(study, lot) if item.guides else {}))
    sample = item.generator.load(study.run / study.generator_of(lot), ctx)
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
                result |= befell.get(row["request_id"], {})
            made.append(result)
        study.run.tell(unit, len(made) / len(rows))
    columns = {column: [row.get(column) for row in made] for column in tables.SAMPLES.names}
    meta = {"shape": list(shape), "dtype": str(dtype), "seconds": time.perf_counter() - started}
    study.run.put_table(unit, tables.table(tables.SAMPLES, columns, meta))


def _celled(study: Study, rows: Sequence[Row]) -> list[Row]:
    """Rows of a plan, their labels and those of their sources counted in cells."""
    cell = dict(zip(study.manifest("train")["id"].to_pylist(), study.cells("train").tolist(), strict=True))
    groups = len(study.groups)
    return [
        row | {"label": row["label"] * groups + row["group"], "source_label": cell.get(row["source_id"])}
        for row in rows
    ]


def _listening(study: Study, lot: Lot) -> dict[str, Any]:
    """What guides listen to and look at."""
    item = study.synthesis(lot.synthesis)
    found: dict[str, Any] = {"guides": item.guides}
    if item.by_group:
        found["class_of"] = lambda cells: cells // len(study.groups)
    if item.tutor is not None:
        found["teacher"], found["judge"] = tutors_of(study, lot, Ranks.alone().device)
    if any(getattr(guide, "deals", False) for guide in item.guides):
        found["dealt"] = _dealer(study, lot)
    return found


def _dealer(study: Study, lot: Lot) -> Callable[[Sequence[Row]], np.ndarray]:
    """A real row of its class (or cell) for each row of a plan: its source, or the one that its seed picks."""
    rows, labels, _ = real_of(study, lot.draw)
    if study.synthesis(lot.synthesis).by_group:
        labels = study.cells("train")[study.draw_rows(lot.draw)]
    mine = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
    real = real_rows(study, lot.draw)

    def deal(batch: Sequence[Row]) -> np.ndarray:
        if all(row["source_id"] and row["source_label"] == row["label"] for row in batch):
            return as_seen(real([row["source_id"] for row in batch])).numpy()
        places = [mine[row["label"]][row["seed"] % len(mine[row["label"]])] for row in batch]
        return as_seen(rows.raw(np.array(places))).numpy()

    return deal


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
