"""NIH ChestX-ray14 as the release of DGCMM reads it: images with one finding, divided by the official lists.

Wang et al., ChestX-ray8, CVPR 2017 (later 14 findings). A row of the table names its findings as `Mass|Nodule`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from counterpoise.data.sources import (
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

FINDINGS = (
    "No Finding", "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
TABLE, COLUMNS = "Data_Entry_2017*.csv", ("Image Index", "Finding Labels", "Patient ID")
SEVERAL, SHARED = "several findings", "its patient is tested, too"
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


@part
class ChestXray14:
    """A folder with Data_Entry_2017*.csv, train_val_list.txt, test_list.txt, and images below `images*` or beside them.

    Images with several findings are left out, and training images of patients who are tested (in the official lists
    there are none); each is listed as a problem. Classes are in the order of the findings' numbers, without empty ones.
    """

    root: Place

    def listing(self) -> pa.Table:
        rows, problems = checked(self._rows(), Fence(self.root))
        if not rows:
            reasons = "; ".join(dict.fromkeys(problem.reason for problem in problems[:1000]))
            raise Refusal(f"{self.root} has no image to study in images*/ or beside its table: {reasons}")
        several = sum(problem.reason.startswith(SEVERAL) for problem in problems)
        shared = sum(problem.reason.startswith(SHARED) for problem in problems)
        notes = [
            f"{several:,} images with several findings are left out",
            f"{shared:,} images of the training list are of patients who are tested, and left out",
            "validation is drawn by image: a patient may be in train and val",
        ]
        present = {row.label for row in rows}
        return make_listing(rows, problems, notes, [name for name in FINDINGS if name in present])

    def read(self, rows: pa.Table) -> Iterator[Item]:
        return read_below(self.root, rows)

    def state(self) -> str:
        images = [row.uri for row in self._rows() if isinstance(row, Row)]
        files = [self._table().name, *LISTS.values(), *images]
        return files_state([os.path.join(self.root, name) for name in files])

    def _rows(self) -> Iterator[Row | Problem]:
        places, known = self._images(), dict(self._entries())
        listed = {split: self._names(file) for split, file in LISTS.items()}
        tested = {known[name][1] for name in listed["test"] if name in known}
        for split, names in listed.items():
            for name in names:
                findings, patient = known.get(name, (None, ""))
                if findings is None:
                    yield Problem(name, "missing label: it is in a list, not in the table")
                elif "|" in findings:
                    yield Problem(name, f"{SEVERAL}: one is needed, found {findings}")
                elif findings not in FINDINGS:
                    yield Problem(name, f"unknown finding {findings!r}, known are {', '.join(FINDINGS)}")
                elif split == "train" and patient in tested:
                    yield Problem(name, f"{SHARED}: {patient}")
                else:
                    yield Row(places.get(name, name), findings, None, split)
        for name in sorted(known.keys() - listed["train"].keys() - listed["test"].keys()):
            yield Problem(name, "in neither list: it belongs to no split")

    def _images(self) -> dict[str, str]:
        """The name of an image => where it lies below the root; a later folder does not hide an earlier one's."""
        root, places = Path(self.root), dict[str, str]()
        for folder in (root, *sorted(root.glob("images*")), *sorted(root.glob("images*/images"))):
            if folder.is_dir():
                below = folder.relative_to(root).as_posix()
                places = {name: f"{below}/{name}" for name in os.listdir(folder)} | places
        return places

    def _names(self, file: str) -> dict[str, None]:
        """The names in a list, in its order."""
        try:
            text = (Path(self.root) / file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(
                f"{self.root} must have the official lists {' and '.join(LISTS.values())}: {error}"
            ) from None
        return dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())

    def _table(self) -> Path:
        found = sorted(Path(self.root).glob(TABLE))
        if len(found) != 1:
            shown = ", ".join(path.name for path in found) or "none"
            raise Refusal(f"{self.root} must have one table {TABLE} with the findings, found {shown}")
        return found[0]

    def _entries(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """The name of an image => its findings, its patient."""
        file = self._table()
        try:
            with open(file, newline="", encoding="utf-8-sig") as lines:
                reader = csv.reader(lines, strict=True)
                header = next(reader, [])
                missing = [name for name in COLUMNS if name not in header]
                if missing:
                    raise Refusal(
                        f"{file} has no column {missing[0]!r}: it has {', '.join(header) or 'none'}"
                    )
                name, findings, patient = (header.index(column) for column in COLUMNS)
                for row in filter(None, reader):
                    if len(row) <= max(name, findings, patient):
                        raise Refusal(
                            f"{file}, line {reader.line_num} has {len(row)} fields: the table is incomplete"
                        )
                    yield row[name], (row[findings], row[patient])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise Refusal(f"{file} cannot be read: {error}") from None


def find_chest(folder: Path) -> ChestXray14 | None:
    return ChestXray14(str(folder)) if any(folder.glob(TABLE)) else None
