"""Missing rows made in the feature space of a frozen backbone: seconds on a laptop instead of hours for pixels."""

from __future__ import annotations

from counterpoise import arms as cheap_arms
from counterpoise.classifiers.decoupling import PosthocLA
from counterpoise.classifiers.mixing import Concatenate, Instance
from counterpoise.classifiers.training import Training
from counterpoise.diffusion.losses import ClassBalancing
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.feature_diffusion import FeatureDiffusion
from counterpoise.generators.simple import Interpolate
from counterpoise.generators.transfer import ClassGaussian, Translation
from counterpoise.proposals.budgets import FillUp
from counterpoise.proposals.pairings import FromLarger, FromNoise, Neighbours, SameClass
from counterpoise.recipe import Arm, Data, Fit, Recipe, Role, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast, KeepAll
from counterpoise.spaces.features import Frozen
from counterpoise.types import Refusal


def feature_diffusion(
    data: Data,
    trials: Trials,
    *,
    backbone: str = "",
    backbone_size: int | None = None,
    components: int = 128,
    tau: float = 0.0,
    strength: float = 0.5,
    neighbours: int = 3,
    fit_steps: int | None = None,
    fill_to: int | None = None,
    loss: cheap_arms.LossName = "balanced_softmax",
    steps: int | None = None,
    batch: int = 64,
    all_arms: bool = False,
    draws: int | None = None,
    smoke: bool = False,
) -> Recipe:
    """Classes filled up with features: of a diffusion model, from noise, from rows of larger classes, from their own.

    counterpoise run photos/ --recipe feature_diffusion --backbone hf:microsoft/resnet-18
    Measured numbers and their commit are in docs/results.md.

    `--backbone NAME` (a transformers folder or hub name, `timm:NAME`, `openclip:NAME/TAG`) makes the features, at
    `--backbone-size PIXELS` if not at what it was made for; `--components N` of their principal components are kept (0:
    all of them, as they are). The diffusion model learns them for `--fit-steps N`, with the class-balancing loss of
    weight `--tau WEIGHT` (0: without). Its samples start from noise, from a row of one of the `--neighbours N` nearest
    larger classes that is moved to the class wanted, or from a row of that class, the last two taken `--strength SHARE`
    of the way, in sixths. SMOTE, a Gaussian per class and translation alone stand beside it. Classes are filled up to the largest,
    or to `--fill-to N`. Heads on them are trained with `--loss NAME`, whose prior is the one that their rows really have, and get `--steps N` of `--batch N` views. `--all-arms` adds the rest of the cheap arms.
    """
    if not backbone:
        raise Refusal(
            "feature_diffusion works on the features of a backbone and none is named: say which with --backbone NAME"
        )
    schooling = FeatureDiffusion().schooling
    fit_steps = 40 if smoke and fit_steps is None else fit_steps
    if fit_steps is not None:
        schooling = Schooling(**(vars(schooling) | {"steps": fit_steps}))
    diffusion = FeatureDiffusion(schooling=schooling, balance=ClassBalancing(tau=tau) if tau else None)
    budget, nearest = FillUp(to=fill_to), (("nearest_real", NearestReal()),)
    no_copy, mostly = AtLeast("nearest_real", 1.0), AtLeast("nearest_real", 0.02)
    synthesis = (
        Synthesis("smote", Interpolate(), budget, Neighbours(), nearest, mostly),
        Synthesis("gaussian", ClassGaussian(), budget, FromNoise(), select=KeepAll()),
        Synthesis("translation", Translation(), budget, FromLarger(neighbours=neighbours), select=KeepAll()),
        Synthesis("feature_diffusion", diffusion, budget, FromNoise(), nearest, no_copy),
        Synthesis(
            "translated",
            diffusion,
            budget,
            FromLarger(neighbours=neighbours, strength=strength),
            nearest,
            no_copy,
        ),
        Synthesis("varied", diffusion, budget, SameClass(strength=strength), nearest, mostly),
    )
    families = [cheap_arms.on_features()]
    if all_arms:
        families.append(cheap_arms.more((), pixels=False))
    fits = [fit for family, _ in families for fit in family]
    arms = [arm for _, family in families for arm in family]
    for item in synthesis:
        # The prior is the one that the loader yields: after filling up it is flat, and this is plain cross-entropy.
        fits.append(Fit(item.name, cheap_arms.LOSSES[loss], Instance(), (), item.name, Concatenate()))
        role: Role = "candidate" if item.generator == diffusion else "control"
        arms.append(Arm(item.name, item.name, role=role))
        arms.append(Arm(f"{item.name}_adjusted", item.name, PosthocLA(of="real"), role))
    return Recipe(
        name="feature_diffusion",
        data=data,
        network=Frozen(backbone=backbone, size=backbone_size, components=components or None),
        training=Training(steps=steps or (20 if smoke else 1000), batch=batch, lr=1.0, weight_decay=1e-4),
        trials=Trials(n=min(trials.n, 3) if smoke else trials.n, draws=draws or 1, seed=trials.seed),
        fits=tuple(fits),
        arms=tuple(arms),
        synthesis=synthesis,
        rows_per_shard=8192,
        rows_per_batch=1024,
    )
