"""Class names and nothing else: a study that begins without a picture."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from counterpoise.data.sources import Item, make_listing
from counterpoise.types import Refusal, part


@part
class Names:
    """The classes, in this order; there is no row of any."""

    names: Annotated[tuple[str, ...], Field(min_length=2)]

    def __post_init__(self) -> None:
        twice = [name for name, times in Counter(self.names).items() if times > 1]
        if twice:
            raise Refusal(
                f"class names must differ, and {twice[0]!r} is there {self.names.count(twice[0])} times"
            )

    def listing(self) -> pa.Table:
        note = "there is no picture: samples can be made, and nothing can be proven"
        return make_listing([], notes=[note], classes=self.names)

    def read(self, rows: pa.Table) -> Iterator[Item]:
        return iter(())

    def state(self) -> str:
        return hashlib.blake2b("\n".join(self.names).encode(), digest_size=8).hexdigest()


def names_in(file: Path) -> Names:
    """A text file with a class on every line; empty lines and what comes behind a # say nothing."""
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise Refusal(
            f"{file} is no UTF-8 text: class names are read from a text file, one on every line"
        ) from None
    return named([line.partition("#")[0].strip() for line in text.splitlines()], str(file))


def named(names: Sequence[str], where: str) -> Names:
    """
    >>> named(["cat", "", "dog"], "here")
    Names(names=('cat', 'dog'))
    """
    said = tuple(name.strip() for name in names if name.strip())
    if len(said) < 2:
        raise Refusal(f"a classifier needs at least two class names, and {where} has {len(said)}")
    return Names(said)
