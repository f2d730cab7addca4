"""What the schedulers of diffusers say of the noise that a model was made for, in the words of this package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from counterpoise.types import Refusal

FILE = "scheduler/scheduler_config.json"
FLOW, OTHERS = "FlowMatch", ("FlowMatch", "EDM")  # begin the names of schedulers that have no betas
SHAPES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
FLOW_EXTRAS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "shift_terminal",
)


def betas(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `diffusion.denoisers.Schedule`, and as `kind` whether "eps" or "v" is predicted."""
    # What a file does not say is DDPM's, as in all schedulers of diffusers.
    scheduler = str(found.get("_class_name"))
    if scheduler.startswith(OTHERS):
        raise Refusal(
            f"{name} was made for the noise of {scheduler}, and that of DDPM is understood (betas): name another model"
        )
    shape, kind = found.get("beta_schedule", "linear"), found.get("prediction_type", "epsilon")
    shape = shape if found.get("trained_betas") is None else "trained_betas"
    kinds = {"epsilon": "eps", "v_prediction": "v"}
    if shape not in SHAPES or kind not in kinds:
        raise Refusal(
            f"{name}: models that predict {' or '.join(kinds)} on betas that are {', '.join(SHAPES)} are understood, "
            f"found {kind} on {shape} ({scheduler}): name another model"
        )
    zero = bool(found.get("rescale_betas_zero_snr", False))
    if zero and kind == "epsilon":
        raise Refusal(
            f"{name} begins at noise alone, and predicts noise: nothing can be had from that; its {FILE} should "
            "say v_prediction, or no rescale_betas_zero_snr"
        )
    return {
        "kind": kinds[kind],
        "steps": found.get("num_train_timesteps", 1000),
        "beta_first": found.get("beta_start", 1e-4),
        "beta_last": found.get("beta_end", 0.02),
        "shape": SHAPES[shape],
        "zero_terminal": zero,
    }


def flow(name: str, found: Mapping[str, Any], patches: int, ends_at_step: bool) -> dict[str, Any]:
    """Settings of `diffusion.ladder.flow`, as `kind` "flow", and the noise levels that the network knows.

    A picture of more `patches` is shifted further where the scheduler says so: by exp(mu), of which mu grows evenly with them.
    """
    scheduler = str(found.get("_class_name"))
    if not scheduler.startswith(FLOW):
        raise Refusal(
            f"{name} is a flow, and its {FILE} is of a {scheduler}: FlowMatchEulerDiscreteScheduler is understood"
        )
    if more := [key for key in FLOW_EXTRAS if found.get(key)]:
        raise Refusal(
            f"{name}: its {FILE} asks for {more[0]}, which is not understood: take that out, or name another model"
        )
    steps, shift = found.get("num_train_timesteps", 1000), found.get("shift", 1.0)
    last = None if ends_at_step else 1 / steps
    if found.get("use_dynamic_shifting"):
        low, high = found.get("base_shift", 0.5), found.get("max_shift", 1.15)
        few, many = found.get("base_image_seq_len", 256), found.get("max_image_seq_len", 4096)
        shift = low + (high - low) * (patches - few) / (many - few)
        shift = math.exp(shift) if found.get("time_shift_type", "exponential") == "exponential" else shift
    elif last is not None:
        last = (
            shift * last / (1 + (shift - 1) * last)
        )  # theirs is shifted before, and then again with all others
    return {"kind": "flow", "steps": steps, "shift": shift, "last": last}
