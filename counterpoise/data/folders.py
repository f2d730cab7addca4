"""Image folders: the folder names are the labels, and maybe the splits, or nothing. Hostile names are data like any other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from counterpoise.data.intake import SUFFIXES
from counterpoise.data.sources import (
    SPLITS,
    UNLABELLED,
    Fence,
    Item,
    Place,
    Problem,
    Row,
    files_state,
    make_listing,
    printable,
    read_below,
)
from counterpoise.types import Refusal, part


@part
class Folder:
    """`root/class/*` or `root/{train,val|valid|validation,test}/class/*`; files may lie deeper below their class.

    Beside either, `root/unlabelled/*` holds images without a label; folders in it say nothing.
    """

    root: Place

    def listing(self) -> pa.Table:
        if not os.path.isdir(self.root):
            raise Refusal(
                f"{self.root} is not a folder: name one that holds a folder of images for each class"
            )
        found = _Found(Fence(self.root))
        top = [entry.name for entry in found.entries("") if entry.is_dir(follow_symlinks=False)]
        splits = has_splits(self.root, top)
        found.loose("", folders=False)
        for name in top:
            if name.lower() in UNLABELLED or (splits and SPLITS.get(name.lower()) == "pool"):
                found.add_class(name, None, "pool")
            elif not splits:
                found.add_class(name, name, None)
            elif name.lower() in SPLITS:
                found.loose(name, folders=True)
                for entry in found.entries(name):
                    if entry.is_dir(follow_symlinks=False):
                        found.add_class(f"{name}/{entry.name}", entry.name, SPLITS[name.lower()])
            else:
                found.problems.append(
                    Problem(name, f"unknown split {printable(name)!r}, known are {', '.join(SPLITS)}")
                )
        if not found.rows:
            raise Refusal(
                f"no images under {self.root}: expected {self.root}/CLASS/*.jpg (or /train/CLASS/*), "
                f"found {found.seen(top)}"
            )
        found.rows.sort(key=lambda row: row.uri.split("/"))
        return make_listing(found.rows, sorted(found.problems), found.notes())

    def read(self, rows: pa.Table) -> Iterator[Item]:
        return read_below(self.root, rows)

    def state(self) -> str:
        return files_state(sorted(_all_files(self.root)))


@part
class Loose:
    """Pictures at any depth below a folder, of which nobody says what they show: names of folders say nothing."""

    root: Place

    def listing(self) -> pa.Table:
        if not os.path.isdir(self.root):
            raise Refusal(f"{self.root} is not a folder: name one that holds images")
        found = _Found(Fence(self.root))
        found.walk("", None, "pool")
        if not found.rows:
            seen = [f"{len(found.problems)} unusable entries"] if found.problems else []
            raise Refusal(
                f"no images under {self.root}: found {'; '.join(seen + found.notes()) or 'nothing'}"
            )
        found.rows.sort(key=lambda row: row.uri.split("/"))
        return make_listing(found.rows, sorted(found.problems), found.notes())

    def read(self, rows: pa.Table) -> Iterator[Item]:
        return read_below(self.root, rows)

    def state(self) -> str:
        return files_state(sorted(_all_files(self.root)))


def has_splits(root: str, folders: Sequence[str]) -> bool:
    """Folders named train, val, test are splits if train is among them or there is nothing else, and they hold folders."""
    named = [name for name in folders if name.lower() in SPLITS]
    inner = any(_holds_folders(os.path.join(root, name)) for name in named)
    return inner and ("train" in {name.lower() for name in named} or len(named) == len(folders))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted, without hidden entries. `..x` is a strange name, not a hidden one."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not _hidden(entry.name)]
    return sorted(shown, key=lambda entry: entry.name)


def _holds_folders(path: str) -> bool:
    try:
        return any(entry.is_dir(follow_symlinks=False) for entry in _entries(path))
    except OSError:
        return False


def _hidden(name: str) -> bool:
    return (name[:1] == "." and name[:2] != "..") or name == "__MACOSX"


def _all_files(root: str) -> list[str]:
    found: list[str] = []
    for entry in _entries(root):
        if entry.is_dir(follow_symlinks=False):
            found += _all_files(entry.path)
        else:
            found.append(entry.path)
    return found


class _Found:
    """What a walk through an image folder has come upon."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.rows: list[Row] = []
        self.problems: list[Problem] = []
        self.ignored: Counter[str] = Counter()
        self.empty: list[str] = []

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            return _entries(os.path.join(self.fence.root, folder))
        except OSError as error:
            self.problems.append(Problem(folder, f"the folder cannot be read: {error.strerror}"))
            return []

    def add_class(self, folder: str, label: str | None, split: str | None) -> None:
        before = len(self.rows) + len(self.problems)
        self.walk(folder, label, split)
        if len(self.rows) + len(self.problems) == before:
            self.empty.append(printable(folder))

    def walk(self, folder: str, label: str | None, split: str | None) -> None:
        for entry in self.entries(folder):
            uri = f"{folder}/{entry.name}".lstrip("/")
            if entry.is_dir(follow_symlinks=False):
                self.walk(uri, label, split)
            elif self._wanted(entry, uri):
                self.rows.append(Row(uri, label, None, split))

    def loose(self, folder: str, folders: bool) -> None:
        """Files that lie where only folders belong."""
        for entry in self.entries(folder):
            uri = f"{folder}/{entry.name}".lstrip("/")
            if not entry.is_dir(follow_symlinks=False) and self._wanted(entry, uri):
                self.problems.append(Problem(uri, "missing label: it lies outside every class folder"))

    def _wanted(self, entry: os.DirEntry[str], uri: str) -> bool:
        regular = entry.is_file(follow_symlinks=False)
        if not regular and entry.is_symlink() and os.path.isdir(entry.path):
            self.problems.append(Problem(uri, "a linked folder: links to folders are not followed"))
            return False
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix not in SUFFIXES:
            self.ignored[printable(suffix) or "no suffix"] += 1
            return False
        try:
            uri.encode()
        except UnicodeEncodeError:
            self.problems.append(Problem(uri, "its path is not valid UTF-8: rename it"))
            return False
        if reason := None if regular else self.fence.problem(uri):
            self.problems.append(Problem(uri, reason))
        return reason is None

    def notes(self) -> list[str]:
        filled = {row.label for row in self.rows}
        notes = [
            f"empty class folder {name!r}"
            + ("" if name.rsplit("/", 1)[-1] in filled else ": the class is left out")
            for name in self.empty
        ]
        if self.ignored:
            kinds = ", ".join(f"{suffix} {count}" for suffix, count in self.ignored.most_common())
            notes.append(f"{sum(self.ignored.values())} files ignored, their suffix is no image's: {kinds}")
        return notes

    def seen(self, top: Sequence[str]) -> str:
        shown = ", ".join(printable(name) for name in top[:5]) + (", ..." if len(top) > 5 else "")
        parts = [f"{len(top)} folders ({shown})" if top else "no folders"]
        parts += [f"{len(self.problems)} unusable entries"] if self.problems else []
        return "; ".join(parts + self.notes()[-1:])
