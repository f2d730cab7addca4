"""Images embedded in tables: Parquet in the Hugging Face layout, and hub names through `datasets`.

A row's uri is `file#number` (hub: `split#number`). Only the columns of labels and groups are read to list; pixels are
streamed a few rows at a time, fastest in the order of the file.
"""

from __future__ import annotations

import bisect
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from counterpoise.data.sources import SPLITS, Fence, Item, Place, Problem, Row, files_state, make_listing
from counterpoise.types import Refusal, part

LABELS = ("label", "labels", "fine_label", "class")
ROWS_PER_BATCH = 32


def _named(value: object, names: Sequence[str] | None) -> str | None:
    """The name behind a label of a file; None where there is none (the hub writes -1 for a hidden label)."""
    if value is None or value == "" or (names is not None and value not in range(len(names))):
        return None
    return str(value) if names is None else names[value]  # type: ignore[call-overload]


def _sort_out(
    uris: Sequence[str], labels: Sequence[Any], groups: Sequence[Any], split: str | None, features: _Features
) -> tuple[list[Row], list[Problem]]:
    rows, problems = [], []
    for uri, label, group in zip(uris, labels, groups, strict=True):
        name = None if split == "pool" else _named(label, features.label_names)
        if name is None and split != "pool":
            problems.append(
                Problem(uri, "missing label" if label in (None, "", -1) else f"label {label} has no name")
            )
        else:
            rows.append(Row(uri, name, _named(group, features.group_names), split))
    return rows, problems


class _Features:
    """Which columns hold image, label and group, and what the numbers are called (from Hugging Face's metadata)."""

    def __init__(
        self,
        where: str,
        columns: Mapping[str, bool],
        described: Mapping[str, Any],
        label: str | None,
        group: str | None,
    ) -> None:
        # `columns`: name => may hold image bytes, by its type
        images = [name for name in columns if (described.get(name) or {}).get("_type") == "Image"] or [
            name for name, fits in columns.items() if fits
        ]
        if len(images) != 1:
            raise Refusal(
                f"{where} needs one column of images, found {images or 'none'} among {', '.join(columns)}"
            )
        classes = [name for name in columns if (described.get(name) or {}).get("_type") == "ClassLabel"]
        choice = [label] if label else [name for name in LABELS if name in columns] or classes
        if (
            not choice
            or choice[0] not in columns
            or (not label and choice[0] not in LABELS and len(choice) > 1)
        ):
            raise Refusal(
                f"{where} needs a column of labels ({label or ', '.join(LABELS)}), found {', '.join(columns)}: "
                "name it with label="
            )
        if group and group not in columns:
            raise Refusal(f"{where} has no column {group!r} for groups, found {', '.join(columns)}")
        self.image, self.label = images[0], choice[0]
        self.group = group or ("group" if "group" in columns and self.label != "group" else None)
        self.label_names = (described.get(self.label) or {}).get("names")
        self.group_names = (described.get(self.group or "") or {}).get("names")


# --- Parquet with embedded bytes -----------------------------------------------------------------------------


@part
class EmbeddedParquet:
    """Parquet in the Hugging Face layout: `image` = struct(bytes, path), `label` = number, names in the metadata.

    `root` is a folder (files named train*, validation*, test* are those splits) or a single file. Columns with other
    names can be given.
    """

    root: Place
    label: str | None = None
    group: str | None = None

    def listing(self) -> pa.Table:
        rows: list[Row] = []
        problems: list[Problem] = []
        classes: list[str] | None = None
        for name in self._files():
            file = _open_parquet(os.path.join(self._base, name))
            features = self._features(name, file.schema_arrow)
            if rows and features.label_names != classes:
                raise Refusal(
                    f"{name} names its classes otherwise than the files before it: use one set at a time"
                )
            classes = features.label_names
            columns = [features.label] + ([features.group] if features.group else [])
            table = file.read(columns=columns)
            labels = table.column(features.label).to_pylist()
            groups = table.column(features.group).to_pylist() if features.group else [None] * len(labels)
            uris = [f"{name}#{row}" for row in range(len(labels))]
            good, bad = _sort_out(uris, labels, groups, split_of(name), features)
            rows, problems = rows + good, problems + bad
        return make_listing(rows, problems, classes=classes)

    def read(self, rows: pa.Table) -> Iterator[Item]:
        fence, name, column = Fence(self._base), None, None
        for uri in rows.column("uri").to_pylist():
            wanted, _, row = uri.rpartition("#")
            if wanted != name or column is None:
                if reason := fence.problem(wanted):
                    yield OSError(errno.EACCES, reason)
                    continue
                file = _open_parquet(os.path.join(self._base, wanted))
                name, column = wanted, _Column(file, self._features(wanted, file.schema_arrow).image)
            yield column.item(int(row))

    def state(self) -> str:
        return files_state(os.path.join(self._base, name) for name in self._files())

    @property
    def _base(self) -> str:
        return self.root if os.path.isdir(self.root) else os.path.dirname(self.root) or "."

    def _files(self) -> list[str]:
        if not os.path.isdir(self.root):
            return [os.path.basename(self.root)]
        found = _parquet_files(Path(self.root))
        if not found:
            raise Refusal(f"{self.root} holds no Parquet files")
        return [file.relative_to(self.root).as_posix() for file in found]

    def _features(self, name: str, schema: pa.Schema) -> _Features:
        columns = {field.name: _may_hold_images(field.type) for field in schema}
        return _Features(name, columns, _described(schema), self.label, self.group)


