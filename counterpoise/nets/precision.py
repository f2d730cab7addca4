"""Which chips multiply in bf16."""

from __future__ import annotations

from functools import lru_cache

import torch


@lru_cache
def has_bf16(device: torch.device) -> bool:
    """Whether the chip multiplies in bf16, not merely emulates it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
