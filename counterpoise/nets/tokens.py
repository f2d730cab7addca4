"""Texts as tokens: which files a tokenizer is made of, how many of its tokens a model reads, and that no two texts become one.

Tokenizers themselves are opened by those who know their classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from counterpoise.nets.words import PLACES, prompts
from counterpoise.types import Refusal

#: Any one of these sets of files is a tokenizer; the first two are what CLIP's may be. Without one, transformers makes
#: an empty tokenizer and says nothing.
VOCABULARIES = (
    ["tokenizer.json"],
    ["vocab.json", "merges.txt"],
    ["spiece.model"],
    ["tokenizer.model"],
    ["vocab.txt"],
)
FILES = [
    *(file for files in VOCABULARIES for file in files),
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
]


def has_vocabulary(folder: Path, kinds: Sequence[list[str]] = VOCABULARIES) -> bool:
    return any(all((folder / file).is_file() for file in files) for files in kinds)


@dataclass(frozen=True)
class Tokens:
    """What a model makes of texts before it reads them."""

    name: str  # of the model
    tokenizer: Any
    length: int  # so many tokens are read of a text

    def __call__(self, texts: Sequence[str]) -> Any:
        """All of the same length, as SigLIP wants them and others do not mind; longer ones are cut, and told."""
        if long := [text for text in texts if self._count(text) > self.length]:
            warnings.warn(
                f"{len(long)} texts are longer than the {self.length} tokens that this model reads, and are cut: {long[0]!r}",
                stacklevel=3,
            )
        found = self._read(texts)
        seen: dict[tuple[int, ...], str] = {}
        for text, ids in zip(texts, map(tuple, found.input_ids.tolist()), strict=True):
            if seen.setdefault(ids, text) != text:
                raise Refusal(
                    f"{self.name} reads {seen[ids]!r} and {text!r} alike, for it reads {self.length} tokens of a text: shorten "
                    "or rename one, or name another model"
                )
        return found

    def cut(self, texts: Sequence[str]) -> Tensor:
        """As much of each text as is read (texts, length), be it as much as of another one."""
        return self._read(texts).input_ids

    def _read(self, texts: Sequence[str]) -> Any:
        return self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )

    @property
    def each(self) -> tuple[Tokens, ...]:
        """Those for each tower that reads them."""
        return (self,)

    @property
    def known(self) -> int:
        """Tokens: new ones count up from here."""
        return len(self.tokenizer)

    def add(self, words: Sequence[str]) -> None:
        """Words that are kept whole from now on."""
        if self.tokenizer.add_tokens(list(words)) != len(words):
            raise Refusal(
                f"{self.name} has words of this package's in its tokenizer already ({words[0]} ...): adapt the model that it was "
                "made from"
            )

    def prompts(self, template: str, names: Sequence[str], classes: Sequence[str] | None = None) -> list[str]:
        """The template said of every name; where one is not read to its end, the class that it stands for is refused."""
        place = PLACES.search(template)
        assert place is not None, "a template that says nothing of the class is refused when it is set"
        for name, text in zip(classes or names, prompts(template[: place.end()], names), strict=True):
            if (count := self._count(text)) > self.length:
                raise Refusal(
                    f"{self.name} reads {self.length} tokens of a prompt, and up to the end of class {name!r} there are {count}: "
                    "shorten the name or the prompt, or give each class fewer words"
                )
        return prompts(template, names)

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])


@dataclass(frozen=True)
class SideBySide(Tokens):
    """The same texts for several towers: `input_ids` (texts, all lengths) are the tokens of each, one behind the other.

    Tokenizers know different numbers of tokens; words that are added have the same numbers for all, beyond any of them.
    """

    others: tuple[Tokens, ...] = ()

    @property
    def each(self) -> tuple[Tokens, ...]:
        return (Tokens(self.name, self.tokenizer, self.length), *self.others)

    def __call__(self, texts: Sequence[str]) -> Any:
        return SimpleNamespace(input_ids=self._beside([one(texts).input_ids for one in self.each]))

    def cut(self, texts: Sequence[str]) -> Tensor:
        return self._beside([one.cut(texts) for one in self.each])

    def _beside(self, each: Sequence[Tensor]) -> Tensor:
        found = [
            torch.where(ids < first, ids, ids - first + self.known)
            for ids, first in zip(each, self._first, strict=True)
        ]
        return torch.cat(found, 1)

    @property
    def known(self) -> int:
        return max(self._first)

    @cached_property
    def _first(self) -> list[int]:
        """The number that each has for the first word that is added."""
        return [one.known for one in self.each]

    def add(self, words: Sequence[str]) -> None:
        assert self._first, "known before there are more"
        for one in self.each:
            one.add(words)

    def prompts(self, template: str, names: Sequence[str], classes: Sequence[str] | None = None) -> list[str]:
        (found, *_) = [one.prompts(template, names, classes) for one in self.each]
        return found