class _Column:
    """The images of one file, a few at a time. Going on is cheap; going back starts a row group anew."""

    def __init__(self, file: pq.ParquetFile, name: str) -> None:
        self.file, self.name = file, name
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.starts = [sum(sizes[:group]) for group in range(len(sizes) + 1)]
        self.struct = pa.types.is_struct(file.schema_arrow.field(name).type)
        self.first = self.stop = (
            0  # the rows that the batch at hand holds are first.. ; its row group ends at stop
        )
        self.batch: pa.Array = pa.array([], pa.binary())
        self.batches: Iterator[pa.RecordBatch] = iter(())

    def item(self, row: int) -> Item:
        if not 0 <= row < self.starts[-1]:
            return OSError(errno.ENOENT, "no such row")
        try:
            if not self.first <= row < self.stop:
                group = bisect.bisect_right(self.starts, row) - 1
                self.first, self.stop = self.starts[group : group + 2]
                self.batch = self.batch[:0]
                leaf = f"{self.name}.bytes" if self.struct else self.name
                self.batches = self.file.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=[leaf])
            while row >= self.first + len(self.batch):
                self.first += len(self.batch)
                column = next(self.batches).column(0)
                self.batch = column.field("bytes") if self.struct else column
        except (pa.ArrowException, OSError, StopIteration) as error:
            self.stop = 0
            return OSError(errno.EIO, f"the Parquet file is damaged here: {error}")
        return self.batch[row - self.first].as_py() or OSError(errno.ENODATA, "no image bytes in this row")


def embeds_images(file: Path) -> bool:
    schema = _open_parquet(str(file)).schema_arrow
    return any(_may_hold_images(field.type) for field in schema)


def find_parquet(folder: Path) -> EmbeddedParquet | None:
    found = _parquet_files(folder)
    return EmbeddedParquet(str(folder)) if found and embeds_images(found[0]) else None


def split_of(name: str) -> str | None:
    """The split that a file's name, or that of its folder, begins with.

    >>> [split_of(name) for name in ("train-00000-of-00002.parquet", "validation/0.parquet", "all.parquet")]
    ['train', 'val', None]
    """
    for step in reversed(name.lower().split("/")):
        if match := re.match(r"(train|validation|valid|val|test|unlabell?ed)(?![a-z])", step):
            return SPLITS[match[1]]
    return None


def _parquet_files(folder: Path) -> list[Path]:
    places = (
        "*.parquet",
        "data/*.parquet",
        "train*/*.parquet",
        "val*/*.parquet",
        "test*/*.parquet",
        "unlabel*/*.parquet",
    )
    return [file for place in places for file in sorted(folder.glob(place))]


def _open_parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=1 << 20)  # streams: a row group may be larger than memory
    except (OSError, pa.ArrowException) as error:
        raise Refusal(f"{path} cannot be read as Parquet: {error}") from None


def _may_hold_images(type: pa.DataType) -> bool:
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0
    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def _described(schema: pa.Schema) -> dict[str, Any]:
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


# --- hub names -----------------------------------------------------------------------------------------------


@part
class Hub:
    """A data set by its hub name, through `datasets` (extra hub-data). Its own code is never run."""

    name: str
    revision: str | None = None
    config: str | None = None
    label: str | None = None
    group: str | None = None

    def listing(self) -> pa.Table:
        rows: list[Row] = []
        problems: list[Problem] = []
        notes: list[str] = []
        classes = None
        for split, data in _load_hub(self.name, self.revision, self.config).items():
            features = self._features(data)
            if split not in SPLITS:
                notes.append(f"the split {split!r} is left out: known are {', '.join(SPLITS)}")
                continue
            classes = features.label_names
            labels = list(data[features.label])
            groups = list(data[features.group]) if features.group else [None] * len(labels)
            uris = [f"{split}#{row}" for row in range(len(labels))]
            good, bad = _sort_out(uris, labels, groups, SPLITS[split], features)
            rows, problems = rows + good, problems + bad
        return make_listing(rows, problems, notes, classes)

    def read(self, rows: pa.Table) -> Iterator[Item]:
        loaded = _load_hub(self.name, self.revision, self.config)
        column = {split: self._features(data).image for split, data in loaded.items()}
        for uri in rows.column("uri").to_pylist():
            split, _, row = uri.rpartition("#")
            found = loaded[split][int(row)][column[split]]
            try:
                yield found["bytes"] or Path(found["path"]).read_bytes()
            except OSError as error:
                yield error

    def state(self) -> str:
        loaded = _load_hub(self.name, self.revision, self.config)
        return " ".join(
            f"{split}:{data.num_rows}:{data._fingerprint}" for split, data in sorted(loaded.items())
        )

    def _features(self, data: Any) -> _Features:
        kinds: dict[str, dict[str, Any]] = {
            name: {"_type": type(kind).__name__} for name, kind in data.features.items()
        }
        for name, kind in data.features.items():
            if hasattr(kind, "names"):
                kinds[name]["names"] = list(kind.names)
        return _Features(self.name, dict.fromkeys(kinds, False), kinds, self.label, self.group)


@lru_cache(maxsize=2)
def _load_hub(name: str, revision: str | None, config: str | None) -> dict[str, Any]:
    try:
        import datasets
    except ImportError:
        raise Refusal(
            f"hub:{name} needs the library datasets: pip install 'counterpoise[hub-data]'"
        ) from None
    try:
        loaded = datasets.load_dataset(name, config, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refusal(f"the hub data set {name!r} cannot be opened: {str(error).splitlines()[0]}") from None
    return {
        split: data.cast(
            datasets.Features(
                {
                    key: datasets.Image(decode=False) if isinstance(kind, datasets.Image) else kind
                    for key, kind in data.features.items()
                }
            )
        )
        for split, data in loaded.items()
    }
