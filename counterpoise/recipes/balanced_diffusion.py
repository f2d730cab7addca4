"""Diffusion on pixels that is fair to rare classes (CBDM), the plain model beside it, and outside knowledge if there is any."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from counterpoise import arms as cheap_arms
from counterpoise.classifiers.losses import BalancedSoftmax
from counterpoise.classifiers.mixing import Concatenate, Instance
from counterpoise.classifiers.pseudo import PseudoLabels
from counterpoise.classifiers.training import Training
from counterpoise.data.augment import Crop, CutMix, Flip
from counterpoise.data.nonleaky import Mirror, NonLeaky
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.losses import ClassBalancing, LogNormal, UniformTime
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.generators.published import PUBLISHED
from counterpoise.generators.simple import Oversample
from counterpoise.grounds import POOL_SHARE
from counterpoise.nets.resnet import SmallResNet
from counterpoise.proposals.budgets import FillUp
from counterpoise.proposals.pairings import FromNoise, SameClass
from counterpoise.recipe import Arm, Data, Fit, Recipe, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast, KeepAll
from counterpoise.types import Refusal


def balanced_diffusion(
    data: Data,
    trials: Trials,
    *,
    published: Literal["ddpm", "cbdm", "cbdm_ada", "cbdm_finetune"] | None = None,
    tau: float = 1.0,
    law: Literal["train", "sqrt", "uniform"] | None = None,
    guidance: float = 1.0,
    objective: Literal["edm", "ddpm"] = "edm",
    network: Literal["mlp", "unet", "dit"] | None = None,
    ada: bool = False,
    init: str | None = None,
    fit_steps: int | None = None,
    fill_to: int | None = None,
    flip: bool = True,
    width: int = 16,
    blocks: int = 1,
    steps: int | None = None,
    batch: int = 64,
    draws: int | None = None,
    smoke: bool = False,
) -> Recipe:
    """Classes filled up with images of a diffusion model that learnt the same tail, with and without class balancing.

    counterpoise run digits --recipe balanced_diffusion --cut exp:30:top=30:shuffled --pool 0.45 --no-flip
    Measured numbers and their commit are in docs/results.md.

    The generator is trained for `--fit-steps N` on the uneven data themselves: `--tau WEIGHT` of the class-balancing
    loss (the published value is 1; 0 leaves that arm out), whose second label follows `--law LAW` (the training
    frequencies; uniform with `--init`). `--objective ddpm` predicts noise over 1,000 steps as published instead of EDM,
    `--network KIND` overrides what suits the size, `--ada` adds augmentation that does not leak, `--init FOLDER` goes
    on from an earlier generator. `--guidance SCALE` 1 is none (published omegas are the scale minus 1). `--published
    PRESET` takes all of that from the paper's repository, a network for an accelerator included. Classes are filled up
    to the largest, or to `--fill-to N`. With `--pool` a third generator learns the unlabelled images too, and its
    classifier and a cheap arm get them as pseudo-labels. Classifiers are residual networks retrained whole, `--width
    CHANNELS` in their first stage, `--blocks N` per stage, `--steps N` of `--batch N` views; `--flip/--no-flip`: not
    for things that have a hand, such as digits.
    """
    steps = steps or (20 if smoke else 250)
    fit_steps = 40 if smoke and fit_steps is None else fit_steps
    look = (Crop(), Flip()) if flip else (Crop(),)
    if published:
        said: dict[str, object] = {
            "tau": tau != 1.0,
            "law": law,
            "guidance": guidance != 1.0,
            "objective": objective != "edm",
        }
        said |= {"network": network, "ada": ada}
        if clash := [f"--{name}" for name, given in said.items() if given]:
            raise Refusal(
                f"--published {published} settles what {', '.join(clash)} would: leave one of them out"
            )
        if published == "cbdm_finetune" and init is None:
            raise Refusal(
                "--published cbdm_finetune goes on from an earlier generator: name it with --init FOLDER"
            )
        balance, plain = PUBLISHED[published].balance, dataclasses.replace(PUBLISHED[published], balance=None)
        if not flip:
            unturned = dataclasses.replace(plain.augment, flip=False) if plain.augment.dim else None
            plain = dataclasses.replace(plain, augment=unturned)
    else:
        told = NonLeaky(flip=flip, turn=0.5 if flip else 0.05) if ada else None
        plain = PixelDiffusion(
            network=network,
            objective=LogNormal() if objective == "edm" else UniformTime(),
            augment=told or (Mirror() if flip else None),
            guides=(CFG(scale=guidance),),
        )
        balance = (
            ClassBalancing(tau=tau, law=law or ("train" if init is None else "uniform")) if tau else None
        )
    if init is not None:
        plain = dataclasses.replace(plain, init=str(Path(init).resolve()))
    if fit_steps is not None:
        plain = dataclasses.replace(plain, schooling=dataclasses.replace(plain.schooling, steps=fit_steps))
    generators = {"diffusion": plain}
    if balance:
        generators["balanced_diffusion"] = dataclasses.replace(plain, balance=balance)
    pool = None
    if cheap_arms.has_pool(data):
        schooling = dataclasses.replace(plain.schooling, pool_share=POOL_SHARE)
        generators["pool_diffusion"] = dataclasses.replace(plain, schooling=schooling)
        pool = PseudoLabels(teacher="balanced_softmax")

    budget, nearest = FillUp(to=fill_to), (("nearest_real", NearestReal()),)
    synthesis = [Synthesis("oversample", Oversample(augment=look), budget, SameClass(), nearest, KeepAll())]
    for name, generator in generators.items():
        no_copy = AtLeast("nearest_real", 1.0)
        synthesis.append(Synthesis(name, generator, budget, FromNoise(), nearest, no_copy))
    families = [cheap_arms.cheap(look), cheap_arms.with_pool(data, look)]
    fits = [fit for family, _ in families for fit in family]
    arms = [arm for _, family in families for arm in family]
    # Trained as the strongest cheap arms are: with CutMix, and with the pool if the generator has learnt from it.
    mixed = (*look, CutMix())
    for item in synthesis:
        known = pool if item.name == "pool_diffusion" else None
        fits.append(
            Fit(item.name, BalancedSoftmax(), Instance(), mixed, item.name, Concatenate(), pool=known)
        )
        arms.append(Arm(item.name, item.name, role="candidate" if item.name in generators else "control"))
    return Recipe(
        name="balanced_diffusion" if balance else "pixel_diffusion",
        data=data,
        network=SmallResNet(width=width, blocks=blocks),
        training=Training(steps=steps, batch=batch),
        # A generator is dear: trials share one draw of the data and of the samples unless --draws says otherwise.
        trials=Trials(n=min(trials.n, 3) if smoke else trials.n, draws=draws or 1, seed=trials.seed),
        fits=tuple(fits),
        arms=tuple(arms),
        synthesis=tuple(synthesis),
        rows_per_shard=128,
    )
