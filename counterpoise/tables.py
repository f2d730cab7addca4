"""Every table on disk, as Arrow schemas. `docs/artefacts.md` describes each column; a test holds the two together.

Real and synthetic rows share one manifest schema, so that mixing is concatenation.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

#: What a source lists before any image is opened.
LISTING = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("caption", pa.string()),
    ]
)

#: What intake found in each listed image; `reason` is null for the good ones.
INTAKE = pa.schema(
    [
        *LISTING,
        ("reason", pa.string()),
        ("actions", pa.list_(pa.string())),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixel_hash", pa.string()),
        ("mean", pa.float32()),
        ("std", pa.float32()),
    ]
)

QUARANTINE = pa.schema(
    [("id", pa.string()), ("uri", pa.string()), ("label", pa.string()), ("reason", pa.string())]
)

#: One row per example. `label` and `group` are indices into the names kept in the table's metadata.
MANIFEST = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
        ("group", pa.int32()),
        ("split", pa.string()),
        ("pixel_hash", pa.string()),
        ("is_synthetic", pa.bool_()),
        ("request_id", pa.string()),
        ("source_id", pa.string()),
        ("source_label", pa.int32()),
        ("strength", pa.float32()),
        ("seed", pa.int64()),
        ("weight", pa.float32()),
        ("caption", pa.string()),
    ]
)

CLASSES = pa.schema(
    [
        ("label", pa.int32()),
        ("name", pa.string()),
        ("train", pa.int64()),
        ("val", pa.int64()),
        ("test", pa.int64()),
        ("bin", pa.string()),
    ]
)

#: One row per sample wanted. Frozen once written.
PLAN = pa.schema(
    [
        ("request_id", pa.string()),
        ("shard", pa.int32()),
        ("label", pa.int32()),
        ("group", pa.int32()),
        ("source_id", pa.string()),
        ("source_label", pa.int32()),
        ("partner_id", pa.string()),
        ("strength", pa.float32()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
    ]
)

#: One row per sample made (or failed, with its reason). `x` is the raw array; dtype and shape are in the metadata.
SAMPLES = pa.schema(
    [
        ("request_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("x", pa.binary()),
        ("pixel_hash", pa.string()),
        ("attempt", pa.int32()),
        ("held", pa.float32()),
        ("unfelt", pa.float32()),
    ]
)

SCORES = pa.schema([("request_id", pa.string()), ("score", pa.float32()), ("nearest_id", pa.string())])

#: Every sample with a reason: `drop` is null for what is kept.
SELECTION = pa.schema(
    [("request_id", pa.string()), ("label", pa.int32()), ("drop", pa.string()), ("row", pa.int64())]
)

PREDICTIONS = pa.schema(
    [
        ("arm", pa.string()),
        ("trial", pa.int32()),
        ("id", pa.string()),
        ("label", pa.int32()),
        ("group", pa.int32()),
        ("predicted", pa.int32()),
        ("confidence", pa.float32()),
        ("calibrated", pa.float32()),
        ("nll", pa.float32()),
    ]
)

ALL = {
    "listing": LISTING,
    "intake": INTAKE,
    "quarantine": QUARANTINE,
    "manifest": MANIFEST,
    "classes": CLASSES,
    "plan": PLAN,
    "samples": SAMPLES,
    "scores": SCORES,
    "selection": SELECTION,
    "predictions": PREDICTIONS,
}


def table(schema: pa.Schema, columns: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> pa.Table:
    """A table of this schema. A column that is left out is null; one that is unknown is an error."""
    unknown = set(columns) - set(schema.names)
    assert not unknown, f"columns {sorted(unknown)} are not in the schema {schema.names}"
    rows = len(next(iter(columns.values()))) if columns else 0
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in schema
    ]
    return with_meta(pa.Table.from_arrays(arrays, schema=schema), meta or {})


def with_meta(made: pa.Table, meta: Mapping[str, Any]) -> pa.Table:
    return made.replace_schema_metadata({key: json.dumps(value) for key, value in meta.items()})


def meta(made: pa.Table | pa.Schema) -> dict[str, Any]:
    """The key-value metadata of a table, decoded; Arrow's own entries are left out."""
    schema = made if isinstance(made, pa.Schema) else made.schema
    found = schema.metadata or {}
    return {key.decode(): json.loads(value) for key, value in found.items() if not key.startswith(b"ARROW")}


def to_bytes(made: pa.Table, rows_per_group: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(made, sink, row_group_size=rows_per_group, compression="zstd")
    return sink.getvalue()


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read(columns, use_threads=False)


def read_group(path: Path, number: int) -> pa.Table:
    """One group of rows of a table that was written in groups: the others are not read."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(number, use_threads=False)


def read_meta(path: Path) -> dict[str, Any]:
    return meta(pq.read_schema(path))
