"""How a text-to-image model of others learns the classes of a study: words of their own, adapters, and the rows it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.diffusion.training import Material
from counterpoise.generators.generator import Lesson
from counterpoise.nets.lora import Place, merged, put_adapters
from counterpoise.nets.prompted import Inverted, Spoken, TextToImage
from counterpoise.nets.stable_diffusion import Base
from counterpoise.nets.tokens import Tokens
from counterpoise.nets.words import said
from counterpoise.spaces.latents import Latents
from counterpoise.types import Refusal, part

ENCODED = 256  # rows at once


@part
class Adapt:
    """What of a text-to-image model is learnt, and from which rows.

    `kind` "lora" puts adapters of `rank` beside its layers in `places`, "full" trains the whole U-Net, "words" nothing of it.
    Each class is `words` words of its own, which begin as the mean of its name's; with none it is its name. Of the rows
    seen, `balanced` are drawn as if all classes were equally large, the others as they are; `flip` mirrors half of them.
    `min_snr` is the gamma of Min-SNR weighting; without it all errors cost the same.
    """

    kind: Literal["lora", "full", "words"] = "lora"
    rank: Annotated[int, Field(ge=1)] = 8
    places: tuple[Place, ...] = ("attention",)
    words: Annotated[int, Field(ge=0)] = 1
    balanced: Annotated[float, Field(ge=0, le=1)] = 1.0
    flip: bool = False
    min_snr: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.kind == "words" and not self.words:
            raise Refusal(
                "Adapt: there is nothing to learn with kind 'words' and 0 words: give each class a word"
            )
        if self.kind == "lora" and not self.places:
            raise Refusal("Adapt: adapters need layers to lie beside, and places is empty: name 'attention'")

    def network(self, base: Base, prompt: str, classes: Sequence[str], seed: int) -> TextToImage:
        heard = self._prompts(base, prompt, classes)
        if self.kind == "lora":
            unet = base.unet()
            return TextToImage(unet, heard, put_adapters(unet, self.rank, self.places, seed))
        unet = base.frozen_unet
        return TextToImage(unet, heard, dict(unet.named_parameters()) if self.kind == "full" else {})

    def to_sample(self, base: Base, net: TextToImage) -> TextToImage:
        """The same network without layers beside its layers, which are a third of the time that samples take."""
        if self.kind != "lora":
            return net
        return TextToImage(base.frozen_unet, net.prompts, merged(base.frozen_unet, net.weights))

    def asked(self, tokens: Tokens, prompt: str, classes: Sequence[str]) -> list[str]:
        """The prompts of the classes, of which those that are not read to the end of the class are refused.

        Words of their own are added to the tokens.
        """
        if not self.words:
            return tokens.prompts(prompt, classes)
        own = [[f"<class{c}-{word}>" for word in range(self.words)] for c in range(len(classes))]
        tokens.add([word for words in own for word in words])
        return tokens.prompts(prompt, [" ".join(words) for words in own], classes)

    def _prompts(self, base: Base, prompt: str, classes: Sequence[str]) -> nn.Module:
        if not self.words:
            return spoken(base, prompt, classes)
        reader = base.reader()
        # Before there are new words: a class may be called as one of them is.
        meanings = torch.stack([reader.meaning(said(name)) for name in classes])
        first = reader.tokens.known
        asked = self.asked(reader.tokens, prompt, classes)
        tokens = reader.tokens([*asked, ""]).input_ids
        return Inverted(reader.tower, tokens, first, meanings.repeat_interleave(self.words, 0))

    def material(self, lesson: Lesson, space: Latents) -> Material:
        """Every row is encoded once; `draw` makes x of what `Material.rows` gives (b, views, 2, c, h, w)."""
        order = balanced(lesson.labels, self.balanced)
        slices = np.array_split(np.arange(len(lesson.rows)), -(-len(lesson.rows) // ENCODED))
        known = torch.cat([self._views(lesson.rows.raw(picked), space) for picked in slices])
        return Material(
            lambda picked: known[torch.from_numpy(order[picked])].float(),
            lesson.labels[order],
            len(lesson.classes),
        )

    def _views(self, rows: np.ndarray, space: Latents) -> Tensor:
        """(n, views, 2, c, h, w): mean and deviation of the latents of each row, as it is and mirrored."""
        views = [
            torch.stack(space.posterior(rows, mirrored), 1)
            for mirrored in ((False, True) if self.flip else (False,))
        ]
        return torch.stack(views, 1).half()  # far finer than the deviations


def draw(x: Tensor, rng: torch.Generator) -> tuple[Tensor, None]:
    """One view of each row, and one of the latents that it may have: (b, views, 2, c, h, w) => (b, c, h, w)."""
    view = torch.randint(x.shape[1], (len(x),), generator=rng)
    mean, deviation = x[torch.arange(len(x)), view].unbind(1)
    return mean + deviation * torch.randn(mean.shape, generator=rng), None


def balanced(labels: np.ndarray, share: float) -> np.ndarray:
    """Numbers of rows, some of them many times: one pass, of which `share` sees all classes equally often.

    There classes take turns, and the rows of each do; the rest are all rows alike, as often as it takes.
    """
    if share == 0:
        return np.arange(len(labels))
    by_class, counts = np.argsort(labels, kind="stable"), np.bincount(labels)
    first, present = counts.cumsum() - counts, np.flatnonzero(counts)
    length = len(labels) + len(present) * counts.max()  # so long that no row is left out, whatever the share
    turn = np.arange(round(length * share))
    label, round_ = present[turn % len(present)], turn // len(present)
    plain = np.arange(length - len(turn))
    return by_class[
        np.concatenate([first[label] + round_ % counts[label], plain * len(labels) // max(1, len(plain))])
    ]


def spoken(base: Base, prompt: str, classes: Sequence[str]) -> Spoken:
    """Classes by their names alone."""
    reader = base.reader()
    asked = reader.tokens.prompts(prompt, classes)
    return Spoken(reader.encoded(reader.tokens([*asked, ""]).input_ids))
