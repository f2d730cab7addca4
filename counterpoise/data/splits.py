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
    """Who is train, val or test where the data do not say.

    Rows with a given split keep it; what is missing of val and test is carved from the rows that are train or say
    nothing. A cell is a class, or a class x group where there are groups.

    - A whole number is images per class (shared out evenly among its groups); a fraction of val is the same number
      for every cell (fraction x mean cell), a fraction of test is that fraction of each cell.
    - Val and test together never take more than half of a class's cell, and are cut back in proportion; test goes
      first where only one image can be had. A class with one image keeps it in train.
    - Rows with the same pixels stay in one role; where they lie in different cells they stay in train.
    - `together`: all rows of a group (a patient) share one role. Whole groups are then taken until each class has its
      number, never beyond half of a class; exact balance cannot be had.

    Each row is drawn by its own id and the seed: order and other rows do not matter to its turn.
    """

    val: Count | Share = 0.1
    test: Count | Share = 0.2
    together: bool = False

    def __call__(
        self,
        ids: Sequence[str],
        labels: np.ndarray,
        groups: np.ndarray | None,
        given: Sequence[str | None],
        hashes: Sequence[str | None],
        seed: int,
    ) -> np.ndarray:
        """A role ("train", "val", "test") for each row. A group below zero means none."""
        roles = np.array([split or "train" for split in given], dtype="<U5")
        pool = np.flatnonzero(roles == "train")
        missing = [role for role in ("test", "val") if not (roles == role).any()]
        if not len(pool) or not missing:
            return roles
        no_groups = np.full(len(labels), -1)
        groups = no_groups if groups is None else groups
        cells = _codes(labels, no_groups if self.together else groups)
        units = _units(pool, hashes, groups if self.together else no_groups)
        turn = {unit: min([_turn(seed, ids[row]) for row in rows]) for unit, rows in enumerate(units)}
        room = self._room(labels, cells, pool, missing)
        size_of = Counter(cells[pool].tolist())
        # A whole group may be more than asked for, but nobody takes more than half of a cell.
        spare = {cell: size // 2 for cell, size in size_of.items()}
        cell_of = cells.tolist()
        counts = [
            {cell_of[rows[0]]: 1} if len(rows) == 1 else Counter([cell_of[row] for row in rows])
            for rows in units
        ]
        members: dict[int, list[int]] = {cell: [] for cell in spare}
        for unit in sorted(turn, key=turn.__getitem__):
            for cell in counts[unit]:
                members[cell].append(unit)
        free = set(turn)
        for cell in sorted(members, key=lambda cell: (size_of[cell], cell)):  # the rarest choose first
            for role in missing:
                for unit in members[cell]:
                    if room[role][cell] <= 0:
                        break
                    if unit not in free:
                        continue
                    size = counts[unit]
                    if any(spare[c] < n for c, n in size.items()):
                        continue
                    if not self.together and (len(size) > 1 or size[cell] > room[role][cell]):
                        continue
                    free.remove(unit)
                    roles[units[unit]] = role
                    for c, n in size.items():
                        room[role][c] -= n
                        spare[c] -= n
        return roles

    def _room(
        self, labels: np.ndarray, cells: np.ndarray, pool: np.ndarray, missing: Sequence[str]
    ) -> dict[str, dict[int, int]]:
        """How many images each cell gives to each missing role."""
        names, first, sizes = np.unique(cells[pool], return_index=True, return_counts=True)
        of_class = labels[pool][first]
        room: dict[str, dict[int, int]] = {role: {} for role in missing}
        for cell, label, size in zip(names, of_class, sizes, strict=True):
            asked = {}
            for role in missing:
                ask = self.test if role == "test" else self.val
                if isinstance(ask, int):
                    asked[role] = max(ask // int(np.sum(of_class == label)), min(ask, 1))
                else:
                    asked[role] = max(round(ask * (size if role == "test" else sizes.mean())), int(ask > 0))
            most, total = int(size) // 2, sum(asked.values())
            if total > most:
                kept = {role: most * ask // total for role, ask in asked.items()}
                for role in missing:  # what rounding left over, test first
                    kept[role] += min(most - sum(kept.values()), asked[role] - kept[role], 1)
                asked = kept
            for role in missing:
                room[role][int(cell)] = asked[role]
        return room


def _codes(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return labels.astype(np.int64) * (int(groups.max(initial=-1)) + 2) + groups + 1


def _turn(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest()


def _units(pool: np.ndarray, hashes: Sequence[str | None], groups: np.ndarray) -> list[list[int]]:
    """Rows that must not be parted: those with the same pixels, and those of one group (unless it is below zero)."""
    group_of = groups.tolist()
    if groups.max(initial=-1) < 0:  # the usual case: only pixels bind
        alike: dict[object, list[int]] = {}
        for row in pool.tolist():
            alike.setdefault(hashes[row] or row, []).append(row)
        return list(alike.values())
    parent = {int(row): int(row) for row in pool}

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
    """Exact duplicates that lie in more than one of train, val and test.

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
