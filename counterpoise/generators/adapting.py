"""How a text-to-image model of others learns the classes of a study: words of their own, adapters, and the rows it sees."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.diffusion.batches import Material
from counterpoise.diffusion.stopping import EarlyStop
from counterpoise.generators.exemplars import Exemplars
from counterpoise.generators.generator import Lesson
from counterpoise.generators.prior import Known
from counterpoise.generators.telling import Texts
from counterpoise.nets.lora import Place, merged, put_adapters, put_text_adapters
from counterpoise.nets.prompted import Inverted, Read, Spoken, TextToImage
from counterpoise.nets.stable_diffusion import Base, open_tokens
from counterpoise.nets.tokens import Tokens
from counterpoise.nets.told import Told
from counterpoise.nets.words import prompts, said
from counterpoise.spaces.latents import Latents
from counterpoise.types import Refusal, part

ENCODED = 256  # rows at once


@part
class Adapt:
    """What of a text-to-image model is learnt, and from which rows.

    `kind` "lora" puts adapters of `rank` beside its layers in `places`, "full" trains the whole U-Net, "words" nothing of it.
    The place "text" is the attention of the CLIPs that read prompts, the others are in the U-Net.
    Each class is `words` words of its own, which begin as the mean of its name's; with none it is its name. Of the rows
    seen, `balanced` are drawn as if all classes were equally large, the others as they are; `flip` mirrors half of them.
    `min_snr` is the gamma of Min-SNR weighting; without it all errors cost the same.

    Words are learnt from the prompt and the `templates`, one of them drawn for each view (`nets.words.SENTENCES` are some), so
    that they learn the class and not a sentence. Of the rows that have a caption, the share `captioned` hears it behind the
    prompt: what it says need not be learnt as the class. `stop` ends the learning early.

    The share `prior` of what is seen are no rows, but pictures that the model made for the class names before it learnt,
    and that it hears the names with, so that it keeps what it knew of them (`generators.prior`).
    """

    kind: Literal["lora", "full", "words"] = "lora"
    rank: Annotated[int, Field(ge=1)] = 8
    places: tuple[Place, ...] = ("attention",)
    words: Annotated[int, Field(ge=0)] = 1
    balanced: Annotated[float, Field(ge=0, le=1)] = 1.0
    flip: bool = False
    min_snr: Annotated[float, Field(gt=0)] | None = None
    templates: tuple[str, ...] = ()
    captioned: Annotated[float, Field(ge=0, le=1)] = 0.0
    prior: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        if self.kind == "words" and not self.words:
            raise Refusal(
                "Adapt: there is nothing to learn with kind 'words' and 0 words: give each class a word"
            )
        if self.kind == "lora" and not self.places:
            raise Refusal("Adapt: adapters need layers to lie beside, and places is empty: name 'attention'")
        if self.prior and not self.words:
            raise Refusal(
                "Adapt: prior keeps what a class name meant, and with 0 words it is the name that is learnt: give each class a "
                "word, or leave prior at 0"
            )
        if self.varies and not (self.words or self.reads):
            raise Refusal(
                "Adapt: words are learnt from templates and captions, and there are 0 words: give each class a word, "
                "or name 'text' among places"
            )
        for template in self.templates:
            prompts(template, ["class"])  # refuses one that names no class

    @property
    def varies(self) -> bool:
        """Whether rows of one class hear more than one text."""
        return bool(self.templates or self.captioned or self.prior)

    @property
    def reads(self) -> bool:
        """Whether it learns how to read."""
        return self.kind == "lora" and "text" in self.places

    def network(self, base: Base, prompt: str, classes: Sequence[str], seed: int) -> TextToImage:
        heard = self._prompts(base, prompt, classes, seed)
        beside = [place for place in self.places if place != "text"]
        if self.kind == "lora" and beside:
            unet = base.unet()
            return TextToImage(unet, heard, put_adapters(unet, self.rank, beside, seed), base.seen)
        unet = base.frozen_unet
        learnt = dict(unet.named_parameters()) if self.kind == "full" else {}
        return TextToImage(unet, heard, learnt, base.seen)

    def to_sample(self, base: Base, net: TextToImage) -> TextToImage:
        """The same network without layers beside its layers, which are a third of the time that samples take."""
        if self.kind != "lora":
            return net
        return TextToImage(base.frozen_unet, net.prompts, merged(base.frozen_unet, net.weights), base.seen)

    def own_words(self, classes: int) -> list[list[str]]:
        return [[f"<class{c}-{word}>" for word in range(self.words)] for c in range(classes)]

    def names(self, tokens: Tokens, classes: Sequence[str]) -> Sequence[str]:
        """What is said of each class: its name, or words of its own, which are added to the tokens."""
        if not self.words:
            return classes
        own = self.own_words(len(classes))
        tokens.add([word for words in own for word in words])
        return [" ".join(words) for words in own]

    def asked(self, tokens: Tokens, prompt: str, classes: Sequence[str]) -> list[str]:
        """The prompts of the classes, of which those that are not read to the end of the class are refused.

        Words of their own are added to the tokens.
        """
        return self._asked(tokens, prompt, classes)[0][: len(classes)]

    def _asked(self, tokens: Tokens, prompt: str, classes: Sequence[str]) -> list[list[str]]:
        """The same, and behind it those of each template; with a prior each has the plain prompts behind its own."""
        plain = tokens.prompts(prompt, classes) if self.prior else []
        names = self.names(tokens, classes)
        return [[*tokens.prompts(template, names, classes), *plain] for template in (prompt, *self.templates)]

    def _prompts(self, base: Base, prompt: str, classes: Sequence[str], seed: int) -> nn.Module:
        if not (self.words or self.reads):
            return spoken(base, prompt, classes)
        reader = base.reader()
        # Before there are new words: a class may be called as one of them is.
        meanings = [reader.meaning(said(name)) for name in classes for _ in range(self.words)]
        first = reader.tokens.known
        asked = self.asked(reader.tokens, prompt, classes)
        tokens = reader.tokens([*asked, ""]).input_ids
        learnt = put_text_adapters(reader.tower, tokens[-1:], self.rank, seed) if self.reads else {}
        if not self.words:
            return Read(reader.tower, tokens, learnt)
        return Inverted(reader.tower, tokens, first, torch.stack(meanings), learnt)

    def material(
        self,
        lesson: Lesson,
        space: Latents,
        base: Base,
        prompt: str,
        images: Exemplars | None = None,
        prior: Known | None = None,
    ) -> Material:
        """Every row is encoded once; `draw` makes x of what `Material.rows` gives (b, views, 2, c, h, w)."""
        slices = np.array_split(np.arange(len(lesson.rows)), -(-len(lesson.rows) // ENCODED))
        known = torch.cat([self._views(lesson.rows.raw(picked), space) for picked in slices])
        labels = lesson.labels
        if prior is not None:
            known = torch.cat([known, self._still(prior.x)])
            labels = np.concatenate([labels, prior.labels])
        texts = self._texts(lesson, base, prompt, labels) if self.varies else None
        seen = None if images is None else images.of(base, lesson.rows)

        def told(order: np.ndarray) -> Material:
            return Material(
                lambda picked: known[torch.from_numpy(order[picked])].float(),
                labels[order],
                len(lesson.classes),
                texts=None if texts is None else lambda picked, rng: texts(order[picked], rng),
                images=None if seen is None else lambda picked, rng: seen(order[picked], rng),
            )

        aside = np.zeros(len(lesson.rows), bool) if self.stop is None else self.stop.aside(lesson.labels)
        rows, spared = np.flatnonzero(~aside), np.flatnonzero(aside)
        order = rows[balanced(lesson.labels[rows], self.balanced)]
        if prior is not None:
            order = mixed(order, len(lesson.labels) + balanced(prior.labels, 1.0), self.prior)
        shown = told(order)
        if not len(spared):  # all classes are too small to spare a row
            return shown
        last = told(spared[balanced(lesson.labels[spared], 1.0)])
        return dataclasses.replace(shown, aside=last, stop=self.stop)

    def _texts(self, lesson: Lesson, base: Base, prompt: str, labels: np.ndarray) -> Texts:
        """Of what is not in the lesson, the plain prompts are said, which are behind those of the classes."""
        tokens = open_tokens(base)
        asked = self._asked(tokens, prompt, lesson.classes)
        column = labels + len(lesson.classes) * (np.arange(len(labels)) >= len(lesson.labels))
        captions = lesson.captions or [] if self.captioned else []
        return Texts.of(tokens, asked, column, captions, self.captioned)

    def _still(self, x: Tensor) -> Tensor:
        """Latents as views that are all alike: (n, c, h, w) => (n, views, 2, c, h, w)."""
        return (
            torch.stack([x, torch.zeros_like(x)], 1)[:, None].expand(-1, 1 + self.flip, -1, -1, -1, -1).half()
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


def mixed(rows: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """One pass, of which `share` are the others, and so long that none of them is left out."""
    each = share / (1 - share) * len(rows)  # others that belong to one pass over the rows
    times = math.ceil(len(others) / each)
    return np.concatenate([np.tile(rows, times), others[np.arange(round(times * each)) % len(others)]])


def spoken(base: Base, prompt: str, classes: Sequence[str]) -> Spoken:
    """Classes by their names alone."""
    reader = base.reader()
    asked = reader.tokens.prompts(prompt, classes)
    return Spoken(reader.encoded(reader.tokens([*asked, ""]).input_ids), read_later(base))


def read_later(base: Base) -> Callable[[Tensor], Told]:
    """Reads texts with towers that are opened when the first of them comes, for most models never hear any.

    They are on the chip only while they read: a T5 takes as much room as the network.
    """
    opened = cache(base.reader)

    def read(tokens: Tensor) -> Told:
        reader = opened()
        with torch.autocast(tokens.device.type, enabled=False):  # as the prompts of classes are read
            reader.tower.to(tokens.device)
            told = reader.encoded(tokens)
            reader.tower.to("cpu")
        return told

    return read
