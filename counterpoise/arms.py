"""The cheap arms that every generator must beat, the same in all recipes: what costs no generated image."""

from __future__ import annotations

from typing import Any, Literal

from counterpoise.classifiers.decoupling import CRT, LWS, NCM, PosthocLA, TauNorm
from counterpoise.classifiers.groups import DFR
from counterpoise.classifiers.losses import (
    CE,
    VS,
    BalancedSoftmax,
    ClassBalanced,
    Deferred,
    Focal,
    LogitAdjusted,
    Weighted,
)
from counterpoise.classifiers.mixing import (
    ClassBalancedSampling,
    GroupBalanced,
    Instance,
    Progressive,
    Sqrt,
)
from counterpoise.classifiers.pseudo import PseudoLabels
from counterpoise.classifiers.robust import GroupDRO
from counterpoise.data.augment import CutMix, RandAugment
from counterpoise.recipe import Arm, Data, Fit

#: What heads on real and made rows may be trained with; all are given the prior that the loader yields.
LOSSES: dict[str, Any] = {
    "ce": CE(),
    "balanced_softmax": BalancedSoftmax(),
    "logit_adjusted": LogitAdjusted(),
    "inverse_weights": Weighted(),
    "class_balanced": ClassBalanced(),
    "focal": Focal(),
    "ldam_drw": Deferred(),
    "vs": VS(),
}
LossName = Literal[
    "ce", "balanced_softmax", "logit_adjusted", "inverse_weights", "class_balanced", "focal", "ldam_drw", "vs"
]
POOL = "pool"  # the split of images without labels
Look = tuple[Any, ...]


def cheap(look: Look, pixels: bool = True) -> tuple[list[Fit], list[Arm]]:
    """Plain, re-weighted, re-sampled, re-trained and corrected. `pixels`: there are images to augment, not features."""
    instance, balanced = Instance(), BalancedSoftmax()
    fits = [
        Fit("ce", CE(), instance, look),
        Fit("balanced_softmax", balanced, instance, look),
        Fit("balanced_sampling", CE(), ClassBalancedSampling(), look),
        Fit("ldam_drw", Deferred(), instance, look),
    ]
    arms = [
        Arm("ce", "ce"),
        Arm("logit_adjustment", "ce", PosthocLA()),
        Arm("crt", "ce", CRT()),
        Arm("tau_norm", "ce", TauNorm()),
        Arm("balanced_softmax", "balanced_softmax"),
        Arm("balanced_sampling", "balanced_sampling"),
        Arm("ldam_drw", "ldam_drw"),
    ]
    if pixels:
        fits.append(Fit("cutmix", balanced, instance, (*look, CutMix())))
        arms.append(Arm("cutmix", "cutmix"))
    return fits, arms


def on_features() -> tuple[list[Fit], list[Arm]]:
    """For studies of features: the cheap arms, and an adjustment after balanced sampling as the made rows' arms have one."""
    fits, arms = cheap((), pixels=False)
    return fits, [*arms, Arm("balanced_sampling_adjusted", "balanced_sampling", PosthocLA(of="real"))]


def has_pool(data: Data) -> bool:
    """Whether there are unlabelled images: put aside, or brought along by the data."""
    if data.holdout and data.holdout.pool:
        return True
    return POOL in set(data.source.listing()["split"].to_pylist())


def with_pool(data: Data, look: Look) -> tuple[list[Fit], list[Arm]]:
    """What is there to be had from unlabelled images without any generator, if the data put some aside."""
    if not has_pool(data):
        return [], []
    pool = PseudoLabels(teacher="balanced_softmax")
    fit = Fit("pseudo_labels", BalancedSoftmax(), Instance(), (*look, CutMix()), pool=pool)
    return [fit], [Arm("pseudo_labels", "pseudo_labels")]


def more(look: Look, pixels: bool = True) -> tuple[list[Fit], list[Arm]]:
    """The rest of the family."""
    instance = Instance()
    losses = {
        "inverse_weights": (Weighted(), instance),
        "class_balanced_loss": (ClassBalanced(), instance),
        "focal": (Focal(), instance),
        "vs": (VS(), instance),
        "sqrt_sampling": (CE(), Sqrt()),
        "progressive_sampling": (CE(), Progressive()),
    }
    fits = [Fit(name, loss, sampler, look) for name, (loss, sampler) in losses.items()]
    arms = [Arm(name, name) for name in losses] + [Arm("lws", "ce", LWS()), Arm("ncm", "ce", NCM())]
    if pixels:
        fits.append(Fit("randaugment", BalancedSoftmax(), instance, (*look, RandAugment())))
        arms.append(Arm("randaugment", "randaugment"))
    return fits, arms


def by_group(look: Look) -> tuple[list[Fit], list[Arm]]:
    """The arms that look at groups, or at classes in groups."""
    fits = [
        Fit("group_balanced", CE(), GroupBalanced(), look),
        Fit("cell_balanced", CE(), GroupBalanced(), look, by_cell=True),
        Fit("group_dro", CE(), GroupBalanced(), look, reduction=GroupDRO()),
    ]
    arms = [
        Arm("group_balanced", "group_balanced"),
        Arm("cell_balanced", "cell_balanced"),
        Arm("group_dro", "group_dro"),
        Arm("dfr", "ce", DFR(grid=(0.3, 0.1, 0.03), refits=5)),
    ]
    return fits, arms
