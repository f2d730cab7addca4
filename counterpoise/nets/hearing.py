"""The attention of other people's U-Nets as `nets.attention` computes it, in the form that diffusers calls."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from counterpoise.nets.attention import attend


class Attend:
    """In transformer blocks: to other places, or to words."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = _by_head(attn, attn.to_q(hidden_states))
        return attn.to_out[0](_heard(attn, q, attn.to_k(told), attn.to_v(told)))


class AttendBoth(nn.Module):
    """To words and, with keys and values of their own, to those that stand for a picture (Ye et al. 2023, Equation 5)."""

    def __init__(self, to_k: Tensor, to_v: Tensor, scale: float) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip, self.scale = _linear(to_k), _linear(to_v), scale

    def forward(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: tuple[Tensor, Tensor], **_: Any
    ) -> Tensor:
        words, image = encoder_hidden_states
        q = _by_head(attn, attn.to_q(hidden_states))
        heard = _heard(attn, q, attn.to_k(words), attn.to_v(words))
        seen = _heard(attn, q, self.to_k_ip(image), self.to_v_ip(image))
        return attn.to_out[0](heard + self.scale * seen)


def _heard(attn: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, _by_head(attn, k), _by_head(attn, v)).transpose(1, 2).flatten(2)


def _by_head(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (b, heads, tokens, d)


def _linear(weight: Tensor) -> nn.Linear:
    out, width = weight.shape
    made = nn.Linear(width, out, bias=False)
    made.load_state_dict({"weight": weight})
    return made
