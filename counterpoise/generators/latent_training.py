"""A module trained by a loss that knows nothing but the number of the step, so that a stopped training goes on exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from counterpoise.diffusion.checkpoints import Folder
from counterpoise.diffusion.training import LOG_EVERY, Schooling
from counterpoise.nets.adam import Adam
from counterpoise.seeding import derive
from counterpoise.types import Refusal


def learn(
    model: nn.Module,
    terms_of: Callable[[int], dict[str, Tensor]],
    schooling: Schooling,
    folder: Folder,
    seed: int,
) -> None:
    """Down the "total" of the terms of every step. They are logged apart, as means over the last steps."""
    weights: list[Tensor] = list(model.parameters())
    first = 0
    adam, device = Adam(weights), weights[0].device
    if (found := folder.resume()) is not None:
        first, state = found
        model.load_state_dict(_below("model/", state))
        adam.load(_below("adam/", state))
    recent: list[dict[str, float]] = []
    # Dropout is the only draw that cannot be handed in: the global generator is borrowed, and put back.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in range(first, schooling.steps):
            torch.manual_seed(derive("dropout", seed, step))
            terms = terms_of(step)
            recent.append({name: float(value.detach()) for name, value in terms.items()})
            _refuse_nan(terms["total"], step, schooling)
            terms["total"].backward()
            # A weight that this step left out has a slope of zero, not none.
            slopes = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
            adam(slopes, schooling.rate(step))
            for weight in weights:
                weight.grad = None
            done = step + 1
            if done % LOG_EVERY == 0 or done == schooling.steps:
                means = {name: sum(row[name] for row in recent) / len(recent) for name in terms}
                folder.log({"step": done, "of": schooling.steps} | means)
                recent = []
            if done < schooling.steps and folder.due():
                state = {f"model/{name}": value for name, value in model.state_dict().items()}
                folder.save(done, state | {f"adam/{name}": value for name, value in adam.state().items()})
    _refuse_nan(torch.stack(torch._foreach_norm(weights)).sum(), schooling.steps, schooling)


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _refuse_nan(number: Tensor, step: int, schooling: Schooling) -> None:
    if not torch.isfinite(number):
        raise Refusal(
            f"training the generator stopped at step {step}: the loss or a weight is {float(number.detach())}. "
            f"Lower the learning rate (it is {schooling.lr:g}), and use another directory or --redo fit"
        )
