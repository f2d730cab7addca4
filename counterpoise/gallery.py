"""The pictures a report shows: real ones, synthetic ones above the real ones nearest to them, and the same noise guided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from counterpoise.lots import Lot
from counterpoise.nets.words import prompts
from counterpoise.study import Study

PICTURES = 6  # real and synthetic ones per class
CLASSES = 3  # the rarest
TWINS = 9  # pictures of the same noise, of each synthesis
TWIN_CLASSES = 2
MOST_BESIDE = 3  # guided syntheses beside unguided ones


def galleries(study: Study) -> list[dict[str, Any]]:
    """Real and synthetic pictures of the rarest classes, the nearest real image under each synthetic one."""
    shown = _with_pictures(study)
    if not shown:
        return []
    counts = study.counts()
    pixels, labels, order = study.pixels("train"), study.labels("train"), study.draw_rows(0)
    place = {name: row for row, name in enumerate(study.manifest("train")["id"].to_pylist())}
    learnt = [study.recipe.fit(arm.fit).synthesis for arm in study.recipe.arms if arm.role == "candidate"]
    last = next((name for name in reversed(shown) if name in learnt), shown[-1])
    made = [row for lot in study.rounds(Lot(last, 0)) for row in _samples(study, lot)]
    found = []
    for label in _rarest(study):
        mine = [row for row in order if labels[row] == label][:PICTURES]
        synthetic = [
            {
                "image": row["image"],
                "kept": row["drop"] is None,
                **({"reason": row["drop"]} if row["drop"] else {}),
                **({"told": row["told"]} if row["told"] else {}),
                **(
                    {"nearest": np.asarray(pixels[place[row["nearest"]]]), "distance": row["score"]}
                    if row["nearest"]
                    else {}
                ),
            }
            for row in made
            if row["label"] == label
        ]
        found.append(
            {
                "title": f"{last}: {counts[label]} real images",
                "class_name": study.classes[label],
                "real": [np.asarray(pixels[row]) for row in mine],
                "synthetic": synthetic[:PICTURES],
            }
        )
    return found


def twins(study: Study, families: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Samples of the rarest classes that began as the same noise: a line of each synthesis of a family."""
    shown, counts, found = set(_with_pictures(study)), study.counts(), []
    for names in families[:1]:
        if not shown.issuperset(names):
            continue
        beside = _spread(names[1:], MOST_BESIDE)
        made = {
            name: {row["request_id"]: row for row in _samples(study, Lot(name, 0))}
            for name in (names[0], *beside)
        }
        common = [key for key in made[names[0]] if all(key in rows for rows in made.values())]
        for label in _rarest(study)[:TWIN_CLASSES]:
            keys = [key for key in common if made[names[0]][key]["label"] == label][:TWINS]
            if keys:
                lines = [
                    {"synthesis": name, "images": [rows[key]["image"] for key in keys]}
                    for name, rows in made.items()
                ]
                found.append({"class_name": study.classes[label], "real": int(counts[label]), "lines": lines})
    return found


def _with_pictures(study: Study) -> list[str]:
    """The syntheses whose samples can be looked at."""
    return [item.name for item in study.recipe.synthesis if study.pictures(item.name)]


def _rarest(study: Study) -> list[int]:
    counts = study.counts()
    known = counts > 0 if counts.any() else counts == 0  # or all are known by name alone
    return [int(c) for c in np.argsort(counts, kind="stable") if known[c]][:CLASSES]


def _spread(names: Sequence[str], most: int) -> list[str]:
    """
    >>> _spread(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    return [names[at] for at in np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))]


def _said(prompt: str | None, name: str) -> str | None:
    """
    >>> _said("{a}, at dusk", "oak tree")
    'an oak tree, at dusk'
    """
    return None if prompt is None else prompts(prompt, [name])[0]


def _samples(study: Study, lot: Lot) -> Iterator[dict[str, Any]]:
    drop = {row["request_id"]: row for row in study.run.table(lot.selected).to_pylist()}
    names = [name for name, _ in study.synthesis(lot.synthesis).scores]
    asked = study.run.table(lot.plan, ["request_id", "prompt"])
    told = dict(zip(asked["request_id"].to_pylist(), asked["prompt"].to_pylist(), strict=True))
    for shard in study.shards(lot):
        meta, table = study.run.meta(lot.samples(shard)), study.run.table(lot.samples(shard))
        scores = study.run.table(lot.scores(names[0], shard)).to_pylist() if names else []
        near = {row["request_id"]: row for row in scores}
        for row in table.to_pylist():
            if row["status"] == "made":
                score = near.get(row["request_id"], {})
                yield {
                    "request_id": row["request_id"],
                    "image": np.frombuffer(row["x"], meta["dtype"]).reshape(meta["shape"]),
                    "label": drop[row["request_id"]]["label"],
                    "drop": drop[row["request_id"]]["drop"],
                    "nearest": score.get("nearest_id"),
                    "score": score.get("score"),
                    "told": _said(told[row["request_id"]], study.called[drop[row["request_id"]]["label"]]),
                }
