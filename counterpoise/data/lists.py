"""The split lists that long-tail benchmarks publish: `path label` text, and iNaturalist JSON.

They name files below a root; every path is checked before anything is opened.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from counterpoise.data.chest import ChestXray14, find_chest
from counterpoise.data.sources import (
    SPLITS,
    Fence,
    Item,
    Place,
    Problem,
    Row,
    checked,
    files_state,
    in_order,
    make_listing,
    read_below,
)
from counterpoise.types import Refusal, part


@part
class SplitLists:
    """Published splits: lines of `path label` (ImageNet-LT, Places-LT) or an iNaturalist JSON, one file for each split.

    Classes keep the order of their numbers. In a text list they are called by the folder of their images where folders
    and numbers of the training list agree one to one, else by their number.
    """

    root: Place
    train: Place
    val: Place | None = None
    test: Place | None = None

    def listing(self) -> pa.Table:
        names: dict[str, str] = {}
        rows, problems = checked(self._rows(names), Fence(self.root))
        if not rows and not problems:
            raise Refusal(f"{self.train} lists no images")
        order = in_order({row.label for row in rows if row.label is not None})
        if not names:
            names = _folder_names(row for row in rows if row.split == "train")
        called = [names.get(number, number) for number in order]
        if len(set(called)) < len(called):
            called = order
        rename = dict(zip(order, called, strict=True))
        rows = [row._replace(label=rename[row.label]) for row in rows if row.label is not None]
        return make_listing(rows, problems, classes=called)

    def read(self, rows: pa.Table) -> Iterator[Item]:
        return read_below(self.root, rows)

    def state(self) -> str:
        paths = [os.path.join(self.root, row.uri) for row in self._rows({})]
        return files_state([path for path in (self.train, self.val, self.test) if path] + paths)

    def _rows(self, names: dict[str, str]) -> Iterator[Row | Problem]:
        for split, file in (("train", self.train), ("val", self.val), ("test", self.test)):
            if file is None:
                continue
            try:
                text = Path(file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise Refusal(f"the {split} list {file} cannot be read: {error}") from None
            yield from (
                _inaturalist(text, file, split, names) if file.endswith(".json") else _lines(text, split)
            )


def find_lists(folder: Path) -> SplitLists | ChestXray14 | None:
    """Published lists among the files of a folder, known by their names and their first line."""
    if chest := find_chest(folder):
        return chest
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        match = re.search(r"(?:^|[_.-])(train|val|valid|validation|test)(\d{4})?$", file.stem.lower())
        if not match or not file.is_file() or not _is_list(file):
            continue
        split = SPLITS[match[1]]
        if split in found:
            raise Refusal(
                f"{folder} has two {split} lists, {found[split]} and {file}: keep one, or use SplitLists"
            )
        found[split] = str(file)
    return SplitLists(str(folder), **found) if "train" in found else None


def _is_list(file: Path) -> bool:
    if file.suffix == ".txt":
        with open(file, encoding="utf-8", errors="replace") as lines:
            return re.fullmatch(r"\S.*\s\d+\s*", lines.readline(10_000)) is not None
    return file.suffix == ".json" and '"annotations"' in file.read_text(encoding="utf-8", errors="replace")


def _lines(text: str, split: str) -> Iterator[Row | Problem]:
    for number, line in enumerate(text.splitlines(), start=1):
        path, _, label = line.strip().rpartition(" ") if "\t" not in line else line.strip().rpartition("\t")
        if label.isascii() and label.isdigit() and path.strip():
            yield Row(path.strip(), str(int(label)), None, split)
        elif line.strip():
            yield Problem(
                line.strip()[:200], f"missing label: line {number} of the {split} list is not `path number`"
            )


def _folder_names(rows: Iterable[Row]) -> dict[str, str]:
    pairs = {(str(row.label), os.path.basename(os.path.dirname(row.uri))) for row in rows}
    folders = {folder for _, folder in pairs}
    return (
        dict(pairs)
        if "" not in folders and len({number for number, _ in pairs}) == len(folders) == len(pairs)
        else {}
    )


def _inaturalist(text: str, file: str, split: str, names: dict[str, str]) -> Iterator[Row | Problem]:
    try:
        found = json.loads(text)
        names |= {str(int(entry["id"])): str(entry["name"]) for entry in found.get("categories", ())}
        labels: dict[Any, set[str]] = {}
        for entry in found["annotations"]:
            labels.setdefault(entry["image_id"], set()).add(str(int(entry["category_id"])))
        images = [(str(entry["file_name"]), labels.get(entry["id"], set())) for entry in found["images"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refusal(
            f"{file} is not an iNaturalist list (images, annotations, categories): {type(error).__name__} {error}"
        ) from None
    for path, claimed in images:
        if len(claimed) == 1:
            yield Row(path, next(iter(claimed)), None, split)
        else:
            yield Problem(path, "several labels: one is needed" if claimed else "missing label")
