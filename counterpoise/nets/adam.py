"""Adam (Kingma & Ba 2015) with a clipped gradient.

The same numbers as torch.optim.Adam, whose import brings the whole compiler along: 4 s in every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Adam:
    """Moves `weights` in place; the rate is given anew at every step."""

    def __init__(
        self,
        weights: Sequence[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        clip: float | None = 1.0,
    ) -> None:
        self.weights, self.betas, self.eps, self.clip, self.step = list(weights), betas, eps, clip, 0
        self.mean = [torch.zeros_like(weight) for weight in weights]
        self.square = [torch.zeros_like(weight) for weight in weights]

    @torch.no_grad()
    def __call__(self, slopes: Sequence[Tensor], rate: float) -> Tensor:
        """One step down `slopes`; returns their norm before clipping, ()."""
        slopes, (first, second) = list(slopes), self.betas
        norm = torch.stack(torch._foreach_norm(slopes)).norm()
        if self.clip is not None:
            slopes = list(torch._foreach_mul(slopes, (self.clip / (norm + 1e-6)).clamp(max=1.0)))
        self.step += 1
        torch._foreach_lerp_(self.mean, slopes, 1 - first)
        torch._foreach_mul_(self.square, second)
        torch._foreach_addcmul_(self.square, slopes, slopes, 1 - second)
        # Both moments began at zero: corrected for that as in Kingma & Ba, Algorithm 1 (m-hat and v-hat).
        root = torch._foreach_sqrt(self.square)
        torch._foreach_div_(root, (1 - second**self.step) ** 0.5)
        torch._foreach_add_(root, self.eps)
        torch._foreach_addcdiv_(self.weights, self.mean, root, -rate / (1 - first**self.step))
        return norm

    def state(self) -> dict[str, Tensor]:
        """All that `load` needs to go on exactly."""
        moments = {"m": self.mean, "v": self.square}
        flat = {f"{name}/{i}": value for name, values in moments.items() for i, value in enumerate(values)}
        return flat | {"step": torch.tensor(self.step)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.step = int(state["step"])
        for name, values in {"m": self.mean, "v": self.square}.items():
            for i, value in enumerate(values):
                value.copy_(state[f"{name}/{i}"])
