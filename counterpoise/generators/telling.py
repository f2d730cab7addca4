"""What a row may be told by while a text-to-image model learns: one of several sentences about its class, or its own caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from counterpoise.nets.tokens import Tokens


@dataclass(frozen=True)
class Texts:
    """Sentences and captions as tokens; `own` is the number of a row's caption, or -1."""

    sentences: Tensor  # (sentences, classes, length)
    label: Tensor  # (n,)
    captions: Tensor  # (captions, length)
    own: Tensor  # (n,)
    captioned: float  # the share of its views in which a row that has a caption hears it

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        asked: Sequence[Sequence[str]],  # every sentence of every class
        labels: np.ndarray,
        captions: Sequence[str | None],
        captioned: float,
    ) -> Texts:
        """A caption follows the first sentence: the class is named whatever else is, and read where not all is."""
        own = np.full(len(labels), -1)
        rows = [row for row, caption in enumerate(captions) if caption is not None]
        own[rows] = np.arange(len(rows))
        sentences = torch.stack([tokens(each).input_ids for each in asked])
        behind = [f"{asked[0][labels[row]]}, {captions[row]}" for row in rows]
        found = tokens.cut(behind) if behind else sentences[0, :0]
        return cls(sentences, torch.from_numpy(labels), found, torch.from_numpy(own), captioned)

    def __call__(self, rows: np.ndarray, rng: torch.Generator) -> Tensor:
        """One text for each row: (b,) => (b, length)."""
        picked = torch.from_numpy(rows)
        sentence = torch.randint(len(self.sentences), (len(rows),), generator=rng)
        hears = (torch.rand(len(rows), generator=rng) < self.captioned) & (self.own[picked] >= 0)
        texts = self.sentences[sentence, self.label[picked]]
        texts[hears] = self.captions[self.own[picked[hears]]]
        return texts
