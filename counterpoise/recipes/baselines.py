"""The cheap arms every generator must beat, and the simple synthetic ones."""

from __future__ import annotations

from typing import Any

from counterpoise import arms as cheap_arms
from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.classifiers.mixing import Concatenate, Instance
from counterpoise.classifiers.training import Training
from counterpoise.data.augment import Crop, Flip
from counterpoise.generators.simple import Copies, Interpolate, Oversample
from counterpoise.nets.clip_tuned import Adapted
from counterpoise.nets.finetuned import Finetuned
from counterpoise.nets.resnet import SmallResNet
from counterpoise.proposals.budgets import FillUp
from counterpoise.proposals.pairings import Neighbours, SameClass
from counterpoise.recipe import Arm, Data, Fit, Recipe, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast, KeepAll
from counterpoise.spaces.features import Frozen
from counterpoise.types import Refusal


def baselines(
    data: Data,
    trials: Trials,
    *,
    backbone: str = "",
    backbone_size: int | None = None,
    finetune: bool = False,
    towers: bool = False,
    width: int = 16,
    blocks: int = 1,
    steps: int | None = None,
    batch: int = 64,
    all_arms: bool = False,
    groups: bool = False,
    fill_to: int | None = None,
    draws: int | None = None,
    smoke: bool = False,
) -> Recipe:
    """Plain, re-weighted, re-sampled, re-trained and corrected classifiers; copies, oversampling and SMOTE beside them.

    counterpoise run digits --cut exp:50
    Measured numbers and their commit are in docs/results.md.

    `--backbone NAME` (a transformers folder or hub name, `timm:NAME`, `openclip:NAME/TAG`): classifiers are heads on
    its frozen features; `--finetune` trains all of it, and adds WiSE-FT; `--towers` trains adapters on both towers of a CLIP or SigLIP, whose
    classifier is what it makes of the class names. `--backbone-size PIXELS` is its input
    resolution, if not the one it was made for. Without a backbone classifiers are residual networks trained from
    scratch, `--width CHANNELS` in their first stage and `--blocks N` per stage. Every arm gets `--steps N` (250; heads
    1000, fine-tuning and towers 100) of `--batch N` views. `--all-arms` adds the rest of the family, `--groups` the arms that
    look at groups. `--fill-to N` fills every class up to N images, not to the largest class.
    """
    if finetune and not backbone:
        raise Refusal("--finetune trains a given backbone and none is named: say which with --backbone NAME")
    if towers and (finetune or backbone_size or not backbone):
        raise Refusal(
            "--towers trains adapters beside a frozen CLIP or SigLIP, at the size it was made for: name it with --backbone NAME, and "
            "leave out --finetune and --backbone-size"
        )
    frozen = bool(backbone) and not (finetune or towers)
    if steps is None:
        steps = 20 if smoke else 1000 if frozen else 100 if finetune or towers else 250
    network: Any = SmallResNet(width=width, blocks=blocks)
    training = Training(steps=steps, batch=batch)
    if frozen:
        network = Frozen(backbone=backbone, size=backbone_size)
        training = Training(steps=steps, batch=batch, lr=1.0, weight_decay=1e-4)
    elif finetune:
        network = Finetuned(backbone=backbone, size=backbone_size)
        training = Training(
            steps=steps, batch=batch, lr=0.003, weight_decay=1e-4
        )  # 0.01 diverged on MobileNetV2
    elif towers:
        network = Adapted(backbone=backbone)
        training = Training(steps=steps, batch=batch, lr=0.03, weight_decay=1e-4)
    look = () if frozen else (Crop(), Flip())
    instance, balanced = Instance(), BalancedSoftmax()
    families = [cheap_arms.cheap(look, pixels=not frozen)]
    if not frozen:
        families.append(cheap_arms.with_pool(data, look))
    if finetune:
        families.append(([Fit("wise_ft", CE(), instance, look, wise=True)], [Arm("wise_ft", "wise_ft")]))
    if all_arms:
        families.append(cheap_arms.more(look, pixels=not frozen))
    if groups:
        families.append(cheap_arms.by_group(look))
    fits = [fit for family, _ in families for fit in family]
    arms = [arm for _, family in families for arm in family]

    budget, nearest = FillUp(to=fill_to), (("nearest_real", NearestReal()),)
    synthesis = [
        Synthesis("copies", Copies(), budget, SameClass(), select=KeepAll()),
        Synthesis("smote", Interpolate(), budget, Neighbours(), nearest, AtLeast("nearest_real", 0.02)),
    ]
    if not frozen:  # in feature space an augmented copy is the copy
        synthesis.insert(
            1, Synthesis("oversample", Oversample(augment=look), budget, SameClass(), nearest, KeepAll())
        )
    for item in synthesis:
        fits.append(Fit(item.name, balanced, instance, look, item.name, Concatenate()))
        arms.append(Arm(item.name, item.name, role="candidate" if item.name == "smote" else "control"))

    n = min(trials.n, 3) if smoke else trials.n
    # Cut and samples are cheap to draw anew here, so every trial gets its own and no variance is missing.
    return Recipe(
        name="baselines",
        data=data,
        network=network,
        training=training,
        trials=Trials(n=n, draws=n if draws is None else draws, seed=trials.seed),
        fits=tuple(fits),
        arms=tuple(arms),
        synthesis=tuple(synthesis),
    )
