"""The running mean of a network's weights, which samples better than the weights themselves (Ho et al. 2020)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn


class EMA:
    """`ema.net` holds the mean of `net`'s weights; call `update()` after every step.

    The decay warms up as min(decay, (1 + k) / (10 + k)), so that the first, random weights are soon forgotten.
    """

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        self.source, self.decay, self.step = net, decay, 0
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self._mean, self._now = list(self.net.parameters()), list(net.parameters())

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(cast(list[Tensor], self._mean), cast(list[Tensor], self._now), 1 - decay)
        for mean, now in zip(self.net.buffers(), self.source.buffers(), strict=True):
            mean.copy_(now)
        self.step += 1

    def state(self) -> dict[str, Tensor]:
        """All that `load` needs to go on exactly: the mean under the network's own names, and the step."""
        return {f"net/{name}": value for name, value in self.net.state_dict().items()} | {
            "step": torch.tensor(self.step)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.step = int(state["step"])
        weights = {name.removeprefix("net/"): value for name, value in state.items() if name != "step"}
        self.net.load_state_dict(weights)
