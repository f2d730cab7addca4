"""Real pictures translated towards another class by a text-to-image model, and its relatives (Diff-Mix, Wang et al. 2024)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from counterpoise import grounds
from counterpoise.classifiers.claims import ByStrength
from counterpoise.classifiers.mixing import Replace
from counterpoise.generators.adapting import Adapt
from counterpoise.proposals.budgets import FillUp, Multiply
from counterpoise.proposals.pairings import FromNoise
from counterpoise.proposals.strategies import StrategyName, strategy
from counterpoise.recipe import Data, Recipe, Role, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast, KeepAll
from counterpoise.types import Refusal

CONTROLS: tuple[StrategyName, ...] = ("diff-gen", "diff-aug", "real-mix", "real-aug")


#: Pictures are translated, and each strategy says what of the model is learnt.
@grounds.takes_ground(without=("backbone", "backbone_size", "components", "loss", "adapt"))
def interclass_mix(
    data: Data,
    trials: Trials,
    *,
    base: str = "auto",
    strategies: tuple[StrategyName, ...] = ("diff-mix", *CONTROLS),
    strength: tuple[float, ...] = (0.7,),
    source: Literal["class", "image", "confusion"] = "image",
    gamma: float = 0.5,
    replace: float = 0.3,
    times: float | None = None,
    fill_to: int | None = None,
    draws: int | None = None,
    smoke: bool = False,
    **ground: Any,
) -> Recipe:
    """Pictures of one class edited towards another, with a label in between, beside the other ways of using the same model.

    counterpoise run photos/ --recipe interclass_mix --base miniature --size 32
    Its effect has not been measured yet.

    `--base NAME` is the text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. `--strategies NAME`, given several times, are the ways of using it,
    each with an arm: *diff* has learnt a word for each class and adapters, *ti* the words alone, *real* nothing; *mix* starts
    from pictures of any class, *aug* from the same one, *gen* from noise. `--strength S` is how far they leave their source (1
    forgets it); of several, each is used as often. `--source RULE` says whose pictures are translated: those of all classes
    alike, as there are images, or of classes that are confused. A mixed label has S^gamma of the class wanted (`--gamma`; 0
    is all of it). A view is synthetic with probability `--replace P`, of rare classes most often.

    Classes are filled up to the largest, or to `--fill-to N`; `--times N` makes N times as many as there are instead. `--clip NAME`
    drops what does not show its class by a CLIP. `--fit-steps N` trains the adapters, `--guidance SCALE` is 3 unless said;
    classifiers are residual networks of `--width CHANNELS` and `--blocks N`, trained for `--steps N` of `--batch N`;
    `--flip/--no-flip`: not for things that have a hand. `--groups` adds the arms that look at groups.
    """
    if not base:
        raise Refusal("interclass_mix translates pictures with a text-to-image model: name one with --base")
    if times and fill_to:
        raise Refusal(f"--times {times:g} and --fill-to {fill_to} both say how many: leave one out")
    stands = grounds.on(data, base=base, smoke=smoke, **ground)
    budget = Multiply(times=times) if times else FillUp(to=fill_to)
    synthesis: list[tuple[Synthesis, Role]] = []
    mixes: dict[str, Any] = {}
    for name in dict.fromkeys(strategies):
        way = strategy(name, strength if len(strength) > 1 else strength[0], source)
        # A translated picture is meant to be like its source; what comes from noise is not meant to be like any.
        kept = AtLeast("nearest_real", 1.0) if isinstance(way.pairing, FromNoise) else KeepAll()
        adapt = None if way.adapt == "none" else Adapt(kind=way.adapt, flip=ground.get("flip", True))
        item = Synthesis(
            name,
            dataclasses.replace(stands.generator, adapt=adapt),
            budget,
            way.pairing,
            (("nearest_real", NearestReal()), *stands.scores),
            stands.select(kept),
            tutor=stands.tutor if getattr(way.pairing, "listens", False) else None,
        )
        synthesis.append((item, "candidate"))
        mixes[name] = Replace(p=replace, rare=True, claims=ByStrength(gamma=gamma if way.mixed else 0.0))
    n = min(trials.n, 3) if smoke else trials.n
    return stands.recipe(
        "interclass_mix", data, Trials(n=n, draws=draws or 1, seed=trials.seed), synthesis, mixes
    )
