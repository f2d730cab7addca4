"""Feedback: guides that listen to a classifier while a sample is made (Askari-Hemmat et al. 2023, arXiv 2310.00158).

To draw from p(x0) exp(scale C(x0)) is to add the gradient of scale C to the score, so that the estimate of the clean x
moves by sigma^2 scale grad_x C(D(x)) = scale Cov(x0 | x) grad C: by Tweedie, sigma^2 times the Jacobian of D is the
covariance of what x0 may still be. The fast mode takes for it what it would be of Gaussian data of the space's spread s,
sigma^2 s^2 / (sigma^2 + s^2), and so neither calls the network again nor goes back through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.diffusion.criteria import Loss
from counterpoise.diffusion.denoisers import Cond, Denoiser, wide
from counterpoise.diffusion.guides import Context
from counterpoise.types import Refusal, part

TINY = 1e-12  # of a gradient's norm: less is none
REACH = 3.0  # standard deviations of what x0 may still be: further the linear step means nothing

Value = Callable[[Tensor], Tensor]  # rows as classifiers see them => one number each


@part
class Feedback:
    """Towards what `criterion` calls useful: density times exp(scale C), so that scale is in units of 1 / nat.

    It acts on every `every`-th of the rungs where the share of data in x, spread / (spread + sigma), is between `after` and
    `before`: an estimate of pure noise says nothing yet, and what is left of the noise in the end moves nothing. No row
    is pulled to where the judge gives its class less than log p(y) = `floor`: there it is left alone, until it can go.
    `mode="published"` is the paper's own: a second call of the network, a gradient through it, and a nudge of x by
    `scale` of its length, on every `every`-th rung of all. With the entropy on digits, 30 does here what 0.03 does there.
    """

    criterion: Any = Loss()
    scale: float = 10.0
    every: Annotated[int, Field(ge=1)] = 1
    mode: Literal["fast", "published"] = "fast"
    after: Annotated[float, Field(ge=0, lt=1)] = 0.4
    before: Annotated[float, Field(gt=0, le=1)] = 0.9
    floor: Annotated[float, Field(le=0)] | None = -1.0
    listens: ClassVar[bool] = True

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        if self.scale == 0:
            return denoise
        teacher, label = ctx.teacher, ctx.label
        if teacher is None or label is None:
            raise Refusal("Feedback listens to a classifier, and there is none: give the synthesis a tutor")
        highest = int(label.max())

        def value(seen: Tensor) -> Tensor:
            logits, features = teacher(seen, label if getattr(self.criterion, "far", True) else None)
            if logits.shape[1] < 2 or logits.shape[1] <= highest:
                raise Refusal(
                    f"a teacher must know at least two classes and all that are asked for, found one of "
                    f"{logits.shape[1]} classes asked for class {highest}"
                )
            return self.criterion(logits, features, label)

        if self.mode == "published":
            return _published(denoise, ctx, value, self.scale, acting(ctx, self.every))
        rungs = acting(ctx, self.every, self.after, self.before)
        return _tilted(denoise, ctx, value, self.scale * self.every, rungs, self.floor)


@part
class Coverage:
    """Towards the real row that was dealt to each sample, in the teacher's features: together they cover all real rows.

    The half of a Chamfer distance that goes from real rows to samples (Dall'Asen et al. 2025), with the partner dealt
    instead of looked for: sample i depends on row i alone.
    """

    scale: float = 1.0
    every: Annotated[int, Field(ge=1)] = 1
    after: Annotated[float, Field(ge=0, lt=1)] = 0.4
    before: Annotated[float, Field(gt=0, le=1)] = 0.9
    listens: ClassVar[bool] = True
    deals: ClassVar[bool] = True  # looks at `Context.dealt`

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        if self.scale == 0:
            return denoise
        teacher, label = ctx.teacher, ctx.label
        if teacher is None or label is None or ctx.dealt is None:
            raise Refusal(
                "Coverage looks through a classifier, and there is none: give the synthesis a tutor"
            )
        target = teacher(ctx.dealt, label)[1].detach()

        def value(seen: Tensor) -> Tensor:
            return -(teacher(seen, label)[1] - target).square().sum(1) / 2

        rungs = acting(ctx, self.every, self.after, self.before)
        quiet = replace(ctx, tell=lambda what, rows: None)  # what is told is what befell feedback
        return _tilted(denoise, quiet, value, self.scale * self.every, rungs, None)


def acting(ctx: Context, every: int, after: float = 0.0, before: float = 1.0) -> Callable[[Tensor], bool]:
    """Whether a guide acts at a noise level: a guide knows rungs, and never counts its calls."""
    assert ctx.ladder is not None
    way = (ctx.spread / (ctx.spread + ctx.ladder[:-1])).tolist()  # from noise to data
    inside = [rung for rung, share in enumerate(way) if after <= share < before]
    chosen = set(inside[::every])
    return lambda sigma: _rung(ctx, sigma) in chosen


def _tilted(
    denoise: Denoiser,
    ctx: Context,
    value: Value,
    scale: float,
    acts: Callable[[Tensor], bool],
    floor: float | None,
) -> Denoiser:
    """The fast mode: the estimate that the sampler has anyway, moved by scale Cov(x0 | x) grad C, row by row."""
    look, judge, label = ctx.look, ctx.judge, ctx.label
    assert look is not None
    assert label is not None

    def pulled(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        clean = denoise(x, sigma, cond)
        if not acts(sigma):
            return clean
        slope, length = gradient(value, look, clean, ctx)
        still = sigma**2 * ctx.spread**2 / (sigma**2 + ctx.spread**2)  # (b,)
        furthest = REACH * still.sqrt() / length.clamp(min=TINY)
        moved = clean + (wide((scale * still).clamp(-furthest, furthest), slope) * slope).to(clean.dtype)
        if floor is None or judge is None:
            return moved
        log = judge(look(moved.float()), None)[0].log_softmax(1)
        held = log.gather(1, label[:, None])[:, 0] < floor
        ctx.tell("held", held)
        return torch.where(_by_row(held, clean), clean, moved)

    return pulled


def _published(
    denoise: Denoiser, ctx: Context, value: Value, scale: float, acts: Callable[[Tensor], bool]
) -> Denoiser:
    """The nudge x + scale |x| G / |G| before a step, as an estimate of the clean x: sigma / (sigma - lower) times it.

    Exact for Euler and DDIM; the paper's z is x / sqrt(1 + sigma^2), which changes neither direction nor relative length.
    """
    ladder, model, look = ctx.ladder, ctx.model, ctx.look
    assert ladder is not None
    assert model is not None
    assert look is not None

    def nudged(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        clean = denoise(x, sigma, cond)
        if not acts(sigma):
            return clean
        noise = wide(sigma * (1 + sigma**2).rsqrt(), x)  # sqrt(1 - abar)
        z_per_x = wide((1 + sigma**2).rsqrt(), x)

        def through(x: Tensor) -> Tensor:
            estimate = model(x, sigma, cond)  # the conditional branch alone
            return _stretched(look(noise * estimate + (1 - noise) * z_per_x * x))

        slope, length = gradient(value, through, x, ctx)
        step = scale * x.flatten(1).norm(dim=1) / length.clamp(min=TINY)
        lower = float(ladder[_rung(ctx, sigma) + 1])
        return clean + (wide(step * sigma / (sigma - lower), slope) * slope).to(clean.dtype)

    return nudged


def _stretched(seen: Tensor) -> Tensor:
    """The released code stretches every picture from its darkest to its brightest number; others are as they are."""
    if seen.ndim < 4:
        return seen
    low, high = (bound.detach() for bound in seen.flatten(1).aminmax(dim=1))
    return (seen - wide(low, seen)) / wide((high - low).clamp(min=TINY), seen)


def gradient(
    value: Value, look: Callable[[Tensor], Tensor], at: Tensor, ctx: Context
) -> tuple[Tensor, Tensor]:
    """Of a number per row, in float32, and its lengths (b,); 0 in rows where it is not finite or nothing, which are counted."""
    with torch.enable_grad():
        x = at.detach().float().requires_grad_()
        found = value(look(x))
        slope = torch.autograd.grad(found.sum(), x)[0] if found.requires_grad else torch.zeros_like(x)
    length = slope.flatten(1).norm(dim=1)
    felt = length.isfinite() & (length > TINY)
    ctx.tell("guided", torch.ones_like(felt))
    ctx.tell("unfelt", ~felt)
    return torch.where(_by_row(felt, slope), slope, 0.0), torch.where(felt, length, 0.0)


def _by_row(which: Tensor, x: Tensor) -> Tensor:
    """A yes or no per row, shaped to choose among rows of x."""
    return which.reshape(-1, *[1] * (x.ndim - 1))


def _rung(ctx: Context, sigma: Tensor) -> int:
    assert ctx.ladder is not None
    return int((ctx.ladder - float(sigma[0])).abs().argmin())
