"""A few pictures of each class, and a text-to-image model that starts from them (real guidance, He et al. 2023, few-shot)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from counterpoise import grounds, named
from counterpoise.bases import MINIATURE_STEPS
from counterpoise.generators.adapting import Adapt
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import SameClass
from counterpoise.proposals.strengths import ByShots
from counterpoise.recipe import Data, Recipe, Role, Synthesis, Trials

Way = Literal["real_guided", "text_only", "learnt", "learnt_guided"]


@grounds.takes(named.on, without=("shots",))
def real_guided(
    data: Data,
    trials: Trials,
    *,
    ways: tuple[Way, ...] = ("real_guided", "text_only"),
    adapt: Literal["lora", "words"] = "lora",
    fit_steps: int | None = None,
    draws: int | None = None,
    smoke: bool = False,
    **ground: Any,
) -> Recipe:
    """One to sixteen pictures of each class, and as many more as are asked for: drawn from its name, and from them.

    counterpoise run photos/ --recipe real_guided --base miniature --size 32 --cut few:4
    On the miniature it has not been shown to beat heads that are tuned as well on the real pictures alone (docs/results.md).

    `--ways NAME`, given several times, are ways of drawing, each with an arm: *real_guided* starts from a real picture of the class, noised
    the less the more there are (-0.1 dB of signal to noise for one, 12 dB for sixteen, as published), *text_only* from noise, told of the class by its name;
    *learnt* from noise and *learnt_guided* from pictures, by a model that has learnt the classes first, with `--adapt KIND` (adapters and a word
    for each class, or *words* alone) in `--fit-steps N`. `--orders NAME` adds arms that see real and drawn pictures one after
    the other, *synthetic_first* or *real_first*, beside those that see a batch of both in every step (*mix*).

    `--base NAME` is the text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. From noise it is told `--prompts KIND` sentences: of a *grammar* of
    places, lights and views, one *template* (`--domain NAME` says what the pictures are: photo, satellite, bird, eurosat ...), or those of a
    *language* model, `--language NAME`. Of each class `--each N` pictures are kept. `--clip NAME` judges them, a
    CLIP or SigLIP other than the one that learns where there is one (`none`: whatever is drawn is kept): a picture passes that
    is likelier to be its class than any other (`--accept named`), or, as published, than by chance (*likely*), and that is not
    too close to a real picture of another class (that alone: *apart*, for names that the CLIP does not know). More are made until enough have passed, but never more than `--most X` times as many as
    are wanted.

    The classifier is what the class names say in `--backbone NAME`, a CLIP or SigLIP (at `--backbone-size PIXELS`), its head then trained
    for `--steps N` on batches of real and of drawn pictures; of a drawn one's label a share, `--share S`, is what the names alone say of it.
    Learning rate, pull towards the names, the weight of drawn pictures and the way back to the names (WiSE-FT) are chosen on
    validation, for arms without drawn pictures as well. These have to be beaten: the names alone, a head tuned on the real pictures,
    linear heads that know no names, other views of the same pictures, and with `--pool DIR`, a folder of your own unlabelled pictures,
    as many of those, found by the class names.

    `--guidance SCALE` is 3 unless said. `--adapters FILE[:SCALE]` are merged into the model first; with those that are made for it,
    `--few-steps N` draws in so few (LCM). `--flip/--no-flip`: not for things that have a hand.
    """
    stands = named.on(data, smoke=smoke, **ground)
    model = stands.generator
    steps = fit_steps or (40 if smoke else MINIATURE_STEPS if model.base == "miniature" else None)
    schooling = model.schooling if steps is None else dataclasses.replace(model.schooling, steps=steps)
    learnt = dataclasses.replace(
        model, adapt=Adapt(kind=adapt, flip=ground.get("flip", True)), schooling=schooling
    )
    guided = SameClass(strength=ByShots())
    drawn = {
        "text_only": lambda: stands.drawn("text_only"),
        "real_guided": lambda: stands.drawn("real_guided", guided, prompts=None),
        "learnt": lambda: stands.drawn("learnt", generator=learnt, prompts=None),
        "learnt_guided": lambda: stands.drawn("learnt_guided", guided, generator=learnt, prompts=None),
    }
    made: list[tuple[Synthesis, Role]] = [(drawn[way](), "candidate") for way in dict.fromkeys(ways)]
    made += [*stands.augmented(Fixed(stands.each)), *stands.retrieved(data)]
    n = min(trials.n, 3) if smoke else trials.n
    return stands.recipe("real_guided", data, Trials(n=n, draws=draws or 1, seed=trials.seed), made)
