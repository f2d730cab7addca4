"""The deep generative mixture (DGCMM): a variational encoder whose latent has a Gaussian for every class, and is a classifier."""

from __future__ import annotations

import dataclasses
from typing import Any

from counterpoise import arms as cheap_arms
from counterpoise.classifiers.decoupling import PosthocLA
from counterpoise.classifiers.losses import CE
from counterpoise.classifiers.mixing import Concatenate, Instance
from counterpoise.classifiers.training import Training
from counterpoise.data.augment import Crop, Flip
from counterpoise.generators.latent_mixture import PUBLISHED, LatentMixture
from counterpoise.nets.resnet import SmallResNet
from counterpoise.nets.vae import VectorVAE
from counterpoise.proposals.budgets import FillUp
from counterpoise.proposals.pairings import FromLarger, FromNoise, SameClass
from counterpoise.recipe import Arm, Data, Fit, Recipe, Role, Synthesis, Trials
from counterpoise.scores.select import KeepAll
from counterpoise.spaces.features import Frozen
from counterpoise.types import Refusal

OWN = "mixture"  # the synthesis whose generator's own predictions are arms
CONTROL_DROPOUT = (
    0.7  # what suits the network best without its generative terms (validation of CIFAR-10-LT, docs/log.md)
)


def latent_mixture(
    data: Data,
    trials: Trials,
    *,
    backbone: str = "",
    backbone_size: int | None = None,
    components: int = 256,
    published: bool = False,
    kl: float | None = None,
    reconstruction: float | None = None,
    fit_steps: int | None = None,
    fill_to: int | None = None,
    loss: cheap_arms.LossName = "balanced_softmax",
    flip: bool = True,
    width: int = 16,
    blocks: int = 1,
    steps: int | None = None,
    batch: int = 64,
    draws: int | None = None,
    smoke: bool = False,
) -> Recipe:
    """A latent with a Gaussian per class: its own predictions, and heads retrained on codes moved, drawn again or made anew.

    counterpoise run digits --recipe latent_mixture --cut exp:30:top=30:shuffled --no-flip
    counterpoise run photos/ --recipe latent_mixture --backbone hf:microsoft/resnet-18
    Measured numbers and their commit are in docs/results.md.

    With `--backbone NAME` the encoder works on its frozen features, at `--backbone-size PIXELS`, `--components N` of their
    principal components (0: all); without, on pixels. `--kl WEIGHT` and `--reconstruction WEIGHT` stand
    beside the classification's 10; it learns for `--fit-steps N`. `--published` takes the paper's 2,048 latent numbers
    and weights. Classes are filled up to the largest, or to `--fill-to N`: with codes of larger classes moved to the
    class wanted (case 1, `transfer`), with new draws from the posteriors of its own rows (case 2, `posterior`), and with
    draws of its component; heads on them are trained with `--loss NAME`. `encoder` is the same network without its generative terms, with the dropout that suits that. Heads, and without a backbone the
    classifiers beside them (`--width CHANNELS`, `--blocks N` per stage, `--flip/--no-flip`), get `--steps N` of `--batch N` views.
    """
    if published and (kl is not None or reconstruction is not None):
        raise Refusal("--published settles what --kl and --reconstruction would: leave one of them out")
    if kl is not None and kl <= 0:
        raise Refusal(f"--kl is the weight of the mixture, which must be above 0, found {kl:g}")
    frozen = bool(backbone)
    generator = PUBLISHED if published else LatentMixture()
    if published and frozen:  # the paper's ResNet-50 is then the backbone
        generator = dataclasses.replace(generator, network=VectorVAE(latent=2048))
    fit_steps = 40 if smoke and fit_steps is None else fit_steps
    told: dict[str, Any] = {"mixture": kl, "reconstruction": reconstruction, "fit_steps": fit_steps}
    generator = dataclasses.replace(generator, **{k: v for k, v in told.items() if v is not None})
    plain = dataclasses.replace(generator, mixture=0.0, reconstruction=0.0)
    if frozen and not published:
        plain = dataclasses.replace(plain, network=VectorVAE(dropout=CONTROL_DROPOUT))
    look = () if frozen else (Crop(), Flip()) if flip else (Crop(),)
    budget, nothing = FillUp(to=fill_to), FillUp(to=1)
    synthesis = (
        Synthesis("encoder", plain, nothing, FromNoise(), select=KeepAll()),
        Synthesis(OWN, generator, budget, FromNoise(), select=KeepAll()),
        Synthesis("transfer", generator, budget, FromLarger(neighbours=None), select=KeepAll()),
        Synthesis("posterior", generator, budget, SameClass(), select=KeepAll()),
    )
    fits, arms = cheap_arms.on_features() if frozen else cheap_arms.cheap(look)
    candidate: Role = "candidate"
    n = min(trials.n, 3) if smoke else trials.n
    # Its own predictions vary with the fit alone. On features, where a fit takes seconds, every trial has its own; with
    # one fit for all trials their luck would count as often as there are trials: there they claim nothing.
    drawn = draws or (n if frozen else 1)
    fresh: Role = candidate if drawn >= n else "control"

    def own(fit: str, synthesis: str, kind: Any, role: Role, adjusted: bool = False) -> None:
        fits.append(Fit(fit, CE(), Instance(), (), synthesis, own=kind))
        arms.append(Arm(fit, fit, role=role))
        if adjusted:
            arms.append(Arm(f"{fit}_adjusted", fit, PosthocLA(), role))

    own("encoder", "encoder", "softmax", "control", adjusted=True)
    own("mixture_softmax", OWN, "softmax", fresh, adjusted=True)
    own("mixture_rule", OWN, "mixture", fresh)
    for name, made in (("component", OWN), ("transfer", "transfer"), ("posterior", "posterior")):
        fits.append(Fit(name, cheap_arms.LOSSES[loss], Instance(), (), made, Concatenate()))
        arms.append(Arm(name, name, role=candidate))
        arms.append(Arm(f"{name}_adjusted", name, PosthocLA(of="real"), candidate))

    return Recipe(
        name="latent_mixture",
        data=data,
        network=Frozen(backbone=backbone, size=backbone_size, components=components or None)
        if frozen
        else SmallResNet(width=width, blocks=blocks),
        training=Training(steps=steps or (20 if smoke else 1000), batch=batch, lr=1.0, weight_decay=1e-4)
        if frozen
        else Training(steps=steps or (20 if smoke else 250), batch=batch),
        trials=Trials(n=n, draws=drawn, seed=trials.seed),
        fits=tuple(fits),
        arms=tuple(arms),
        synthesis=synthesis,
        rows_per_shard=8192,
        rows_per_batch=1024,
    )
