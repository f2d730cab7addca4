"""What rows of a plan are told by a text-to-image model: each the sentence in its row, said of its class.

A sentence is a template (`nets.words.prompts`), so that one plan serves models that know a class by its name, and those
that have learnt words for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from counterpoise.generators.generator import TEXT, Failed, Row, Sampler
from counterpoise.nets.tokens import Tokens
from counterpoise.types import Refusal


@dataclass(frozen=True)
class Sentences:
    """A model's tokens, what it calls the classes, and the prompt of rows that have none of their own."""

    tokens: Tokens
    prompt: str
    names: Sequence[str]
    classes: Sequence[str]

    def said(self, row: Row) -> str | Failed:
        """Where it is not read to its end, a row would be told of no class: it fails, and the others are made."""
        label, template = row["label"], row.get("prompt") or self.prompt
        try:
            (text,) = self.tokens.prompts(template, [self.names[label]], [self.classes[label]])
        except Refusal as refused:
            return Failed(str(refused))
        return text


def telling(sample: Sampler, opened: Callable[[], Sentences]) -> Sampler:
    """The same sampler, whose rows are told their prompts; as long as no row has one, sentences are not opened."""
    once = cache(opened)

    def told(rows: Sequence[Row]) -> list[np.ndarray | Failed]:
        if not any(row.get("prompt") for row in rows):
            return sample(rows)
        sentences = once()
        found = [sentences.said(row) for row in rows]
        able = [row for row, text in zip(rows, found, strict=True) if isinstance(text, str)]
        if not able:
            return [text for text in found if isinstance(text, Failed)]
        tokens = sentences.tokens.cut([text for text in found if isinstance(text, str)])
        made = iter(sample([row | {TEXT: ids} for row, ids in zip(able, tokens, strict=True)]))
        return [text if isinstance(text, Failed) else next(made) for text in found]

    return told
