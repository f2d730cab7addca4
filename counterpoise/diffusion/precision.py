"""bf16 where the chip computes in it: the network alone, never what is around it."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoise.diffusion.denoisers import Cond, Network
from counterpoise.nets.precision import has_bf16


def autocast(net: Network, device: torch.device, bf16: bool | None) -> Network:
    """The same network, computing in bf16 where that is wanted; its output is float32 either way."""

    def call(x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        wanted = has_bf16(device) if bf16 is None else bf16
        with torch.autocast(device.type, torch.bfloat16, enabled=wanted):
            return net(x, noise, cond).float()

    return call
