"""What a study of guided diffusion stands on: pictures or features, their network, generator and cheap arms."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from counterpoise import arms as cheap_arms
from counterpoise.bases import Adaptation, TextToImage
from counterpoise.classifiers.decoupling import NCM, PosthocLA
from counterpoise.classifiers.losses import BalancedSoftmax
from counterpoise.classifiers.mixing import Concatenate, Instance
from counterpoise.classifiers.pseudo import PseudoLabels
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tutor import Tutor
from counterpoise.data.augment import Crop, CutMix, Flip, RandAugment
from counterpoise.data.nonleaky import Mirror
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.feature_diffusion import FeatureDiffusion
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.generators.simple import Oversample
from counterpoise.nets.resnet import SmallResNet
from counterpoise.proposals.pairings import SameClass
from counterpoise.recipe import Arm, Data, Fit, Recipe, Role, Synthesis, Trials
from counterpoise.scores.clip import Clip
from counterpoise.scores.select import AtLeast, Every
from counterpoise.spaces.features import Frozen
from counterpoise.types import Refusal

VIEWS = "rand_augmented"
COMPONENTS = 128  # of features that are made; classifiers of few pictures lose by it, docs/log.md
DECAYS = (
    1e-4,
    1e-2,
    1e-1,
    1.0,
)  # of heads on few pictures: a hundred times the usual is better by ten points
POOL_SHARE = 0.5  # of every batch: chosen on the validation images of digits, docs/log.md


@dataclass(frozen=True)
class Ground:
    """How classifiers are trained here on real rows, and how on real and made ones."""

    network: Any
    training: Training
    generator: Any
    fits: Sequence[Fit]
    arms: Sequence[Arm]
    made: Fit  # what fits on made rows have in common; its name and synthesis are filled in
    tutor: Tutor
    rows_per_shard: int
    rows_per_batch: int
    look: tuple[Any, ...]  # how an image may be changed and stay what it is
    clip: Clip | None = None  # keeps only pictures that show their class

    @property
    def scores(self) -> tuple[tuple[str, Any], ...]:
        """What is asked of every sample here, beside a recipe's own scores."""
        return (("clip", self.clip),) if self.clip else ()

    def select(self, own: Any) -> Any:
        """A recipe's own choice among the samples, and the ground's: of He et al., likelier than by chance."""
        return Every((own, AtLeast("clip", 1.0))) if self.clip else own

    def augmented(self, budget: Any) -> list[tuple[Synthesis, Role]]:
        """Other views of the same images, as many, where classifiers see features of pictures that are made.

        Networks look at their images another way every time. Cached features cannot, so samples have to beat this, and
        have such views beside them.
        """
        if not self.made.views:
            return []
        kinds = {"augmented": self.look, VIEWS: (*self.look, RandAugment())}
        return [
            (Synthesis(name, Oversample(look), budget, SameClass()), "control")
            for name, look in kinds.items()
        ]

    def recipe(
        self,
        name: str,
        data: Data,
        trials: Trials,
        synthesis: Sequence[tuple[Synthesis, Role]],
        mixes: Mapping[str, Any] = MappingProxyType({}),  # by synthesis, where not all are mixed alike
    ) -> Recipe:
        """The cheap arms, and an arm for every synthesis; features get one with adjusted logits as well."""
        fits, arms = list(self.fits), list(self.arms)
        there = any(item.name == self.made.views for item, _ in synthesis)
        made = self.made if there else dataclasses.replace(self.made, views=None)
        for item, role in synthesis:
            mix = mixes.get(item.name, made.mix)
            fits.append(dataclasses.replace(made, name=item.name, synthesis=item.name, mix=mix))
            arms.append(Arm(item.name, item.name, role=role))
            if isinstance(self.network, Frozen) and not made.tuning:  # whose loss knows the counts
                arms.append(Arm(f"{item.name}_adjusted", item.name, PosthocLA(of="real"), role))
        return Recipe(
            name=name,
            data=data,
            network=self.network,
            training=self.training,
            trials=trials,
            fits=tuple(fits),
            arms=tuple(arms),
            synthesis=tuple(item for item, _ in synthesis),
            rows_per_shard=self.rows_per_shard,
            rows_per_batch=self.rows_per_batch,
        )


