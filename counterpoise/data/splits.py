"""Who is held out of the training rows, and which rows leak: pure functions of names, labels and groups, no disk.

Holding out comes first, on all real rows; a cut (counterpoise.data.cuts) thins what became train.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from counterpoise.data.cuts import parse_cut as parse_cut  # the other half of what a user says about splits
from counterpoise.types import part

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


@part
class Holdout:
    """Who is train, val, test or unlabelled pool where the data do not say.

    Rows with a given split keep it; what is missing of the others is carved from the rows that are train or say
    nothing. A cell is a class, or a class x group where there are groups.

    - A whole number is images per class (shared out evenly among its groups); a fraction of val is the same number
      for every cell (fraction x mean cell), a fraction of test is that fraction of each cell.
    - Val and test together never take more than half of a class's cell, and are cut back in proportion; test goes
      first where only one image can be had. A class with one image keeps it in train.
    - The pool comes last, so val and test are the same whatever its size: images whose label nobody shall read. A
      fraction is that fraction of each cell, as of test; every cell keeps at least one image in train.
    - Rows with the same pixels stay in one role; where they lie in different cells they stay in train.
    - `together`: all rows of a group (a patient) share one role. Whole groups are then taken until each class has its
      number, never beyond half of a class (the pool: all of it but one image); exact balance cannot be had.

    Each row is drawn by its own id and the seed: order and other rows do not matter to its turn.
    """

    val: Count | Share = 0.1
    test: Count | Share = 0.2
    together: bool = False
    pool: Count | Share = 0

    def __call__(
        self,
        ids: Sequence[str],
        labels: np.ndarray,
        groups: np.ndarray | None,
        given: Sequence[str | None],
        hashes: Sequence[str | None],
        seed: int,
    ) -> np.ndarray:
        """A role ("train", "val", "test", "pool") for each row. A group below zero means none."""
        roles = np.array([split or "train" for split in given], dtype="<U5")
        free = np.flatnonzero(roles == "train")
        missing = [role for role in ("test", "val", "pool") if not (roles == role).any()]
        if not len(free) or not missing:
            return roles
        no_groups = np.full(len(labels), -1)
        groups = no_groups if groups is None else groups
        cells = _codes(labels, no_groups if self.together else groups)
        draw = _Draw(ids, cells, groups if self.together else no_groups, hashes, seed, self.together)
        size = Counter(cells[free].tolist())
        room = {role: self._asked(role, labels, cells, free) for role in missing}
        held = {role: room[role] for role in missing if role != "pool"}
        most = {cell: n // 2 for cell, n in size.items()}
        draw.take(roles, _halved(held, most), most)
        if "pool" in missing and self.pool:
            left = Counter(cells[roles == "train"].tolist())
            most = {cell: n - 1 for cell, n in left.items()}
            draw.take(roles, {"pool": {cell: min(room["pool"][cell], n) for cell, n in most.items()}}, most)
        return roles

    def _asked(self, role: str, labels: np.ndarray, cells: np.ndarray, free: np.ndarray) -> dict[int, int]:
        """How many images of each cell a role is to have."""
        ask = {"test": self.test, "val": self.val, "pool": self.pool}[role]
        names, first, sizes = np.unique(cells[free], return_index=True, return_counts=True)
        if isinstance(ask, int):
            cells_of = Counter(labels[free][first].tolist())
            each = [max(ask // cells_of[label], min(ask, 1)) for label in labels[free][first].tolist()]
        else:
            of = np.full(len(sizes), sizes.mean()) if role == "val" else sizes
            each = [max(round(ask * size), int(ask > 0)) for size in of.tolist()]
        return dict(zip(names.tolist(), each, strict=True))


def _halved(room: dict[str, dict[int, int]], most: dict[int, int]) -> dict[str, dict[int, int]]:
    """Asked of each cell by each role => the same, cut back in proportion where they ask for more than `most`."""
    for cell, limit in most.items():
        asked = {role: cells[cell] for role, cells in room.items()}
        total = sum(asked.values())
        if total > limit:
            kept = {role: limit * ask // total for role, ask in asked.items()}
            for role in room:  # what rounding left over, test first
                kept[role] += min(limit - sum(kept.values()), asked[role] - kept[role], 1)
            for role in room:
                room[role][cell] = kept[role]
    return room


@dataclass(frozen=True, eq=False)
class _Draw:
    """The rows with all that decides their turn; roles take what is train, as far as there is room."""

    ids: Sequence[str]
    cells: np.ndarray
    bound: np.ndarray  # rows that share a number >= 0 must not be parted
    hashes: Sequence[str | None]
    seed: int
    together: bool

    def take(self, roles: np.ndarray, room: dict[str, dict[int, int]], spare: dict[int, int]) -> None:
        """Change `roles` from train, role by role in the order of `room`; no cell gives more than it has to spare.

        A whole group may be more than asked for, hence `spare` beside `room`.
        """
        units = _units(np.flatnonzero(roles == "train"), self.hashes, self.bound)
        turn = [min([_turn(self.seed, self.ids[row]) for row in rows]) for rows in units]
        cell_of = self.cells.tolist()
        counts = [
            {cell_of[rows[0]]: 1} if len(rows) == 1 else Counter([cell_of[row] for row in rows])
            for rows in units
        ]
        spare, size_of = dict(spare), Counter(self.cells[roles == "train"].tolist())
        members: dict[int, list[int]] = {cell: [] for cell in size_of}
        for unit in sorted(range(len(units)), key=turn.__getitem__):
            for cell in counts[unit]:
                members[cell].append(unit)
        free = set(range(len(units)))
        for cell in sorted(members, key=lambda cell: (size_of[cell], cell)):  # the rarest choose first
            for role, wanted in room.items():
                for unit in members[cell]:
                    if wanted[cell] <= 0:
                        break
                    if unit not in free:
                        continue
                    size = counts[unit]
                    if any(spare[c] < n for c, n in size.items()):
                        continue
                    if not self.together and (len(size) > 1 or size[cell] > wanted[cell]):
                        continue
                    free.remove(unit)
                    roles[units[unit]] = role
                    for c, n in size.items():
                        wanted[c] -= n
                        spare[c] -= n


def _codes(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return labels.astype(np.int64) * (int(groups.max(initial=-1)) + 2) + groups + 1


def _turn(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest()


def _units(free: np.ndarray, hashes: Sequence[str | None], groups: np.ndarray) -> list[list[int]]:
    """Rows that must not be parted: those with the same pixels, and those of one group (unless it is below zero)."""
    group_of = groups.tolist()
    if groups.max(initial=-1) < 0:  # the usual case: only pixels bind
        alike: dict[object, list[int]] = {}
        for row in free.tolist():
            alike.setdefault(hashes[row] or row, []).append(row)
        return list(alike.values())
    parent = {int(row): int(row) for row in free}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    seen: dict[object, int] = {}
    for row in parent:
        for key in (hashes[row] or None, group_of[row] if group_of[row] >= 0 else None):
            if key is not None:
                parent[root(row)] = root(seen.setdefault(key, row))
    found: dict[int, list[int]] = {}
    for row in parent:
        found.setdefault(root(row), []).append(row)
    return list(found.values())


# --- leaks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Twins:
    """Rows with exactly the same pixels that disagree in something: their roles (a leak) or their labels."""

    pixel_hash: str
    rows: tuple[int, ...]
    values: tuple[str, ...]  # one for each row


def overlaps(hashes: Sequence[str | None], roles: Sequence[str]) -> list[Twins]:
    """Exact duplicates that lie in more than one role.

    >>> overlaps(["a", "b", "a"], ["train", "train", "test"])
    [Twins(pixel_hash='a', rows=(0, 2), values=('train', 'test'))]
    """
    return _disagreeing(hashes, roles)


def conflicts(hashes: Sequence[str | None], labels: Sequence[str]) -> list[Twins]:
    """The same pixels under more than one label."""
    return _disagreeing(hashes, labels)


def _disagreeing(hashes: Sequence[str | None], values: Sequence[object]) -> list[Twins]:
    first: dict[str, int] = {}
    again: dict[str, list[int]] = {}  # only what comes twice is gathered
    for row, name in enumerate(hashes):
        if name and first.setdefault(name, row) != row:
            again.setdefault(name, [first[name]]).append(row)
    found = [
        Twins(name, tuple(rows), tuple(str(values[row]) for row in rows)) for name, rows in again.items()
    ]
    return [twins for twins in found if len(set(twins.values)) > 1]
