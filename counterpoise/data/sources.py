"""Where images come from: every source lists its rows without opening an image, then reads the bytes it is asked for.

Here: the protocol, the fence that keeps paths inside a root, image folders, and `open_source` for what a user types.
A source knows names and bytes; what the bytes hold is the business of intake.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator

from counterpoise import tables
from counterpoise.data.intake import SUFFIXES
from counterpoise.types import Refusal, part

#: What a row reads as: the bytes of an image file, pixels already (h, w, c) uint8, or why not (`strerror`).
Item = bytes | np.ndarray | OSError

#: Where something lies, as the user typed it; a Path is taken as its text.
Place = Annotated[str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)]

#: The names of splits that users write.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

FILE_LIMIT = 1 << 29  # no image within the pixel limit needs more bytes; a longer file is not read into memory

UNDERSTOOD = (
    "understood are: digits; a folder root/class/* or root/{train,val,test}/class/*; a .csv, .jsonl or .parquet "
    "manifest with the columns path, label, group, split; a folder of Hugging Face Parquet files; CIFAR python files; "
    "a folder with published lists (*_train.txt, train*.json); hub:NAME[@REVISION]"
)


class Source(Protocol):
    """A part whose fields say where the data lie; nothing that it caches is a field."""

    def listing(self) -> pa.Table:
        """All rows (schema LISTING) in an order that never changes, with `classes`, `problems`, `notes` as metadata."""

    def read(self, rows: pa.Table) -> Iterator[Item]:
        """One item for each of these rows of the listing, in their order, read when it is asked for."""

    def state(self) -> str:
        """A digest of names, sizes and times: it changes when the data do."""


class Row(NamedTuple):
    uri: str
    label: str | None
    group: str | None = None
    split: str | None = None


class Problem(NamedTuple):
    """A row that cannot be used and why; it goes to quarantine."""

    uri: str
    reason: str


def row_id(uri: str) -> str:
    """An id says nothing about the path and depends on nothing else, so that data may move.

    >>> row_id("cat/1.png") == row_id("cat/1.png") != row_id("cat/2.png")
    True
    """
    return hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def make_listing(
    rows: Sequence[Row],
    problems: Iterable[Problem] = (),
    notes: Iterable[str] = (),
    classes: Sequence[str] | None = None,
) -> pa.Table:
    """The table that `Source.listing` promises. Without an order of their own, classes are sorted by name."""
    columns: Mapping[str, list[str | None]] = {
        "id": [row_id(row.uri) for row in rows],
        "uri": [row.uri for row in rows],
        "label": [row.label for row in rows],
        "group": [row.group for row in rows],
        "split": [row.split for row in rows],
    }
    names = list(classes) if classes is not None else in_order({row.label for row in rows if row.label is not None})
    bad = [{"uri": printable(uri), "reason": printable(reason)} for uri, reason in problems]
    return tables.table(tables.LISTING, columns, {"classes": names, "problems": bad, "notes": list(notes)})


def in_order(names: Iterable[str]) -> list[str]:
    """Class names by number if all are plain whole numbers, by name otherwise.

    >>> in_order({"10", "9"}), in_order({"10", "9", "cat"})
    (['9', '10'], ['10', '9', 'cat'])
    """
    names = set(names)
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)


def printable(name: str) -> str:
    """File names may be any bytes; tables hold text only."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Fence:
    """Tells whether a path, once links are followed, stays below a root. Each folder is resolved once."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def problem(self, uri: str) -> str | None:
        """Why this path (relative to the root) must not be read, or None."""
        if "\0" in uri or "\\" in uri and os.sep == "\\":
            return "not a valid path"
        try:
            real = self._real(os.path.join(self.root, uri))
            if os.path.commonpath((self.root, real)) != self.root:
                return f"lies outside the root {printable(self.root)}"
            found = os.stat(real)
        except OSError as error:
            return "missing file" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
        return None if stat.S_ISREG(found.st_mode) else "not a regular file"

    def _real(self, path: str) -> str:
        folder, name = os.path.split(path)
        if os.path.islink(path) or name in ("", ".", ".."):
            return os.path.realpath(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)

    def read(self, uri: str) -> bytes | OSError:
        if reason := self.problem(uri):
            return OSError(errno.EACCES, reason)
        try:
            with open(os.path.join(self.root, uri), "rb") as file:
                if os.fstat(file.fileno()).st_size > FILE_LIMIT:
                    return OSError(errno.EFBIG, f"file of more than {FILE_LIMIT:,} bytes")
                return file.read()
        except OSError as error:
            return error


def read_below(root: str, rows: pa.Table) -> Iterator[Item]:
    """The files that these rows name, one at a time."""
    fence = Fence(root)
    for uri in rows.column("uri").to_pylist():
        yield fence.read(uri)


def files_state(paths: Iterable[str]) -> str:
    """A digest of these files' names, sizes and times of change; one that is missing counts as such."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        try:
            found = os.stat(path)
            seen = f"{found.st_size} {found.st_mtime_ns}"
        except OSError:
            seen = "missing"
        digest.update(f"{path}\0{seen}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


# --- image folders -------------------------------------------------------------------------------------------


@part
class Folder:
    """`root/class/*` or `root/{train,val|valid|validation,test}/class/*`; files may lie deeper below their class."""

    root: Place

    def listing(self) -> pa.Table:
        if not os.path.isdir(self.root):
            raise Refusal(f"{self.root} is not a folder: name one that holds a folder of images for each class")
        found = _Found(Fence(self.root))
        top = [entry.name for entry in _entries(self.root) if entry.is_dir(follow_symlinks=False)]
        splits = has_splits(self.root, top)
        found.loose("", folders=False)
        for name in top:
            if not splits:
                found.add_class(name, name, None)
            elif name.lower() in SPLITS:
                found.loose(name, folders=True)
                for entry in _entries(os.path.join(self.root, name)):
                    if entry.is_dir(follow_symlinks=False):
                        found.add_class(f"{name}/{entry.name}", entry.name, SPLITS[name.lower()])
            else:
                found.problems.append(Problem(name, f"unknown split {printable(name)!r}, known are {', '.join(SPLITS)}"))
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
        return files_state(path for path in sorted(_all_files(self.root)))


def has_splits(root: str, folders: Sequence[str]) -> bool:
    """Folders named train, val, test are splits if train is among them or there is nothing else, and they hold folders."""
    named = [name for name in folders if name.lower() in SPLITS]
    inner = [
        name
        for name in named
        if any(entry.is_dir(follow_symlinks=False) for entry in _entries(os.path.join(root, name)))
    ]
    return bool(inner) and ("train" in {name.lower() for name in named} or len(named) == len(folders))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted, without hidden entries. `..x` is a strange name, not a hidden one."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not _hidden(entry.name)]
    return sorted(shown, key=lambda entry: entry.name)


def _hidden(name: str) -> bool:
    return name == "__MACOSX" or (name.startswith(".") and not name.startswith(".."))


def _all_files(root: str) -> Iterator[str]:
    for entry in _entries(root):
        if entry.is_dir(follow_symlinks=False):
            yield from _all_files(entry.path)
        else:
            yield entry.path


class _Found:
    """What a walk through an image folder has come upon."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.rows: list[Row] = []
        self.problems: list[Problem] = []
        self.ignored: Counter[str] = Counter()
        self.empty: list[str] = []

    def add_class(self, folder: str, label: str, split: str | None) -> None:
        before = len(self.rows) + len(self.problems)
        self._walk(folder, label, split)
        if len(self.rows) + len(self.problems) == before:
            self.empty.append(printable(folder))

    def _walk(self, folder: str, label: str, split: str | None) -> None:
        for entry in _entries(os.path.join(self.fence.root, folder)):
            uri = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                self._walk(uri, label, split)
            elif self._wanted(entry, uri):
                self.rows.append(Row(uri, label, None, split))

    def loose(self, folder: str, folders: bool) -> None:
        """Files that lie where only folders belong."""
        for entry in _entries(os.path.join(self.fence.root, folder)):
            uri = f"{folder}/{entry.name}".lstrip("/")
            if not entry.is_dir(follow_symlinks=False) and self._wanted(entry, uri):
                self.problems.append(Problem(uri, "missing label: it lies outside every class folder"))

    def _wanted(self, entry: os.DirEntry[str], uri: str) -> bool:
        if entry.is_symlink() and entry.is_dir():
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
        regular = entry.is_file(follow_symlinks=False)
        if reason := None if regular else self.fence.problem(uri):
            self.problems.append(Problem(uri, reason))
        return reason is None

    def notes(self) -> list[str]:
        filled = {row.label for row in self.rows}
        notes = [
            f"empty class folder {name!r}" + ("" if name.rsplit("/", 1)[-1] in filled else ": the class is left out")
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


# --- what the user typed -------------------------------------------------------------------------------------


def open_source(text: str) -> Source:
    """The source that a user means by a name or a path; what is not understood is refused with what was found there."""
    from counterpoise.data import lists, packed  # both build on this file

    if text == "digits":
        return packed.Digits()
    if text.startswith("hub:"):
        name, _, revision = text.removeprefix("hub:").partition("@")
        return packed.Hub(name, revision or None)
    path = Path(text)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".parquet" and packed.embeds_images(path):
            return packed.EmbeddedParquet(text)
        if suffix in lists.MANIFESTS:
            return lists.Manifest(text)
        raise Refusal(f"{text} is a file with the suffix {suffix!r}; {UNDERSTOOD}")
    if not path.is_dir():
        raise Refusal(f"{text!r} is neither a file nor a folder; {UNDERSTOOD}")
    for found in (packed.find_cifar(path), lists.find_manifest(path), packed.find_parquet(path), lists.find_lists(path)):
        if found is not None:
            return found
    if any(entry.is_dir(follow_symlinks=False) for entry in _entries(text)):
        return Folder(text)
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(printable(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    raise Refusal(f"{text} holds {shown or 'nothing'}; {UNDERSTOOD}")
