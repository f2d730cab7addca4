"""score: reads samples, tutor and train, writes one number per sample and score. Each score is calibrated once per lot first."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoise import tables
from counterpoise.crossfitting import unseen_says
from counterpoise.encoding import as_classified
from counterpoise.gathering import flat, real_of, samples_in, shown_of
from counterpoise.lots import Lot
from counterpoise.scores.batch import Batch
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.tutoring import hear, tutors_of
from counterpoise.types import Refusal


def calibrations(study: Study) -> list[str]:
    lots = [lot for lot in study.lots() if study.shards(lot)]
    return [lot.calibration(score) for lot in lots for score, _ in study.synthesis(lot.synthesis).scores]


def calibrate(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    score, (real, labels) = _score(study, lot, unit), _real(study, lot)
    found = {"threshold": score.calibrate(_vectors(score, real))}
    if hasattr(score, "of_real"):  # a threshold by class is found there
        found |= score.of_real(real, labels, tuple(study.called))
    if hasattr(score, "content"):
        found["content"] = score.content
    study.run.put_json(unit, found)


def units(study: Study) -> list[str]:
    return [
        lot.scores(score, shard)
        for lot in study.lots()
        for score, _ in study.synthesis(lot.synthesis).scores
        for shard in study.shards(lot)
    ]


def work(study: Study, unit: str) -> None:
    lot, path = Lot.of(unit), Path(unit)
    x, ids = samples_in(study.run, lot.samples(int(path.stem)))
    plan = study.run.table(lot.plan, ["request_id", "label", "source_id", "source_label"]).to_pylist()
    row_of = {row["request_id"]: row for row in plan}
    rows = [row_of[i] for i in ids]
    labels = np.array([row["label"] for row in rows], np.int64)
    starts = np.array(
        [row["label"] if row["source_id"] is None else row["source_label"] for row in rows], np.int64
    )
    teacher = judge = unseen = None
    if study.synthesis(lot.synthesis).tutor is not None:
        seen = cache(lambda: as_classified(study, lot, x))
        teacher, judge = (
            partial(lambda one: hear(one, seen(), labels), one)
            for one in tutors_of(study, lot, torch.device("cpu"))
        )
        sources = [row["source_id"] for row in rows]
        unseen = lambda folds: unseen_says(study, lot, seen(), sources, folds)  # noqa: E731
    real, real_labels = _real(study, lot)
    score, name = _score(study, lot, unit), path.parts[-2]
    batch = Batch(
        _vectors(score, x),
        labels,
        _vectors(score, real),
        np.array(study.manifest("train")["id"].to_pylist())[study.draw_rows(lot.draw)],
        real_labels,
        teacher,
        judge,
        x if x.dtype == np.uint8 else None,
        tuple(study.called),
        starts,
        unseen,
        real if real.dtype == np.uint8 else None,
    )
    calibrated = study.run.json(lot.calibration(name))
    if "content" in calibrated and calibrated["content"] != score.content:
        raise Refusal(
            f"the model of the score {name!r} is not the one that it was calibrated with ({calibrated['content'][:8]} then, "
            f"{score.content[:8]} now): name the same revision, or --redo score"
        )
    values, nearest = score(batch, calibrated["threshold"]) if len(ids) else (np.zeros(0), np.zeros(0, str))
    columns = {"request_id": ids, "score": values, "nearest_id": list(map(str, nearest))}
    study.run.put_table(unit, tables.table(tables.SCORES, columns))


def _score(study: Study, lot: Lot, unit: str) -> Any:
    return dict(study.synthesis(lot.synthesis).scores)[Path(unit).parts[-2]]


def _real(study: Study, lot: Lot) -> tuple[np.ndarray, np.ndarray]:
    of = shown_of if study.pictured(lot.synthesis) else real_of
    rows, labels, _ = of(study, lot.draw, lot.synthesis)
    return rows.raw(np.arange(len(rows))), labels


def _vectors(score: Any, rows: np.ndarray) -> np.ndarray:
    """Rows as vectors, of no length where the score looks at pictures alone: they are all that is real, for every shard."""
    if getattr(score, "spaces", None) == ("pixels",):
        return np.zeros((len(rows), 0), np.float32)
    return flat(rows)


STEPS = (Step(calibrations, calibrate), Step(units, work))
