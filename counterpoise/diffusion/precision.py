"""bf16 where the chip computes in it: the network alone, never what is around it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from counterpoise.diffusion.denoisers import Cond, Network


def autocast(net: Network, device: torch.device, bf16: bool | None) -> Network:
    """The same network, computing in bf16 where that is wanted; its output is float32 either way."""

    def call(x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        wanted = has_bf16(device) if bf16 is None else bf16
        with torch.autocast(device.type, torch.bfloat16, enabled=wanted):
            return net(x, noise, cond).float()

    return call


@lru_cache
def has_bf16(device: torch.device) -> bool:
    """Whether the chip multiplies in bf16, not merely emulates it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
