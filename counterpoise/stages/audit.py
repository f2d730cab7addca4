"""audit: reads data/train, and of test only labels and hashes; writes what is uneven, doubled, leaked or unreadable."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise import tables
from counterpoise.data.splits import conflicts, overlaps
from counterpoise.material import LISTING
from counterpoise.metrics.accuracy import shot_bins
from counterpoise.stages.stage import Step
from counterpoise.study import Study

ROLES = ("train", "val", "test")
MOST_LISTED = 200  # rows of each kind in audit.json; totals count all


def quarantine(study: Study, unit: str) -> None:
    seen = study.seen(["id", "uri", "label", "reason"])
    bad = seen.filter(pc.is_valid(seen["reason"])).to_pylist()
    unlisted = [row | {"id": "", "label": row.get("label")} for row in study.run.meta(LISTING)["problems"]]
    rows = bad + unlisted
    columns = {name: [row.get(name) for row in rows] for name in tables.QUARANTINE.names}
    study.run.put_table(unit, tables.table(tables.QUARANTINE, columns))


def count_classes(study: Study, unit: str) -> None:
    n = len(study.classes)
    counts = {role: np.bincount(study.labels(role), minlength=n) for role in ROLES} | {
        "train": study.counts()
    }
    bins = {c: name for name, members in shot_bins(counts["train"]).items() for c in members}
    columns = {"label": np.arange(n), "name": study.classes, "bin": [bins[c] for c in range(n)]} | counts
    study.run.put_table(unit, tables.table(tables.CLASSES, columns))


def audit(study: Study, unit: str) -> None:
    seen = study.seen(
        ["id", "uri", "reason", "actions", "format", "width", "height", "pixel_hash", "mean", "std"]
    )
    good = seen.filter(pc.is_null(seen["reason"]))
    pooled = bool(study.facts["sizes"]["pool"])
    manifests = [study.manifest(role) for role in ROLES + ("pool",) * pooled]  # rows with a label come first
    used = pa.concat_tables([m.select(["id", "uri", "label", "pixel_hash", "split"]) for m in manifests])
    hashes, roles = used["pixel_hash"].to_pylist(), used["split"].to_pylist()
    uris, labels = used["uri"].to_pylist(), used["label"].drop_null().to_pylist()
    if pooled:
        uri_of = dict(zip(good["id"].to_pylist(), good["uri"].to_pylist(), strict=True))
        uris[len(labels) :] = [uri_of[name] for name in used["id"].to_pylist()[len(labels) :]]
    counts = study.counts()
    there = counts[counts > 0]
    names = study.classes
    actions = Counter(seen["actions"].combine_chunks().flatten().to_pylist())
    same: dict[str, list[str]] = {}
    for uri, pixel_hash in zip(good["uri"].to_pylist(), good["pixel_hash"].to_pylist(), strict=True):
        same.setdefault(pixel_hash, []).append(uri)
    doubled = [members for members in same.values() if len(members) > 1]
    leaks = [
        twins for twins in overlaps(hashes, roles) if {*twins.values} != {"train", "pool"}
    ]  # both are learned from
    disputed = conflicts(hashes[: len(labels)], [names[label] for label in labels])
    notes = list(study.facts["notes"])
    if not len(there):
        notes.append("there is no training image: classifiers know the classes by their names alone")
    for c, name in enumerate(study.classes):
        if not counts[c] and not study.recipe.from_names:
            notes.append(f"class {name!r} has no training image: no classifier can learn it")
        elif counts[c] == 1:
            notes.append(f"class {name!r} has one training image")
    found = {
        "images": len(good),
        "listed": len(seen),
        "quarantined": study.run.table("quarantine.parquet", ["id"]).num_rows,
        "size": study.facts["size"],
        "channels": study.facts["channels"],
        "classes": len(study.classes),
        "groups": study.groups,
        "sizes": study.facts["sizes"] | {"train": int(counts.sum())},
        "imbalance": float(there.max() / there.min()) if len(there) else 1.0,
        "dimensions": _dimensions(good),
        "formats": dict(Counter(good["format"].to_pylist()).most_common()),
        "actions": dict(actions.most_common()),
        "brightness": {"mean": _mean(good["mean"]), "std": _mean(good["std"])},
        "duplicates": doubled[:MOST_LISTED],
        "duplicated": len(doubled),
        "leaks": [
            {"uris": [uris[i] for i in twins.rows], "splits": twins.values} for twins in leaks[:MOST_LISTED]
        ],
        "conflicts": [
            {"uris": [uris[i] for i in twins.rows], "labels": twins.values}
            for twins in disputed[:MOST_LISTED]
        ],
        "notes": notes,
    }
    study.run.put_json(unit, found)


def _mean(column: pa.ChunkedArray) -> float:
    found = pc.mean(column).as_py()
    return round(float(found or 0.0), 3)


def _dimensions(good: pa.Table) -> dict[str, list[int]]:
    """Smallest, median and largest width and height; of no image, nothing."""
    if not len(good):
        return {}
    return {
        side: [int(v) for v in np.quantile(good[side].to_numpy(), (0, 0.5, 1), method="nearest")]
        for side in ("width", "height")
    }


STEPS = (
    Step(lambda study: ["quarantine.parquet"], quarantine),
    Step(lambda study: ["classes.parquet"], count_classes),
    Step(lambda study: ["audit.json"], audit),
)
