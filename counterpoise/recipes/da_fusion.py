"""Every real picture edited by a model that has learnt a word for its class (DA-Fusion, Trabucco et al., ICLR 2024)."""

from __future__ import annotations

import dataclasses
from typing import Any

from counterpoise import bases, grounds, tables
from counterpoise.classifiers.mixing import Replace
from counterpoise.diffusion.training import Schooling
from counterpoise.proposals.budgets import Multiply
from counterpoise.proposals.pairings import SameClass
from counterpoise.recipe import Data, Recipe, Role, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import KeepAll
from counterpoise.types import Refusal

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
GUIDANCE = 7.5
#: Of each class; the rate of their script, 5e-4, is for a row of a batch.
STEPS, SCHOOLING = 1000, Schooling(batch=4, lr=4 * 5e-4, warmup=0.0, decay="none", ema=0.0, unlabelled=0.0)


@grounds.takes_ground(without=("adapt",))
def da_fusion(
    data: Data,
    trials: Trials,
    *,
    base: str = "auto",
    backbone: str = "auto",
    times: float = 10.0,
    replace: float = 0.5,
    draws: int | None = None,
    smoke: bool = False,
    **ground: Any,
) -> Recipe:
    """Ten edited pictures for each real one, of its own class, by a text-to-image model that has learnt words alone.

    counterpoise run photos/ --recipe da_fusion --base miniature --size 32
    Its effect has not been measured yet.

    `--base NAME` is the text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. Of it one word for each class is learnt (textual inversion), in
    `--fit-steps N` of 4 rows, 1000 a class unless said, all classes together where the authors train one by one. Every
    picture is then edited `--times N` as often as it is there, a quarter each at strength .25, .5, .75 and 1, at guidance 7.5 unless
    `--guidance SCALE` says otherwise, and a view is synthetic with probability `--replace P`, as rare as its class is. Strength 1 is noise
    alone here; theirs keeps a trace of the picture.

    `--clip NAME` drops what does not show its class by a CLIP. `--adapters FILE[:SCALE]` are merged into the model first; with
    those that are made for it, `--few-steps N` draws in so few (LCM).

    Classifiers are heads on features of `--backbone NAME` (at `--backbone-size PIXELS`), on all of them or `--components N`, trained
    with `--loss NAME`, their weight decay chosen on validation. Samples have other views of the same images beside them, and
    must beat those alone. Unless said it is the miniature's own CLIP where the pictures are the miniature's: its opponent
    should know what it knows. Otherwise, or with `none`, classifiers are residual networks of `--width CHANNELS` and `--blocks
    N`. They are trained for `--steps N` of `--batch N`.
    `--flip/--no-flip` is for classifiers; words are learnt from the pictures as they are. `--groups` adds the arms that look at
    groups.
    """
    if not base:
        raise Refusal("da_fusion edits pictures with a text-to-image model: name one with --base")
    classes = len(tables.meta(data.source.listing())["classes"])
    told: dict[str, Any] = {"fit_steps": None if smoke else STEPS * classes}
    told |= {name: value for name, value in ground.items() if value is not None}
    if "few_steps" not in told:  # whose adapters have learnt the guidance
        told = {"guidance": GUIDANCE} | told
    base, backbone = bases.opposite(base, backbone)
    stands = grounds.on(data, base=base, backbone=backbone, adapt="words", smoke=smoke, **told)
    model = stands.generator
    budget, mix = Multiply(times=times), Replace(p=replace)
    edited = Synthesis(
        "da_fusion",
        dataclasses.replace(
            model,
            adapt=dataclasses.replace(model.adapt, flip=False),
            schooling=dataclasses.replace(SCHOOLING, steps=model.schooling.steps),
        ),
        budget,
        SameClass(strength=STRENGTHS),
        (("nearest_real", NearestReal()), *stands.scores),
        stands.select(KeepAll()),
    )
    synthesis: list[tuple[Synthesis, Role]] = [(edited, "candidate"), *stands.augmented(budget)]
    n = min(trials.n, 3) if smoke else trials.n
    return stands.recipe(
        "da_fusion",
        data,
        Trials(n=n, draws=draws or 1, seed=trials.seed),
        synthesis,
        {item.name: mix for item, _ in synthesis},
    )
