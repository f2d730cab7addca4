"""Rows of a study gathered from where they lie: real ones, samples behind them, and where those come from."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.classifiers.claims import Origins
from counterpoise.data.pixels import Rows
from counterpoise.lots import Lot
from counterpoise.rundir import Run
from counterpoise.study import Study
from counterpoise.types import Refusal


def real_of(
    study: Study, draw: int, synthesis: str | None = None
) -> tuple[Rows, np.ndarray, np.ndarray | None]:
    """Real rows of a draw, as the classifier of a synthesis sees them: rows, labels, groups."""
    return _of_draw(study, draw, study.vectors("train", draw, synthesis))


def shown_of(study: Study, draw: int, synthesis: str) -> tuple[Rows, np.ndarray, np.ndarray | None]:
    """The same, as its generator sees them."""
    return _of_draw(study, draw, study.shown("train", draw, synthesis))


def _of_draw(study: Study, draw: int, vectors: np.ndarray) -> tuple[Rows, np.ndarray, np.ndarray | None]:
    order, groups = study.draw_rows(draw), study.group_ids("train")
    rows = Rows.of(vectors, order=order)
    return rows, study.labels("train")[order], None if groups is None else groups[order]


def rows_of(
    study: Study, draw: int, synthesis: str | None, rounds: int | None = None, views: str | None = None
) -> tuple[Rows, np.ndarray, np.ndarray | None, np.ndarray]:
    """Real rows of a draw with the kept samples behind them: rows, labels, groups, and which rows are synthetic.

    `rounds`: only those of the first so many. Between them are the samples of `views`, which count as real. A row whose
    group nobody knows, such as a sample that starts from noise, is in group -1.
    """
    rows, labels, groups = real_of(study, draw, synthesis)
    if synthesis is None:
        return rows, labels, groups, np.zeros(len(labels), bool)
    (real,), order = rows.arrays, rows.order
    arrays, made = [real], [labels]
    known = [] if groups is None else [groups]
    others = study.rounds(Lot(views, draw)) if views else []
    for lot in (*others, *study.rounds(Lot(synthesis, draw))[:rounds]):
        wanted = study.wishes(lot, ["label", "group"])
        arrays.append(study.kept_vectors(lot))
        made.append(wanted["label"].to_numpy().astype(np.int64))
        if groups is not None:
            known.append(pc.fill_null(wanted["group"], -1).to_numpy().astype(np.int64))
    labels = np.concatenate(made)
    everything = np.concatenate([order, len(real) + np.arange(len(labels) - len(order))])
    synthetic = np.arange(len(labels)) >= sum(map(len, made[: 1 + len(others)]))
    return Rows.of(*arrays, order=everything), labels, np.concatenate(known) if known else None, synthetic


def origins_of(study: Study, draw: int, synthesis: str) -> Origins:
    """Where the synthetic rows of `rows_of` come from, in the same order."""
    lots = study.rounds(Lot(synthesis, draw))
    plan = pa.concat_tables(study.wishes(lot, ["label", "source_label", "strength"]) for lot in lots)
    made = [name for name, _ in study.synthesis(synthesis).scores]

    def score(name: str) -> np.ndarray:
        if name not in made:
            raise Refusal(
                f"a label of {synthesis} goes by the score {name!r}, and its scores are {', '.join(made) or 'none'}: add it"
            )
        return np.concatenate([study.score(lot, name) for lot in lots])

    wanted = plan["label"].to_numpy().astype(np.int64)
    source = pc.coalesce(plan["source_label"], plan["label"]).to_numpy().astype(np.int64)
    return Origins(wanted, source, plan["strength"].to_numpy(), score)


def samples_in(run: Run, name: str) -> tuple[np.ndarray, list[str]]:
    """The made samples of one shard, in plan order, with their request ids."""
    table, meta = run.table(name, ["request_id", "status", "x"]), run.meta(name)
    made = table.filter(np.asarray(table["status"]) == "made")
    x = np.frombuffer(b"".join(made["x"].to_pylist()), meta["dtype"]).reshape(len(made), *meta["shape"])
    return x, made["request_id"].to_pylist()


def flat(x: np.ndarray) -> np.ndarray:
    """Rows, of which there may be none, as float32 vectors (n, d); pixels come out in [0, 1]."""
    made = np.asarray(x).reshape(len(x), math.prod(x.shape[1:])).astype(np.float32, copy=False)
    return made / 255 if x.dtype == np.uint8 else made
