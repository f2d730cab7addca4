"""Plain conditional diffusion on pixels: the control of class-balancing diffusion, as a study of its own."""

from __future__ import annotations

import inspect
from typing import Any

from counterpoise.recipe import Data, Recipe, Trials
from counterpoise.recipes.balanced_diffusion import balanced_diffusion

LEFT_OUT = ("tau", "law", "published")  # the settings of the loss that this recipe does without


def pixel_diffusion(data: Data, trials: Trials, **flags: Any) -> Recipe:
    """Classes filled up with images of a diffusion model that learnt the same tail.

    counterpoise run digits --recipe pixel_diffusion --cut exp:30:top=30:shuffled --no-flip
    Measured numbers and their commit are in docs/results.md.

    The flags are those of `balanced_diffusion`, without those of its class-balancing loss.
    """
    return balanced_diffusion(data, trials, tau=0.0, **flags)


_whole = inspect.signature(balanced_diffusion, eval_str=True)
pixel_diffusion.__signature__ = _whole.replace(  # type: ignore[attr-defined]
    parameters=[p for name, p in _whole.parameters.items() if name not in LEFT_OUT]
)
