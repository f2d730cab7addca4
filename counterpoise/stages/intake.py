"""intake: reads the source once; writes the listing, what was found in every image, and the frozen splits in `data/`.

Three steps: list (one unit), decode (a unit per slice of the listing, so any number of processes), divide (one unit:
validation, test and the unlabelled pool first, then the cut of every draw, then one decoded cache per role). Memory
holds one slice. Labels of the pool end here: no file below data/pool has them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise import tables
from counterpoise.data.fitting import Fitting, statistics
from counterpoise.data.intake import Intake, intake, pixel_hash
from counterpoise.material import LISTING, ROWS_PER_SLICE
from counterpoise.recipe import Data, Recipe
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.types import Refusal

PEEK = 200  # images looked at to settle the working size and the colour
LARGEST_AUTO = 64  # pixels; a larger working size is asked for, never guessed
FACTS = "data/facts.json"
ROLES = ("train", "val", "test", "pool")
FOUND = (
    "reason",
    "actions",
    "format",
    "width",
    "height",
    "pixel_hash",
)  # of each image, beside its statistics


# --- list ----------------------------------------------------------------------------------------------------


def list_source(study: Study, unit: str) -> None:
    source = study.recipe.data.source
    listing = source.listing()
    found = tables.meta(listing)
    check_names(study.recipe, listing)
    bare = not len(listing) and not found["problems"]
    if not len(listing) and not (bare and found["classes"]):
        raise Refusal(f"no image was found in {source}: " + "; ".join(found["notes"] + ["nothing to study"]))
    _check_pool(study, study.recipe.data.holdout.pool or "pool" in listing["split"].to_pylist())
    shape = settle_shape(study.recipe.data, source, listing)
    study.run.put_table(
        unit, tables.with_meta(listing, found | shape | {"state": source.state()}), ROWS_PER_SLICE
    )


def check_names(recipe: Recipe, listing: pa.Table) -> None:
    """Refuse class names without a picture where pictures are learnt from."""
    found = tables.meta(listing)
    if not len(listing) and not found["problems"] and found["classes"] and not recipe.from_names:
        raise Refusal(
            f"{recipe.name} learns from pictures, and {recipe.data.source} has class names alone: take the recipe prompted"
        )


def settle_shape(data: Data, source: Any, listing: pa.Table) -> dict[str, int]:
    """The working size (most images' shorter side, at most 64) and whether there is any colour, from a sample."""
    if not len(listing):  # class names alone: what is made is what a model makes
        return {"size": data.size or LARGEST_AUTO, "channels": 1 if data.colour == "grey" else 3}
    known = listing.filter(pc.is_valid(listing["label"]))  # an unlabelled pool has no say in it
    known = known if len(known) else listing
    rows = np.unique(np.linspace(0, len(known) - 1, min(PEEK, len(known))).astype(int))
    seen = [decode(item, "") for item in source.read(known.take(rows))]
    good = [one for one in seen if one.pixels is not None]
    if not good:
        raise Refusal(f"none of {len(seen)} sampled images could be read; the first: {seen[0].reason}")
    sides, times = np.unique([min(one.width, one.height) for one in good], return_counts=True)
    common = int(sides[times.argmax()]) if times.max() > len(good) / 2 else int(np.median(sides))
    colour = any(_colourful(one.pixels) for one in good if one.pixels is not None)
    return {
        "size": data.size or min(max(common, 4), LARGEST_AUTO),
        "channels": {"auto": 3 if colour else 1, "rgb": 3, "grey": 1}[data.colour],
    }


def _colourful(pixels: np.ndarray) -> bool:
    return pixels.shape[2] == 3 and bool((pixels != pixels[..., :1]).any())


# --- decode --------------------------------------------------------------------------------------------------


def decode_slice(study: Study, unit: str) -> None:
    """Decode, hash and describe one slice of the listing; its pixels at the working size lie beside it until divided."""
    rows = study.run.table_group(LISTING, int(unit[-13:-8]))
    meta, names = tables.meta(rows), rows["uri"].to_pylist()
    pixels = np.zeros((len(rows), meta["size"], meta["size"], meta["channels"]), np.uint8)
    fitting, found, good = Fitting(pixels), [], np.zeros(len(rows), bool)
    for row, item in enumerate(study.recipe.data.source.read(rows)):
        one = decode(item, names[row])
        hash_ = None
        if one.pixels is not None:
            fitting.put(row, one.pixels)
            hash_, good[row] = pixel_hash(one.pixels), True
        found.append((one.reason, one.actions, one.format, one.width, one.height, hash_))
    fitting.finish()
    study.run.put_array(unit.replace(".parquet", ".npy"), pixels)
    columns = {name: rows[name] for name in tables.LISTING.names}
    columns |= zip(FOUND, zip(*found, strict=True), strict=True)
    columns |= {
        name: pa.array(values, mask=~good)
        for name, values in zip(("mean", "std"), statistics(pixels), strict=True)
    }
    study.run.put_table(unit, tables.table(tables.INTAKE, columns))


def decode(item: bytes | np.ndarray | OSError, name: str) -> Intake:
    if isinstance(item, OSError):
        return Intake(None, f"cannot be opened: {item.strerror or item}", (), "", 0, 0)
    if isinstance(item, np.ndarray):
        pixels = item if item.ndim == 3 else item[..., None]
        return Intake(pixels, None, (), "array", pixels.shape[1], pixels.shape[0])
    return intake(item, name)


# --- divide --------------------------------------------------------------------------------------------------


def divide(study: Study, unit: str) -> None:
    run, data = study.run, study.recipe.data
    meta = run.meta(LISTING)
    names = study.slices()
    everything = study.seen()
    everything = everything.append_column("place", pa.array(np.arange(len(everything))))
    table = everything.filter(pc.is_null(everything["reason"]))
    classes = meta["classes"]
    code = {name: i for i, name in enumerate(classes)}
    labels = np.array([code.get(name, -1) for name in table["label"].to_pylist()], np.int64)
    groups, group_names = _codes(table["group"].to_pylist())
    given = np.array([split or "" for split in table["split"].to_pylist()], object)
    hashes = np.array(table["pixel_hash"].to_pylist(), object)
    ids = np.array(table["id"].to_pylist(), object)
    roles = data.holdout(ids=ids, labels=labels, groups=groups, given=given, hashes=hashes, seed=data.seed)
    judged = hashes[np.isin(roles, ("val", "test"))]
    shown = (roles == "pool") & np.isin(hashes, judged)
    roles[shown] = "out"  # whoever learns from the pool would have seen what it is judged by
    left = np.flatnonzero(roles == "train")
    draws = []
    for draw in range(study.recipe.trials.draws):
        kept = np.arange(len(left))
        if data.cut is not None:
            kept = data.cut(
                labels=labels[left],
                groups=None if groups is None else groups[left],
                seed=data.seed + draw,
                classes=classes,
                group_names=group_names,
            )
        draws.append(left[kept])
    _check(labels, roles, draws, classes, study.recipe.from_names)
    _check_pool(study, "pool" in roles)
    members = {role: np.flatnonzero(roles == role) for role in ROLES}
    members["train"] = np.unique(np.concatenate(draws))
    for role, rows in members.items():
        if role == "pool" and not len(rows):
            continue
        _write_role(study, role, table, rows, labels, groups, names, meta)
    for draw, rows in enumerate(draws):
        place = np.searchsorted(members["train"], rows)
        run.put_table(f"data/train/draw_{draw}.parquet", pa.table({"row": pa.array(place, pa.int64())}))
    facts = {
        "classes": classes,
        "groups": group_names,
        "size": meta["size"],
        "channels": meta["channels"],
        "sizes": {role: len(rows) for role, rows in members.items()},
        "notes": [*meta["notes"], *_left_out(int(shown.sum()))],
        "problems": meta["problems"],
    }
    run.put_json(unit, facts)
    for name in names:  # the caches hold all that is used: the slices' pixels were scaffolding
        (run / name.replace(".parquet", ".npy")).unlink(missing_ok=True)


def _left_out(times: int) -> list[str]:
    return [f"left out of the pool, being copies of validation or test pictures: {times}"] * (times > 0)


def _codes(names: Sequence[str | None]) -> tuple[np.ndarray | None, list[str]]:
    known = sorted({name for name in names if name is not None})
    if not known:
        return None, []
    code = {name: i for i, name in enumerate(known)}
    return np.array([-1 if name is None else code[name] for name in names], np.int64), known


def _check(
    labels: np.ndarray, roles: np.ndarray, draws: Iterable[np.ndarray], classes: list[str], from_names: bool
) -> None:
    if not (labels >= 0).any() and len(classes) > 1:  # class names alone, and maybe a pool
        return
    for role in ("val", "test"):
        if not (roles == role).any():
            raise Refusal(
                f"there are no {role} images: too few images per class to hold any out (asked for by --{role})"
            )
    if from_names and len(classes) > 1:
        return
    for rows in draws:
        if len(np.unique(labels[rows])) < 2:
            raise Refusal(
                f"a classifier needs at least two classes with training images, found {len(np.unique(labels[rows]))} "
                f"of {len(classes)}"
            )


def _check_pool(study: Study, there: bool) -> None:
    wanting = [fit.name for fit in study.recipe.fits if fit.pool is not None]
    if wanting and not there:
        raise Refusal(
            f"{', '.join(wanting)}: pseudo-labels need unlabelled images and there are none: put some aside with --pool, "
            "or give some rows the split 'unlabelled'"
        )


def _write_role(
    study: Study,
    role: str,
    table: pa.Table,
    rows: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    names: list[str],
    meta: dict[str, Any],
) -> None:
    run, taken = study.run, table.take(rows)
    columns = {
        "id": taken["id"],
        "uri": taken["uri"],
        "label": labels[rows].astype(np.int32),
        "split": [role] * len(rows),
        "pixel_hash": taken["pixel_hash"],
        "is_synthetic": np.zeros(len(rows), bool),
        "weight": np.ones(len(rows), np.float32),
        "caption": taken["caption"],
    }
    if role == "pool":  # a path may name the class as well, or a caption
        columns |= {name: pa.nulls(len(rows)) for name in ("label", "uri", "caption")}
    if groups is not None:
        columns["group"] = groups[rows].astype(np.int32)
    run.put_table(f"data/{role}/manifest.parquet", tables.table(tables.MANIFEST, columns))
    if run.has(f"data/{role}/pixels.npy"):
        return
    places = taken["place"].to_numpy()
    shape = (len(rows), meta["size"], meta["size"], meta["channels"])
    with run.building_array(f"data/{role}/pixels.npy", shape, "uint8") as cache:
        edges = np.searchsorted(places, np.arange(len(names) + 1) * ROWS_PER_SLICE)  # places rise
        for number, name in enumerate(names):
            first, last = edges[number : number + 2]
            if first < last:
                pixels = run.array(name.replace(".parquet", ".npy"))
                np.take(
                    pixels,
                    places[first:last] - number * ROWS_PER_SLICE,
                    axis=0,
                    out=cache[first:last],
                    mode="clip",
                )
                _forget(cache)


def _forget(cache: np.ndarray) -> None:
    """Written pages of a mapped file need not stay in this process: the system has them."""
    if isinstance(cache.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        cache.base.madvise(mmap.MADV_DONTNEED)


STEPS = (
    Step(lambda study: [LISTING], list_source),
    Step(Study.slices, decode_slice),
    Step(lambda study: [FACTS], divide),
)
