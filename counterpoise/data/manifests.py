"""Manifests: a CSV, JSON-lines or Parquet table with a row for each image: path, label, group, split, caption.

Every path is checked before anything is opened; an unknown column is refused, a row without label goes to quarantine.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from counterpoise.data.sources import (
    SPLITS,
    Fence,
    Item,
    Place,
    Problem,
    Row,
    checked,
    files_state,
    make_listing,
    read_below,
)
from counterpoise.types import Refusal, part

MANIFESTS = (".csv", ".jsonl", ".ndjson", ".parquet")

#: Every column a manifest may have, under the names that users give it.
COLUMNS = {
    "path": "path",
    "file_name": "path",
    "image_path": "path",
    "label": "label",
    "group": "group",
    "split": "split",
    "caption": "caption",
    "text": "caption",
}

Record = dict[str, str | None] | Problem


@part
class Manifest:
    """A table with a row per image: path (or file_name, image_path), label, and maybe group, split and caption (or text).

    Rows of the split `unlabelled` need no label. Paths are relative to `root`, by default the folder of the manifest.
    """

    file: Place
    root: Place | None = None

    def listing(self) -> pa.Table:
        rows, problems = checked(self._rows(), Fence(self._root))
        if not rows and not problems:
            raise Refusal(f"{self.file} lists no images")
        return make_listing(rows, problems)

    def read(self, rows: pa.Table) -> Iterator[Item]:
        return read_below(self._root, rows)

    def state(self) -> str:
        paths = [os.path.join(self._root, row.uri) for row in self._rows()]
        return files_state([self.file, *paths])

    @property
    def _root(self) -> str:
        return os.path.dirname(self.file) or "." if self.root is None else self.root

    def _rows(self) -> Iterator[Row | Problem]:
        for number, record in enumerate(_records(Path(self.file)), start=1):
            if isinstance(record, Problem):
                yield record
                continue
            path, split = record.get("path"), record.get("split")
            if path is None:
                yield Problem(f"row {number}", "missing path")
                continue
            role = SPLITS.get(split.lower()) if split else None
            if split and role is None:
                yield Problem(path, f"unknown split {split!r}, known are {', '.join(SPLITS)}")
            elif role == "pool":
                yield Row(path, None, record.get("group"), role)
            elif record.get("label") is None:
                yield Problem(path, "missing label")
            else:
                yield Row(path, record["label"], record.get("group"), role, record.get("caption"))


def find_manifest(folder: Path) -> Manifest | None:
    """The metadata file of a Hugging Face image folder, if it says the labels."""
    for suffix in MANIFESTS:
        file = folder / f"metadata{suffix}"
        if file.is_file() and "label" in _columns(file):
            return Manifest(str(file))
    return None


def _records(file: Path) -> Iterator[Record]:
    known = _columns(file)
    try:
        if file.suffix == ".parquet":
            for batch in pq.ParquetFile(file).iter_batches(columns=list(known.values())):
                columns = {name: batch.column(known[name]).to_pylist() for name in known}
                for values in zip(*columns.values(), strict=True):
                    yield _record(dict(zip(columns, values, strict=True)))
        elif file.suffix == ".csv":
            with open(file, newline="", encoding="utf-8-sig") as lines:
                reader = csv.reader(lines, strict=True)
                header = [COLUMNS[name] for name in next(reader)]
                for fields in reader:
                    if len(fields) == len(header):
                        yield _record(dict(zip(header, fields, strict=True)))
                    elif fields:
                        yield Problem(
                            f"line {reader.line_num}", f"{len(fields)} fields, the header has {len(header)}"
                        )
        else:
            with open(file, encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        found = _json_object(line)
                        yield (
                            _record({COLUMNS[name]: value for name, value in found.items()})
                            if found is not None
                            else Problem(f"line {number}", "not a JSON object")
                        )
    except (csv.Error, UnicodeDecodeError, pa.ArrowException) as error:
        raise Refusal(f"{file} cannot be read: {error}") from None


def _columns(file: Path) -> dict[str, str]:
    """Our name for a column => the name it has in this file. An unknown or missing one is refused by its name."""
    try:
        if file.suffix == ".parquet":
            names = list(pq.read_schema(file).names)
        elif file.suffix == ".csv":
            with open(file, newline="", encoding="utf-8-sig") as lines:
                names = next(csv.reader(lines, strict=True), [])
        else:
            with open(file, encoding="utf-8-sig") as lines:
                objects = (_json_object(line) for line in lines)
                names = list(dict.fromkeys(name for found in objects if found for name in found))
    except (OSError, csv.Error, UnicodeDecodeError, pa.ArrowException) as error:
        raise Refusal(f"{file} cannot be read: {error}") from None
    known: dict[str, str] = {}
    for name in names:
        if name not in COLUMNS:
            raise Refusal(
                f"{file} has an unknown column {name!r}: known are {', '.join(COLUMNS)}; rename or drop it"
            )
        if COLUMNS[name] in known:
            raise Refusal(
                f"{file} has both {known[COLUMNS[name]]!r} and {name!r} for the {COLUMNS[name]}: keep one"
            )
        known[COLUMNS[name]] = name
    for needed in ("path", "label"):
        if needed not in known:
            raise Refusal(f"{file} has no column {needed!r}: it has {', '.join(names) or 'none'}")
    return known


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _record(values: dict[str, Any]) -> Record:
    record: dict[str, str | None] = {}
    for name, value in values.items():
        if isinstance(value, list | dict):
            return Problem(
                str(values.get("path")), f"{name} is a list or an object: one value per image is read"
            )
        record[name] = _text(value)
    return record


def _text(value: object) -> str | None:
    """
    >>> [_text(value) for value in (3, 3.0, "cat", " ", None, float("nan"))]
    ['3', '3', 'cat', None, None, None]
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a whole-number column with gaps is often stored as float
    text = str(value)
    return text if text.strip() else None
