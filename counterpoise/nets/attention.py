"""Every token looks at every other one (Vaswani et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MANY = 1 << 19  # pairs of tokens: from here on what they make of each other is not kept for the way back


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v, per head: all (b, heads, tokens, d)."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        # Torch's own kernel goes backwards up to ten times as slowly as forwards (torch 2.13); autocast would widen the
        # softmax, which takes as long again.
        with torch.autocast("cpu", enabled=False):
            if q.shape[-2] * k.shape[-2] >= MANY:
                return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
            return torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2), -1) @ v
    return F.scaled_dot_product_attention(q, k, v)
