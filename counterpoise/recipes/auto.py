"""The study that suits the data: a generator of its own for small pictures, the cheap arms alone for the rest."""

from __future__ import annotations

import inspect
from typing import Any

from counterpoise.recipe import Data, Recipe, Trials
from counterpoise.recipes.balanced_diffusion import balanced_diffusion
from counterpoise.recipes.baselines import baselines
from counterpoise.types import Refusal

SMALLEST, SMALL = 8, 32  # pixels: between them a generator can be trained from nothing in minutes to hours

_FLAGS = {
    function: {
        name: p
        for name, p in inspect.signature(function, eval_str=True).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for function in (balanced_diffusion, baselines)
}


def auto(data: Data, trials: Trials, **flags: Any) -> Recipe:
    """What suits the data: `balanced_diffusion` for pictures of 8 to 32 pixels, `baselines` for others.

    counterpoise run digits --cut exp:30:top=30:shuffled --pool 0.45 --no-flip
    Measured numbers and their commit are in docs/results.md.

    A flag that only one of the two has decides for it, unless it is given its default. The flags are those of `balanced_diffusion` and of `baselines`.
    """
    told = {name: p.default for known in _FLAGS.values() for name, p in known.items()}
    given = {name: value for name, value in flags.items() if name == "smoke" or value != told[name]}
    able = [function for function, known in _FLAGS.items() if set(given) <= set(known)]
    if not able:
        raise Refusal(
            f"no one recipe takes {', '.join('--' + name.replace('_', '-') for name in given)} together: "
            "name the recipe with --recipe, and see `counterpoise recipes NAME` for its flags"
        )
    function = able[0] if len(able) == 1 or _is_small(data) else able[-1]
    return function(data, trials, **given)


def _is_small(data: Data) -> bool:
    from counterpoise.stages.intake import settle_shape

    return SMALLEST <= settle_shape(data, data.source, data.source.listing())["size"] <= SMALL


_both = {name: p for known in reversed(_FLAGS.values()) for name, p in known.items()}
auto.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*list(inspect.signature(baselines, eval_str=True).parameters.values())[:2], *_both.values()]
)
