"""generate: reads the plan, the generator and the tutor, writes samples. A request that fails is a row with its reason.

Where classes are filled by group, a generator counts class x group cells as its classes; a tutor never does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise import tables
from counterpoise.data.intake import pixel_hash
from counterpoise.data.pixels import as_seen
from counterpoise.diffusion.ranks import Ranks
from counterpoise.gathering import real_of
from counterpoise.generators.asking import answers
from counterpoise.generators.generator import Context, Row
from counterpoise.lots import Lot
from counterpoise.proposals.pairings import ordinal
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.tutoring import tutors_of
from counterpoise.types import Refusal


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
    rows = _numbered(study, lot, rows)

    def tell(batch: Sequence[Row], shares: dict[str, np.ndarray]) -> None:
        for at, row in enumerate(batch):
            befell[row["request_id"]] = {what: float(share[at]) for what, share in shares.items()}

    pool = study.pool(lot.draw, lot.synthesis) if study.pictures(lot.synthesis) else None
    listening = _listening(study, lot) if item.guides else {}
    ctx = Context(real_rows(study, lot), pool=pool, tell=tell, **listening)
    sample = item.generator.load(study.run / study.generator_of(lot), ctx)
    # Samples are of the same kind as real rows, also where none could be made.
    shape, dtype = study.row_shape(lot.synthesis)
    found = answers(sample, rows, study.recipe.rows_per_batch, lambda share: study.run.tell(unit, share))
    made: list[dict] = []
    for row, answer in zip(rows, found, strict=True):
        name, x = row["request_id"], answer.x
        result = {"request_id": name, "status": "failed", "reason": answer.reason, "attempt": answer.attempt}
        if x is not None:
            assert (x.shape, x.dtype) == (shape, dtype), f"{x.shape} {x.dtype} is no row"
            result |= {"status": "made", "x": x.tobytes(), "pixel_hash": pixel_hash(x)}
            result |= befell.get(name, {})
        made.append(result)
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


def _numbered(study: Study, lot: Lot, rows: Sequence[Row]) -> list[Row]:
    """Rows of a plan, each with how many of its class (or cell) were wanted before it, in all rounds."""
    earlier = [study.run.meta(before.plan)["wanted"] for before in study.rounds(lot)[: lot.round]]
    before = np.sum(earlier, 0, dtype=int) if earlier else np.zeros(study.cell_count(lot.synthesis), int)
    return [row | {"ordinal": int(before[row["label"]]) + ordinal(row["request_id"])} for row in rows]


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
    real = real_rows(study, lot)

    def deal(batch: Sequence[Row]) -> np.ndarray:
        if all(row["source_id"] and row["source_label"] == row["label"] for row in batch):
            return as_seen(real([row["source_id"] for row in batch])).numpy()
        places = [mine[row["label"]][row["seed"] % len(mine[row["label"]])] for row in batch]
        return as_seen(rows.raw(np.array(places))).numpy()

    return deal


def real_rows(study: Study, lot: Lot) -> Callable[[Sequence[str]], np.ndarray]:
    """Training rows of its draw by id, read as they are asked for: what classifiers may not see, no generator does."""
    vectors = study.shown("train", lot.draw, lot.synthesis)
    named = study.manifest("train")["id"].to_pylist()
    place = {named[row]: row for row in study.draw_rows(lot.draw).tolist()}

    def read(ids: Sequence[str]) -> np.ndarray:
        if strangers := [name for name in ids if name not in place]:
            raise Refusal(
                f"samples start from the training rows of their draw, and {lot.plan} asks for {len(strangers)} others, "
                f"the first of them {strangers[0]}: they are cut away or held out; make the plan anew with --redo plan"
            )
        return np.stack([np.asarray(vectors[place[name]]) for name in ids])

    return read


STEPS = (Step(units, work),)