def on(
    data: Data,
    *,
    backbone: str = "",
    backbone_size: int | None = None,
    components: int | None = None,
    base: str = "",
    adapt: Adaptation | None = None,
    adapters: tuple[str, ...] = (),
    few_steps: int | None = None,
    clip: str = "",
    guidance: float | None = None,
    fit_steps: int | None = None,
    loss: cheap_arms.LossName = "balanced_softmax",
    groups: bool = False,
    flip: bool = True,
    width: int = 16,
    blocks: int = 1,
    steps: int | None = None,
    batch: int = 64,
    smoke: bool = False,
) -> Ground:
    """With a backbone its features, without one pictures; these keywords are flags of every recipe on a ground."""
    if smoke:
        fit_steps, steps = fit_steps or 40, steps or 20
    if backbone and clip and not base:
        raise Refusal(
            f"--clip {clip} looks at pictures, and with --backbone the samples are features: make pictures with --base"
        )
    for flag, said in {"--adapt": adapt, "--adapters": adapters, "--few-steps": few_steps}.items():
        if said and not base:
            raise Refusal(f"{flag} says something of a text-to-image model: name it with --base")
    for flag, given in {"--components": components, "--backbone-size": backbone_size}.items():
        if given is not None and not backbone:
            raise Refusal(f"{flag} says something of a frozen backbone: name it with --backbone")
    if backbone and guidance is not None and not base:
        raise Refusal(
            f"--guidance {guidance:g} is of a generator of pictures, and with --backbone the samples are features: make pictures "
            "with --base"
        )
    told = TextToImage(base, adapt or "lora", adapters, few_steps, guidance, fit_steps, flip)
    look = (Crop(), Flip()) if flip else (Crop(),)
    if backbone:
        if components is None:
            components = 0 if base else COMPONENTS
        space = Frozen(backbone=backbone, size=backbone_size, components=components or None)
        linear = Training(steps=steps or 1000, batch=batch, lr=1.0, weight_decay=1e-4)
        ground = _features(space, fit_steps, loss, groups, look, linear)
        return _made_by(ground, told, clip)
    network = SmallResNet(width=width, blocks=blocks)
    ground = _pictures(
        data,
        network,
        1.0 if guidance is None else guidance,
        fit_steps,
        groups,
        look,
        Training(steps=steps or 250, batch=batch),
    )
    return _made_by(ground, told, clip)


def takes_ground(without: Sequence[str] = ()) -> Callable[[Callable[..., Recipe]], Callable[..., Recipe]]:
    """The flags of a recipe, whose last parameter takes those of `on`, with these written out."""
    return takes(on, without)


def takes(
    ground: Callable[..., Ground], without: Sequence[str] = ()
) -> Callable[[Callable[..., Recipe]], Callable[..., Recipe]]:
    def flagged(recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
        own = inspect.signature(recipe, eval_str=True).parameters
        known = inspect.signature(ground, eval_str=True).parameters.values()
        theirs = [
            p for p in known if p.kind is p.KEYWORD_ONLY and p.name not in own and p.name not in without
        ]
        kept = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        recipe.__signature__ = inspect.Signature([*kept, *theirs])  # type: ignore[attr-defined]
        return recipe

    return flagged


def _features(
    space: Frozen,
    fit_steps: int | None,
    loss: cheap_arms.LossName,
    groups: bool,
    look: tuple[Any, ...],
    training: Training,
) -> Ground:
    """Heads on features of a frozen backbone."""
    generator = FeatureDiffusion()
    if fit_steps is not None:
        generator = FeatureDiffusion(schooling=dataclasses.replace(generator.schooling, steps=fit_steps))
    families = [cheap_arms.on_features(), cheap_arms.by_group(()) if groups else ([], [])]
    return Ground(
        network=space,
        training=training,
        generator=generator,
        fits=[fit for family, _ in families for fit in family],
        arms=[arm for _, family in families for arm in family],
        made=Fit("", cheap_arms.LOSSES[loss], Instance(), mix=Concatenate()),
        tutor=Tutor(fit="balanced_softmax", members=1),  # linear heads of other seeds say the same
        rows_per_shard=8192,
        rows_per_batch=1024,
        look=look,
    )


def _made_by(ground: Ground, told: TextToImage, clip: str) -> Ground:
    """The same, its samples made by a text-to-image model if one is named."""
    if told.base:
        views = VIEWS if isinstance(ground.network, Frozen) else None
        ground = dataclasses.replace(
            ground,
            generator=told.generator(),
            made=dataclasses.replace(ground.made, views=views),
            rows_per_shard=128,
            rows_per_batch=64,
        )
        if views:
            ground = dataclasses.replace(
                ground,
                training=dataclasses.replace(ground.training, decays=DECAYS),
                arms=[*ground.arms, Arm("ncm", "ce", NCM())],
            )
    return dataclasses.replace(ground, clip=Clip(model=clip) if clip else None)


def _pictures(
    data: Data,
    network: SmallResNet,
    guidance: float,
    fit_steps: int | None,
    groups: bool,
    look: tuple[Any, ...],
    training: Training,
) -> Ground:
    """Small residual networks, and a generator that knows the unlabelled images if there are any."""
    pool = PseudoLabels(teacher="balanced_softmax") if cheap_arms.has_pool(data) else None
    schooling = Schooling(pool_share=POOL_SHARE if pool else 0.0)
    if fit_steps is not None:
        schooling = dataclasses.replace(schooling, steps=fit_steps)
    families = [cheap_arms.cheap(look), cheap_arms.with_pool(data, look)]
    if groups:
        families.append(cheap_arms.by_group(look))
    return Ground(
        network=network,
        training=training,
        generator=PixelDiffusion(
            schooling=schooling,
            augment=Mirror() if any(isinstance(one, Flip) for one in look) else None,
            guides=(CFG(scale=guidance),),
        ),
        fits=[fit for family, _ in families for fit in family],
        arms=[arm for _, family in families for arm in family],
        made=Fit("", BalancedSoftmax(), Instance(), (*look, CutMix()), mix=Concatenate(), pool=pool),
        tutor=Tutor(fit="balanced_softmax"),
        rows_per_shard=128,
        rows_per_batch=64,
        look=look,
    )
