"""Feedback: guides that listen to a classifier while a sample is made (Askari-Hemmat et al. 2023, arXiv 2310.00158).

To draw from p(x0) exp(scale C(x0)) is to add the gradient of scale C to the score, so that the estimate of the clean x
moves by sigma^2 scale grad_x C(D(x)) = scale Cov(x0 | x) grad C: by Tweedie, sigma^2 times the Jacobian of D is the
covariance of what x0 may still be. The fast mode takes for it what it would be of Gaussian data of the space's spread s,
sigma^2 s^2 / (sigma^2 + s^2), and so neither calls the network again nor goes back through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.diffusion.criteria import Entropy
from counterpoise.diffusion.denoisers import Cond, Denoiser, wide
from counterpoise.diffusion.guides import Context
from counterpoise.types import Refusal, part

TINY = 1e-12  # of a gradient's norm: less is none
REACH = 3.0  # standard deviations of what x0 may still be: further the linear step means nothing

Value = Callable[[Tensor], Tensor]  # an estimate of the clean x => one number per row


@part
class Feedback:
    """Towards what `criterion` calls useful: density times exp(scale C), so that scale is in units of 1 / nat.

    It acts on every `every`-th rung of the ladder between the shares `after` and `before` of it (no estimate of pure
    noise says anything, and none of the last steps can be taken back). A row whose class the judge gives less than
    log p(y) = `floor` is left alone until it recovers. `mode="published"` is the paper's own: a second call of the
    network, a gradient through it, and a nudge of x by `scale` of its length, on every `every`-th rung.
    """

    criterion: Any = Entropy()
    scale: float = 1.0
    every: Annotated[int, Field(ge=1)] = 1
    mode: Literal["fast", "published"] = "fast"
    after: Annotated[float, Field(ge=0, lt=1)] = 0.1
    before: Annotated[float, Field(gt=0, le=1)] = 0.9
    floor: Annotated[float, Field(le=0)] | None = -1.0

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        if self.scale == 0:
            return denoise
        teacher, look, label = ctx.teacher, ctx.look, ctx.label
        if teacher is None or look is None or label is None:
            raise Refusal("Feedback listens to a classifier, and there is none: give the synthesis a tutor")

        def value(clean: Tensor) -> Tensor:
            logits, features = teacher(look(clean), label)
            if logits.shape[1] < 2 or logits.shape[1] <= int(label.max()):
                raise Refusal(
                    f"a teacher must know at least two classes and all that are asked for, found one of "
                    f"{logits.shape[1]} classes asked for class {int(label.max())}"
                )
            return self.criterion(logits, features, label)

        if self.mode == "published":
            return _published(denoise, ctx, value, self.scale, self.every)
        rungs = acting(ctx, self.every, self.after, self.before)
        return tilted(denoise, ctx, value, self.scale * self.every, rungs, self.floor)


@part
class Coverage:
    """Towards the real row that was dealt to each sample, in the teacher's features: together they cover all real rows.

    The half of a Chamfer distance that goes from real rows to samples (Dall'Asen et al. 2025), with the partner dealt
    instead of looked for: sample i depends on row i alone.
    """

    scale: float = 1.0
    every: Annotated[int, Field(ge=1)] = 1
    after: Annotated[float, Field(ge=0, lt=1)] = 0.1
    before: Annotated[float, Field(gt=0, le=1)] = 0.9

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        if self.scale == 0:
            return denoise
        teacher, look, label = ctx.teacher, ctx.look, ctx.label
        if teacher is None or look is None or label is None or ctx.dealt is None:
            raise Refusal(
                "Coverage looks through a classifier, and there is none: give the synthesis a tutor"
            )
        target = teacher(ctx.dealt, label)[1]

        def value(clean: Tensor) -> Tensor:
            return -(teacher(look(clean), label)[1] - target).square().sum(1) / 2

        rungs = acting(ctx, self.every, self.after, self.before)
        return tilted(denoise, ctx, value, self.scale * self.every, rungs, None)


def acting(ctx: Context, every: int, after: float, before: float) -> Callable[[Tensor], bool]:
    """Whether a guide acts at a noise level: a guide knows rungs, and never counts its calls."""
    assert ctx.ladder is not None
    steps = len(ctx.ladder) - 1

    def acts(sigma: Tensor) -> bool:
        at = _rung(ctx, sigma)
        return after * steps <= at < before * steps and at % every == 0

    return acts


def tilted(
    denoise: Denoiser,
    ctx: Context,
    value: Value,
    scale: float,
    acts: Callable[[Tensor], bool],
    floor: float | None,
) -> Denoiser:
    """The fast mode: the estimate that the sampler has anyway, moved by scale Cov(x0 | x) grad C, row by row."""

    def pulled(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        clean = denoise(x, sigma, cond)
        if not acts(sigma):
            return clean
        slope = gradient(value, clean, ctx)
        still = sigma**2 * ctx.spread**2 / (sigma**2 + ctx.spread**2)  # (b,)
        move = wide(scale * still.to(slope.dtype), slope) * slope
        length = move.flatten(1).norm(dim=1)
        shrink = (REACH * still.sqrt() / length.clamp(min=TINY)).clamp(max=1)
        if floor is not None and ctx.judge is not None:
            assert ctx.look is not None
            assert ctx.label is not None
            said = ctx.judge(ctx.look(clean.float()), ctx.label)[0].log_softmax(1)
            held = said.gather(1, ctx.label[:, None])[:, 0] < floor
            ctx.tell("held", held)
            shrink = shrink * ~held
        return clean + (wide(shrink.to(slope.dtype), slope) * move).to(clean.dtype)

    return pulled


def _published(denoise: Denoiser, ctx: Context, value: Value, scale: float, every: int) -> Denoiser:
    """The nudge x + scale |x| G / |G| before a step, as an estimate of the clean x: sigma / (sigma - lower) times it.

    Exact for Euler and DDIM; the paper's z is x / sqrt(1 + sigma^2), which changes neither direction nor relative length.
    """
    assert ctx.ladder is not None
    assert ctx.model is not None
    ladder, model = ctx.ladder, ctx.model
    acts = acting(ctx, every, 0.0, 1.0)

    def nudged(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        clean = denoise(x, sigma, cond)
        if not acts(sigma):
            return clean
        noise = wide(sigma / (1 + sigma**2).sqrt(), x)  # sqrt(1 - abar)
        z_per_x = wide((1 + sigma**2).rsqrt(), x)

        def through(x: Tensor) -> Tensor:
            estimate = model(x, sigma, cond)  # the conditional branch alone
            return value(noise * estimate + (1 - noise) * z_per_x * x)

        slope = gradient(through, x, ctx)
        length = slope.flatten(1).norm(dim=1)
        unit = slope / wide(length.clamp(min=TINY), slope)
        lower = float(ladder[_rung(ctx, sigma) + 1])
        step = scale * x.flatten(1).norm(dim=1) * sigma / (sigma - lower)
        return clean + (wide(step, x) * unit).to(clean.dtype)

    return nudged


def gradient(value: Value, at: Tensor, ctx: Context) -> Tensor:
    """Of a number per row, in float32; zero in rows where it is not finite or nothing, which are counted."""
    with torch.enable_grad():
        x = at.detach().float().requires_grad_()
        found = value(x)
        slope = torch.autograd.grad(found.sum(), x)[0] if found.requires_grad else torch.zeros_like(x)
    flat = slope.flatten(1)
    felt = flat.isfinite().all(1) & (flat.norm(dim=1) > TINY)
    ctx.tell("guided", torch.ones_like(felt))
    ctx.tell("unfelt", ~felt)
    return torch.where(wide(felt, flat).reshape(-1, *[1] * (slope.ndim - 1)) > 0, slope, 0.0)


def _rung(ctx: Context, sigma: Tensor) -> int:
    assert ctx.ladder is not None
    return int((ctx.ladder - float(sigma[0])).abs().argmin())
