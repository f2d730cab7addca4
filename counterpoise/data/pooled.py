"""A source with a pool beside it: pictures of the user's own of which nobody says what they show.

Whatever the pool is, of its rows only the pictures get through: labels, groups, splits and captions end here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise import tables
from counterpoise.data.embedded import find_parquet
from counterpoise.data.folders import Loose
from counterpoise.data.packed import find_cifar
from counterpoise.data.sources import Item, Source, open_source, printable, row_id
from counterpoise.types import Refusal, part

POOLED = "pool://"  # begins the uri of a row of the pool; no source has two slashes in one
POOL = "pool"  # the split


@part
class WithPool:
    """The rows of `source` as they are, and behind them those of `pool`, any other source, with the split "pool".

    A picture that both list is refused: it would be labelled and unlabelled at once. Copies of it are for the audit to find.
    """

    source: Any
    pool: Any

    def listing(self) -> pa.Table:
        ours, theirs = self.source.listing(), self.pool.listing()
        told, pooled = tables.meta(ours), tables.meta(theirs)
        if not len(theirs):
            first = next((f"; the first of its problems: {bad['reason']}" for bad in pooled["problems"]), "")
            raise Refusal(
                f"the pool {_base(self.pool)} lists no picture{first}: name a folder of pictures with --pool"
            )
        if twice := _places(self.source, ours) & _places(self.pool, theirs):
            raise Refusal(
                f"{len(twice)} pictures are both in the data and in the pool, the first {printable(min(twice))}: name a --pool "
                "that lies beside the data and not in or around them"
            )
        uris = [POOLED + uri for uri in theirs["uri"].to_pylist()]
        columns = {"id": [row_id(uri) for uri in uris], "uri": uris, "split": [POOL] * len(uris)}
        return tables.with_meta(
            pa.concat_tables([ours, tables.table(tables.LISTING, columns)]),
            told
            | {
                "problems": told["problems"] + [_renamed(bad) for bad in pooled["problems"]],
                "notes": told["notes"] + [f"pool: {note}" for note in pooled["notes"] + _unread(theirs)],
            },
        )

    def read(self, rows: pa.Table) -> Iterator[Item]:
        start = 0
        for pooled, run in groupby(rows["uri"].to_pylist(), lambda uri: uri.startswith(POOLED)):
            found = rows.slice(start, len(list(run)))
            start += len(found)
            yield from self.pool.read(_own(found)) if pooled else self.source.read(found)

    def state(self) -> str:
        return f"{self.source.state()} {POOLED}{self.pool.state()}"


def open_pool(text: str) -> Source:
    """What a user means by a pool: all pictures below a folder, or another source, whose labels are not read."""
    path = Path(text)
    if path.is_dir():
        return find_cifar(path) or find_parquet(path) or Loose(text)
    if not path.exists() and text != "digits" and not text.startswith("hub:"):
        raise Refusal(
            f"a pool is a folder of pictures (at any depth), another source, or a number of images to put aside, found {text!r}, "
            "which is none of them: name one that is there"
        )
    return open_source(text)


def _own(rows: pa.Table) -> pa.Table:
    """Rows of the pool as its own source calls them."""
    return rows.set_column(
        rows.schema.get_field_index("uri"), "uri", pc.utf8_slice_codeunits(rows["uri"], len(POOLED))
    )


def _renamed(problem: dict[str, str]) -> dict[str, str]:
    return problem | {"uri": POOLED + problem["uri"]}


def _unread(listing: pa.Table) -> list[str]:
    """What of a pool looks as if it said something."""
    labelled = len(listing) - listing["label"].null_count
    if labelled:
        return [f"the labels of {labelled} of its {len(listing)} pictures are not read"]
    folders = sorted({uri.split("/")[0] for uri in listing["uri"].to_pylist() if "/" in uri})
    shown = ", ".join(map(repr, folders[:5])) + (", ..." if len(folders) > 5 else "")
    return [f"its {len(folders)} folders ({shown}) are not read as labels"] if folders else []


def _places(source: Source, listing: pa.Table) -> set[str]:
    """Where each of its rows lies, for whoever else may list it."""
    base = _base(source)
    return {os.path.join(base, uri) for uri in listing["uri"].to_pylist()}


def _base(source: Source) -> str:
    """Where the uris of a source begin: a folder, or, of what lies in none, its description."""
    place = getattr(source, "root", None) or getattr(source, "file", None)
    if place is None:
        return repr(source)
    path = os.path.realpath(place)
    return path if os.path.isdir(path) else os.path.dirname(path)
