"""Text towers that read the same texts, and what each family of text-to-image models makes of what they read.

The towers are other people's, opened elsewhere. A text is one row of tokens, those for each tower behind one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.tokens import Tokens
from counterpoise.nets.told import Told, ToldJoint, ToldPacked, ToldPicture, ToldSize


class Towers(nn.Module):
    """The towers of Stable Diffusion 1 and 2: one CLIP, of which the last layer is read."""

    def __init__(self, towers: Sequence[nn.Module], tokens: Tokens) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        self.lengths = [one.length for one in tokens.each]
        self.ends = [one.tokenizer.eos_token_id for one in tokens.each]

    @property
    def vocabularies(self) -> list[nn.Embedding]:
        """What each tower knows of tokens."""
        return [tower.get_input_embeddings() for tower in self.towers]  # type: ignore[operator]

    def forward(self, tokens: Tensor) -> Told:  # (texts, all lengths)
        return Told(self.towers[0](tokens).last_hidden_state)

    def _clips(self, tokens: Tensor, several: int) -> tuple[list[Any], list[Tensor]]:
        """What the first `several` towers, CLIPs, find in their tokens, and what stands where each text ends (texts, width).

        Transformers looks for the largest token there, where a config is old, and words that are learnt are larger.
        """
        ids = tokens.split(self.lengths, 1)[:several]
        found = [
            tower(some, output_hidden_states=True) for tower, some in zip(self.towers, ids, strict=False)
        ]
        ends = [(some == end).int().argmax(1) for some, end in zip(ids, self.ends, strict=False)]
        at = torch.arange(len(tokens), device=tokens.device)
        return found, [one.last_hidden_state[at, end] for one, end in zip(found, ends, strict=True)]


class SeeingTowers(Towers):
    """The same for unCLIP."""

    def forward(self, tokens: Tensor) -> ToldPicture:
        return ToldPicture(super().forward(tokens).words)


class XLTowers(Towers):
    """Two CLIPs, of which the last layer but one is read, and the second is asked for the text as a whole."""

    def __init__(self, towers: Sequence[nn.Module], tokens: Tokens, pixels: int, silent: bool) -> None:
        super().__init__(towers, tokens)
        self.pixels, self.silent = pixels, silent  # silent: to say nothing is zeros, not the empty text

    def forward(self, tokens: Tensor) -> ToldSize:
        found, ends = self._clips(tokens, 2)
        words = torch.cat([one.hidden_states[-2] for one in found], -1)
        told = ToldSize(words, _projected(self.towers[1], ends[1]), self.pixels)
        if not self.silent:
            return told
        said = tokens[:, 1] != self.ends[0]  # something, between where it begins and where it ends
        return told.each(lambda value: value * said.reshape(-1, *[1] * (value.ndim - 1)))


class JointTowers(Towers):
    """Two CLIPs side by side and a T5 behind them, which may be missing: then zeros stand in its place."""

    def __init__(self, towers: Sequence[nn.Module], tokens: Tokens, width: int, length: int) -> None:
        super().__init__(towers, tokens)
        self.width, self.length = width, length  # of what T5 says

    def forward(self, tokens: Tensor) -> ToldJoint:
        found, ends = self._clips(tokens, 2)
        clips = torch.cat([one.hidden_states[-2] for one in found], -1)
        clips = F.pad(clips, (0, self.width - clips.shape[-1]))
        if len(self.towers) == 3:
            more = self.towers[2](tokens[:, -self.lengths[2] :]).last_hidden_state
        else:
            more = clips.new_zeros(len(tokens), self.length, self.width)
        whole = [_projected(tower, end) for tower, end in zip(self.towers, ends, strict=False)]
        return ToldJoint(torch.cat([clips, more.to(clips)], 1), torch.cat(whole, -1))


class PackedTowers(Towers):
    """A CLIP for the text as a whole, a T5 for its words."""

    def __init__(self, towers: Sequence[nn.Module], tokens: Tokens, guidance: float | None) -> None:
        super().__init__(towers, tokens)
        self.guidance = guidance

    def forward(self, tokens: Tensor) -> ToldPacked:
        _, (whole,) = self._clips(tokens, 1)
        words = self.towers[1](tokens[:, -self.lengths[1] :]).last_hidden_state
        return ToldPacked(words, whole, self.guidance)


def _projected(tower: nn.Module, end: Tensor) -> Tensor:
    return tower.text_projection(end)  # type: ignore[operator]
