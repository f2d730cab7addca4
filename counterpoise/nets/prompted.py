"""A text-to-image network over labels: every class is a prompt, and "of no class" is the empty one.

A row may be told a text of its own instead, as tokens. All steps of a sampler ask for the same texts, which are read once.

The network and the text towers are other people's and stand still. What is learnt, if anything, are weights of this module
that stand in for those of the same name in them, so that copies, states and files hold what is learnt and no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from counterpoise.nets.conditioning import Asked
from counterpoise.nets.text_towers import Towers
from counterpoise.nets.told import TEXTS, Told, one_behind_the_other


class Frozen:
    """A network that is no part of the one that uses it: not among its weights, and one for all of its copies."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self

    def __call__(self, weights: Mapping[str, Tensor], *args: Any, **more: Any) -> Any:
        """What it makes of its input where these weights stand in for its own."""
        return functional_call(self.net, dict(weights), args, more)


class Uses(nn.Module):
    """A module around a frozen network, which moves to another device with it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.frozen = Frozen(net)

    def _apply(self, fn: Any, recurse: bool = True) -> Uses:
        self.frozen.net._apply(fn)
        return super()._apply(fn, recurse)


class LastRead:
    """What reads texts (texts, lengths), and what it made of those that it was asked for last."""

    def __init__(self, read: Callable[[Tensor], Told]) -> None:
        self.read = read
        self.before: tuple[Tensor, object, Told] | None = None

    def __call__(self, tokens: Tensor, state: object = None) -> Told:
        """`state` is what decides beside the tokens how they are read."""
        if self.before is not None:
            known, then, told = self.before
            if known.device == tokens.device and then == state and torch.equal(known, tokens):
                return told
        self.before = (tokens, state, told := self.read(tokens))
        return told


class Spoken(nn.Module):
    """Prompts that were read once: of all classes, and the last one of none. Texts of rows are left to `read`."""

    def __init__(self, said: Told, read: Callable[[Tensor], Told]) -> None:
        super().__init__()
        self.said, self.read = said, read
        self._last = LastRead(self._with_none)
        for name, value in said.tensors.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, label: Tensor, text: Tensor | None = None) -> Told:  # (b,); NO_LABEL, -1, is the last
        if text is None:
            return self._of(label)
        asked, place = text.unique(dim=0, return_inverse=True)
        return self._last(asked)[place.where(label >= 0, -1)]

    def _of(self, label: Tensor) -> Told:
        return dataclasses.replace(self.said, **{name: value[label] for name, value in self.named_buffers()})

    def _with_none(self, tokens: Tensor) -> Told:
        return one_behind_the_other([self.read(tokens), self._of(tokens.new_full((1,), -1))])


class Learnt(nn.ParameterDict):
    """Weights that stand in for those of a frozen network."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(
            {name.replace(".", "/"): nn.Parameter(value.detach().clone()) for name, value in weights.items()}
        )

    @property
    def weights(self) -> dict[str, Tensor]:
        """By the names that the network has for them."""
        return {name.replace("/", "."): value for name, value in self.items()}


class Read(Uses):
    """Prompts that are read anew whenever others are asked for, because what reads them learns.

    `tokens` (classes + 1, lengths), the last row of no class; `learnt` are weights of the towers.
    """

    def __init__(self, towers: Towers, tokens: Tensor, learnt: Mapping[str, Tensor]) -> None:
        super().__init__(towers)
        self.learnt = Learnt(learnt)
        self.tokens: Tensor
        self.register_buffer("tokens", tokens, persistent=False)
        self._last = LastRead(self._read)

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is learnt, by the names that the towers have for it."""
        return self.learnt.weights

    def forward(self, label: Tensor, text: Tensor | None = None) -> Told:  # (b,); NO_LABEL, -1, is the last
        """Of each row the prompt of its class, or a text of its own (b, lengths); those of no class are told the last."""
        own = self.tokens[label] if text is None else text.where(label[:, None] >= 0, self.tokens[-1])
        asked, place = own.unique(dim=0, return_inverse=True)
        if torch.is_grad_enabled():
            return self._read(asked)[place]
        # What was changed in place is heard anew.
        return self._last(asked, [weight._version for weight in self.parameters()])[place]

    def _read(self, tokens: Tensor) -> Told:
        return one_behind_the_other([self.frozen(self.weights, some) for some in tokens.split(TEXTS)])


class Inverted(Read):
    """Prompts with words that are learnt (textual inversion, Gal et al. 2022, arXiv 2208.01618).

    Tokens from `first` on are the learnt `words` (words, widths), of which each tower has numbers of its own, beside one another.
    """

    def __init__(
        self,
        towers: Towers,
        tokens: Tensor,
        first: int,
        words: Tensor,
        learnt: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        known = towers.vocabularies
        self.widths = [one.embedding_dim for one in known]
        self.places = []
        for one, own in zip(known, words.split(self.widths, 1), strict=True):
            # A T5 has its vocabulary twice over.
            named = [
                name
                for name, module in towers.named_modules()
                if getattr(module, "weight", None) is one.weight
            ]
            vocabulary = Vocabulary(one, first, own)
            for name in named:
                towers.set_submodule(name, vocabulary)
            self.places.append(f"{named[0]}.words")
        super().__init__(towers, tokens, learnt)
        self.words = nn.Parameter(words.clone())

    @property
    def weights(self) -> dict[str, Tensor]:
        own = self.words.split(self.widths, 1)
        return super().weights | dict(zip(self.places, own, strict=True))


class Vocabulary(nn.Module):
    """An embedding that knows more words: those from `first` on."""

    def __init__(self, known: nn.Module, first: int, words: Tensor) -> None:
        super().__init__()
        self.known, self.first, self.words = known, first, nn.Parameter(words)

    def forward(self, tokens: Tensor) -> Tensor:
        new = tokens >= self.first
        theirs, ours = self.known(tokens.where(~new, 0)), self.words[(tokens - self.first).clamp(min=0)]
        return torch.where(new[..., None], ours, theirs)


class TextToImage(Uses):
    """The network that is trained and sampled: (scaled x, step, cond) => what the network predicts."""

    def __init__(
        self, unet: nn.Module, prompts: nn.Module, learnt: Mapping[str, Tensor], seen: int = 0
    ) -> None:
        super().__init__(unet)
        self.prompts, self.seen = prompts, seen  # seen: numbers that it is told of a picture
        self.learnt = Learnt(learnt)

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is learnt, by the names that the network has for it."""
        return self.learnt.weights

    def forward(self, x: Tensor, noise: Tensor, cond: Asked) -> Tensor:
        label = cond.label if cond.label is not None else torch.full_like(noise, -1, dtype=torch.long)
        told = self.prompts(label, cond.text)
        if self.seen:
            image = x.new_zeros(len(x), self.seen) if cond.image is None else cond.image
            told = dataclasses.replace(told, image=image)
        return told.ask(partial(self.frozen, self.weights), x, noise)
