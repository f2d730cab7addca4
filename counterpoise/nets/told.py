"""What a network is told of texts, and how it is asked: one small class for each family of text-to-image models.

Network time is as the parametrisation has it: a step of a discrete schedule, or t in [0, 1] of a flow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

TEXTS = 64  # encoded at once
FLOW_STEPS = 1000  # a network of a flow is told t in thousandths


@dataclass(frozen=True)
class Told:
    """Texts, one a row, for a U-Net that attends to their words (Rombach et al. 2022)."""

    words: Tensor  # (texts, tokens, width)
    image: Tensor | None = field(
        default=None, kw_only=True
    )  # (texts, d) of a picture beside each, if it sees

    def ask(self, net: Callable[..., Any], x: Tensor, time: Tensor) -> Tensor:
        """(b, c, h, w), (b,) => what the network predicts, told row i of these texts of row i."""
        more = {"added_cond_kwargs": self.seen} if self.seen else {}
        return net(x, time, self.words, **more, return_dict=False)[0]

    @property
    def seen(self) -> dict[str, Tensor]:
        """As U-Nets with an adapter for pictures are told."""
        return {} if self.image is None else {"image_embeds": self.image}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, a row for each text."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return dataclasses.replace(self, **{name: change(value) for name, value in self.tensors.items()})

    def __getitem__(self, texts: Any) -> Self:
        return self.each(lambda value: value[texts])

    def __len__(self) -> int:
        return len(self.words)


def one_behind_the_other(several: Sequence[Told]) -> Told:
    """All their texts, of one family, together."""
    joined = {name: torch.cat([one.tensors[name] for one in several]) for name in several[0].tensors}
    return dataclasses.replace(several[0], **joined)


@dataclass(frozen=True)
class ToldPicture(Told):
    """For unCLIP, whose U-Net hears of a picture where others hear of a class."""

    def ask(self, net: Callable[..., Any], x: Tensor, time: Tensor) -> Tensor:
        return net(x, time, self.words, class_labels=self.image, return_dict=False)[0]


@dataclass(frozen=True)
class ToldWhole(Told):
    """The same, and each text as a whole."""

    whole: Tensor  # (texts, width)


@dataclass(frozen=True)
class ToldSize(ToldWhole):
    """For SDXL, which is told of the picture it learnt from how large it was and where it was cut (Podell et al. 2024, Section 2.2)."""

    pixels: int

    def ask(self, net: Callable[..., Any], x: Tensor, time: Tensor) -> Tensor:
        size = (self.pixels, self.pixels)
        sizes = x.new_tensor([*size, 0, 0, *size]).expand(len(x), -1)  # whole, never cut, as large as it is
        more = {"text_embeds": self.whole, "time_ids": sizes} | self.seen
        return net(x, time, self.words, added_cond_kwargs=more, return_dict=False)[0]


@dataclass(frozen=True)
class ToldJoint(ToldWhole):
    """For SD3, a transformer whose pictures and words attend to one another (Esser et al. 2024)."""

    def ask(self, net: Callable[..., Any], x: Tensor, time: Tensor) -> Tensor:
        return net(
            hidden_states=x,
            timestep=FLOW_STEPS * time,
            encoder_hidden_states=self.words,
            pooled_projections=self.whole,
            return_dict=False,
        )[0]


@dataclass(frozen=True)
class ToldPacked(ToldWhole):
    """For FLUX, whose transformer sees four latents as one, and may be told how strongly to follow the text."""

    guidance: float | None

    def ask(self, net: Callable[..., Any], x: Tensor, time: Tensor) -> Tensor:
        b, c, h, w = x.shape
        patches = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)  # (b, h/2, w/2, c, 2, 2)
        rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).to(x)
        found = net(
            hidden_states=patches.reshape(b, h // 2 * (w // 2), c * 4),
            timestep=time,  # it counts thousandths itself
            guidance=None if self.guidance is None else torch.full_like(time, self.guidance),
            encoder_hidden_states=self.words,
            pooled_projections=self.whole,
            txt_ids=x.new_zeros(self.words.shape[1], 3),
            img_ids=places,
            return_dict=False,
        )[0]
        return found.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
