"""A text-to-image U-Net as a network over labels: every class is a prompt, and "of no class" is the empty one.

The U-Net and the text tower are other people's and stand still. What is learnt, if anything, are weights of this module
that stand in for those of the same name in them, so that copies, states and files hold what is learnt and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from counterpoise.nets.conditioning import Asked


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


class Spoken(nn.Module):
    """Prompts that were encoded once: (classes + 1, tokens, width), the last one of no class."""

    def __init__(self, said: Tensor) -> None:
        super().__init__()
        self.said: Tensor
        self.register_buffer("said", said, persistent=False)

    def forward(self, label: Tensor) -> Tensor:  # (b,) => (b, tokens, width); NO_LABEL, -1, is the last
        return self.said[label]


class Inverted(Uses):
    """Prompts with words that are learnt (textual inversion, Gal et al. 2022, arXiv 2208.01618), read by a frozen tower.

    `tokens` (classes + 1, length), the last row of no class; from `first` on they are the learnt `words` (words, width).
    """

    def __init__(self, tower: nn.Module, tokens: Tensor, first: int, words: Tensor) -> None:
        known: Any = tower.get_input_embeddings()  # type: ignore[operator]
        (place,) = (name for name, module in tower.named_modules() if module is known)
        tower.set_submodule(place, Vocabulary(known, first, words))
        super().__init__(tower)
        self.place, self.words = f"{place}.words", nn.Parameter(words.clone())
        self.tokens: Tensor
        self.register_buffer("tokens", tokens, persistent=False)
        self._heard: tuple[object, Tensor] = (None, words)

    def forward(self, label: Tensor) -> Tensor:  # (b,) => (b, length, width); NO_LABEL, -1, is the last
        asked, place = label.unique(return_inverse=True)
        if torch.is_grad_enabled():
            return self._read(asked)[place]
        # All steps of a sampler ask for the same; words that were changed in place are heard anew.
        key = (asked.tolist(), label.device, self.words._version)
        if self._heard[0] != key:
            self._heard = (key, self._read(asked))
        return self._heard[1][place]

    def _read(self, asked: Tensor) -> Tensor:
        return self.frozen({self.place: self.words}, self.tokens[asked]).last_hidden_state


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
    """The network that is trained and sampled: (scaled x, step, cond) => what the U-Net predicts."""

    def __init__(self, unet: nn.Module, prompts: nn.Module, learnt: Mapping[str, Tensor]) -> None:
        super().__init__(unet)
        self.prompts = prompts
        self.learnt = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(value.detach().clone()) for name, value in learnt.items()}
        )

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is learnt, by the names that the U-Net has for it."""
        return {name.replace("/", "."): value for name, value in self.learnt.items()}

    def forward(self, x: Tensor, noise: Tensor, cond: Asked) -> Tensor:
        label = cond.label if cond.label is not None else torch.full_like(noise, -1, dtype=torch.long)
        return self.frozen(self.weights, x, noise, self.prompts(label), return_dict=False)[0]
