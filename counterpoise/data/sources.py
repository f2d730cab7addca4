"""Where images come from: every source lists its rows without opening an image, then reads the bytes it is asked for.

Here: the protocol, the fence that keeps paths inside a root, and `open_source` for what a user types.
A source knows names and bytes; what the bytes hold is the business of intake.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator

from counterpoise import tables
from counterpoise.types import Refusal

#: What a row reads as: the bytes of an image file, pixels already (h, w, c) uint8, or why not (`strerror`).
Item = bytes | np.ndarray | OSError

#: Where something lies, as the user typed it; a Path is taken as its text.
Place = Annotated[
    str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)
]

#: The names of splits that users write. Rows of the pool have no label, whatever their source says.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLITS |= dict.fromkeys(UNLABELLED := ("unlabelled", "unlabeled"), "pool") | {"pool": "pool"}

FILE_LIMIT = (
    1 << 29
)  # no image within the pixel limit needs more bytes; a longer file is not read into memory

#: Open no link, and do not wait for a pipe's other end. 0 where the system cannot promise it.
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) and os.O_NOFOLLOW | os.O_NONBLOCK

UNDERSTOOD = (
    "understood are: digits; a folder root/class/* or root/{train,val,test}/class/*; a .csv, .jsonl or .parquet "
    "manifest with the columns path, label, group, split; a folder of Hugging Face Parquet files; CIFAR python files; "
    "a folder with published lists (*_train.txt, train*.json); ChestX-ray14 (Data_Entry_2017*.csv beside its official "
    "lists); hub:NAME[@REVISION]; a .txt file of class names or names:CAT,DOG, of which pictures can be made"
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
    caption: str | None = None


class Problem(NamedTuple):
    """A row that cannot be used and why; it goes to quarantine."""

    uri: str
    reason: str


def row_id(uri: str) -> str:
    """An id says nothing about the path and depends on nothing else, so that data may move.

    >>> row_id("cat/1.png") == row_id("cat/1.png") != row_id("cat/2.png")
    True
    """
    return hashlib.blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


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
        "caption": [row.caption for row in rows],
    }
    names = (
        list(classes)
        if classes is not None
        else in_order({row.label for row in rows if row.label is not None})
    )
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
    return name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class Fence:
    """Tells whether a path, once links are followed, stays below a root. Each folder is resolved once."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._folders: dict[str, str] = {}
        self._known: dict[str, bool] = {}  # folders of uris, whether they lie inside

    def problem(self, uri: str) -> str | None:
        """Why this path (relative to the root) must not be read, or None."""
        try:
            real = self._real(os.path.join(self.root, uri))
            if os.path.commonpath((self.root, real)) != self.root:
                return f"lies outside the root {printable(self.root)}"
            found = os.stat(real)
        except ValueError:  # a NUL, or a character that no file name has
            return "not a valid path"
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
        found = self._read_plain(uri)
        return self._read_carefully(uri) if found is None else found

    def _read_plain(self, uri: str) -> bytes | None:
        """A regular file, not a link, in a folder known to lie inside: opened at once. None for all others."""
        folder, _, name = uri.rpartition("/")
        if not NOFOLLOW or name in ("", ".", "..") or not self._inside(folder):
            return None
        try:
            file = os.open(f"{self.root}/{uri}", os.O_RDONLY | NOFOLLOW)
        except (OSError, ValueError):
            return None
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_LIMIT:
                return None
            data = os.read(file, found.st_size + 1)
            return data if len(data) == found.st_size else None
        except OSError:
            return None
        finally:
            os.close(file)

    def _inside(self, folder: str) -> bool:
        if folder not in self._known:
            path = os.path.join(self.root, folder)
            try:
                real = self._folders.setdefault(path, os.path.realpath(path))
                self._known[folder] = os.path.commonpath((self.root, real)) == self.root
            except (OSError, ValueError):
                self._known[folder] = False
        return self._known[folder]

    def _read_carefully(self, uri: str) -> bytes | OSError:
        if reason := self.problem(uri):
            return OSError(errno.EACCES, reason)
        try:
            with open(os.path.join(self.root, uri), "rb") as file:
                if os.fstat(file.fileno()).st_size > FILE_LIMIT:
                    return OSError(errno.EFBIG, f"file of more than {FILE_LIMIT:,} bytes")
                return file.read()
        except OSError as error:
            return error


def checked(found: Iterable[Row | Problem], fence: Fence) -> tuple[list[Row], list[Problem]]:
    """The rows whose file is there, inside the root and listed once; the others with their reason."""
    rows: dict[str, Row] = {}
    problems: list[Problem] = []
    torn: set[str] = set()
    for row in found:
        if isinstance(row, Problem):
            problems.append(row)
            continue
        if any(text is not None and printable(text) != text for text in row):
            problems.append(Problem(row.uri, "not valid text"))
            continue
        uri = os.path.relpath(row.uri, fence.root) if os.path.isabs(row.uri) else os.path.normpath(row.uri)
        row = row._replace(uri=uri)
        if reason := fence.problem(uri):
            problems.append(Problem(uri, reason))
        elif uri not in rows:
            rows[uri] = row
        elif rows[uri] == row:
            problems.append(Problem(uri, "listed twice: the first is kept"))
        else:
            torn.add(uri)
    problems += [
        Problem(uri, "listed with two labels, groups or splits: one is needed") for uri in sorted(torn)
    ]
    return [row for uri, row in rows.items() if uri not in torn], problems


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
        digest.update(f"{path}\0{seen}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# --- what the user typed -------------------------------------------------------------------------------------


def open_source(text: str) -> Source:
    """The source that a user means by a name or a path; what is not understood is refused with what was found there."""
    from counterpoise.data import embedded, folders, lists, manifests, names, packed  # all build on this file

    if text == "digits":
        return packed.Digits()
    if text.startswith("hub:"):
        name, _, revision = text.removeprefix("hub:").partition("@")
        return embedded.Hub(name, revision or None)
    if text.startswith("names:"):
        return names.named(text.removeprefix("names:").split(","), text)
    path = Path(text)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".txt":
            return names.names_in(path)
        if suffix == ".parquet" and embedded.embeds_images(path):
            return embedded.EmbeddedParquet(text)
        if suffix in manifests.MANIFESTS:
            return manifests.Manifest(text)
        raise Refusal(f"{text} is a file with the suffix {suffix!r}; {UNDERSTOOD}")
    if not path.is_dir():
        raise Refusal(f"{text!r} is neither a file nor a folder; {UNDERSTOOD}")
    for found in (
        packed.find_cifar(path),
        manifests.find_manifest(path),
        embedded.find_parquet(path),
        lists.find_lists(path),
    ):
        if found is not None:
            return found
    if any(entry.is_dir() for entry in path.iterdir()):
        return folders.Folder(text)
    there = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(printable(name) for name in there[:5]) + (", ..." if len(there) > 5 else "")
    raise Refusal(f"{text} holds {shown or 'nothing'}; {UNDERSTOOD}")
