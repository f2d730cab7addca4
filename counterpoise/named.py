"""What a study from class names stands on: heads that begin as the names, their cheap arms, and a model that draws the names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from counterpoise import arms as cheap_arms
from counterpoise.bases import TextToImage, at_hand
from counterpoise.classifiers.decoupling import NCM
from counterpoise.classifiers.losses import BalancedSoftmax
from counterpoise.classifiers.mixing import Instance
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tuning import Tuning
from counterpoise.classifiers.tutor import Tutor
from counterpoise.data.augment import Crop, Flip
from counterpoise.generators.retrieval import Retrieved
from counterpoise.grounds import DECAYS, VIEWS, Ground
from counterpoise.proposals.budgets import Budget, Fixed
from counterpoise.proposals.pairings import FromNoise
from counterpoise.proposals.prompts import Grammar, Language, Templates
from counterpoise.proposals.quotas import Quota
from counterpoise.recipe import Arm, Data, Fit, Recipe, Role, Synthesis, Trials
from counterpoise.scores.clip import Clip, Margin
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.real import Clearance
from counterpoise.scores.select import AtLeast, Every
from counterpoise.spaces.features import Frozen
from counterpoise.types import Refusal

#: Of transformers: the pair that learns, and another one that judges, for who learns should not choose what it learns from.
LEARNER, JUDGE = "openai/clip-vit-base-patch16", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
#: What validation chooses from where there are real rows: large rates and no pull towards the names where these are not known to
#: the pair (docs/log.md). Without drawn pictures there is no weight of theirs to choose, and as many settings are rates instead.
RATES, ALONE = (1e-3, 8e-3, 3e-2), (5e-4, 1e-3, 3e-3, 8e-3, 2e-2, 3e-2)
DECAY, WEIGHTS = (0.1, 1.0, 10.0), ((1.0, 1.0), (1.0, 0.25))  # of a real batch, and of a drawn one
PromptKind = Literal["grammar", "template", "language"]
Accept = Literal["likely", "named", "apart"]
Order = Literal["mix", "synthetic_first", "real_first"]


@dataclass(frozen=True)
class Named(Ground):
    """A ground whose generator is told texts, and whose samples are made until enough of them show their class."""

    prompts: Any = None  # None: one text for each class
    each: int = 100  # samples of a class that are kept
    most: float = 5.0  # times as many are made at most
    judged: tuple[tuple[str, Any], ...] = ()  # what is asked of a sample
    accept: Any = None  # and which answers let it pass
    orders: tuple[Order, ...] = ("mix",)

    @property
    def wanted(self) -> Budget:
        return Fixed(self.each, unseen=True)

    def drawn(self, name: str, pairing: Any = FromNoise(), **changed: Any) -> Synthesis:
        """Samples of every class, of those without any picture as well."""
        budget = self.wanted if self.accept is None else Quota(self.wanted, most=self.most)
        found = Synthesis(
            name, self.generator, budget, pairing, self.judged, self.accept, prompts=self.prompts
        )
        return dataclasses.replace(found, **changed)

    def retrieved(self, data: Data) -> list[tuple[Synthesis, Role]]:
        """Real pictures that look like the name of a class, as many, where the data bring a pool that nobody labelled."""
        if not cheap_arms.has_pool(data):
            return []
        found = Retrieved(model=self.network.backbone, template=self.made.tuning.templates)
        ways = {"retrieved": found}
        if (
            self.made.views
        ):  # there are real pictures: where the pair does not know the names, these are what it finds by
            ways["retrieved_alike"] = dataclasses.replace(found, by_pictures=True)
        return [(Synthesis(name, way, self.wanted, FromNoise()), "control") for name, way in ways.items()]

    def recipe(
        self,
        name: str,
        data: Data,
        trials: Trials,
        synthesis: Sequence[tuple[Synthesis, Role]],
        mixes: Mapping[str, Any] = MappingProxyType({}),
    ) -> Recipe:
        """An arm for every synthesis, and of candidates one for each further order in which real and drawn rows are seen."""
        whole = super().recipe(name, data, trials, synthesis, mixes)
        drawn = [item.name for item, role in synthesis if role == "candidate"]
        fits = [
            dataclasses.replace(fit, name=f"{fit.name}_{order}", tuning=_in_phases(fit.tuning, order))
            for order in self.orders
            for fit in whole.fits
            if fit.synthesis in drawn and fit.tuning.order != order
        ]
        arms = [Arm(fit.name, fit.name, role="candidate") for fit in fits]
        return dataclasses.replace(whole, fits=(*whole.fits, *fits), arms=(*whole.arms, *arms))


def on(
    data: Data,
    *,
    base: str = "auto",
    backbone: str = "auto",
    backbone_size: int | None = None,
    clip: str = "auto",
    accept: Accept = "named",
    each: int = 100,
    most: float = 5.0,
    prompts: PromptKind = "grammar",
    language: str = "",
    domain: str = "photo",
    adapters: tuple[str, ...] = (),
    few_steps: int | None = None,
    guidance: float | None = None,
    steps: int = 500,
    share: float = 0.5,
    orders: tuple[Order, ...] = ("mix",),
    flip: bool = True,
    shots: bool = True,
    smoke: bool = False,
) -> Named:
    """`shots`: there are some pictures of each class. Without, nothing is chosen on validation, and names are all there is."""
    base = at_hand() if base == "auto" else base
    small = base == "miniature"
    backbone = ("miniature" if small else LEARNER) if backbone == "auto" else backbone
    judge = {"auto": "miniature" if small else JUDGE, "none": ""}.get(clip, clip)
    steps = 20 if smoke else steps
    tuning = Tuning(templates=Templates(of=domain).templates, steps=steps, share=share)
    if shots:
        tuning = dataclasses.replace(tuning, rates=RATES, decays=DECAY, weights=WEIGHTS)
    loss, every = BalancedSoftmax(), Instance()  # plain cross-entropy where classes have equally many rows
    fits = [Fit("zero_shot", loss, every, tuning=Tuning(templates=tuning.templates, steps=0))]
    arms = [Arm("zero_shot", "zero_shot")]
    if shots:
        alone = dataclasses.replace(tuning, rates=ALONE, weights=WEIGHTS[:1])
        fits.append(Fit("tuned", loss, every, tuning=alone, wise=True))
        arms.append(Arm("tuned", "tuned"))
        cheap, theirs = cheap_arms.on_features()
        fits, arms = [*fits, *cheap], [*arms, *theirs, Arm("ncm", "ce", NCM())]
    judged, rules = asked(judge, accept, shots)
    return Named(
        network=Frozen(backbone=backbone, size=backbone_size),
        training=Training(steps=20 if smoke else 1000, lr=1.0, weight_decay=1e-4, decays=DECAYS),
        generator=TextToImage(base, "none", adapters, few_steps, guidance, None, flip).generator(),
        fits=fits,
        arms=arms,
        made=Fit("", loss, every, tuning=tuning, wise=shots, views=VIEWS if shots else None),
        tutor=Tutor(fit="ce", members=1),
        rows_per_shard=128,
        rows_per_batch=64,
        look=(Crop(), Flip()) if flip else (Crop(),),
        prompts=writer(prompts, language, domain),
        each=min(each, 4) if smoke else each,
        most=most,
        judged=judged,
        accept=rules,
        orders=orders,
    )


def _in_phases(tuning: Tuning, order: Order) -> Tuning:
    """Where a step sees one kind of rows there are no weights to choose: as many settings, all of them rates."""
    chosen = {"rates": ALONE, "weights": WEIGHTS[:1]} if tuning.rates else {}
    return dataclasses.replace(tuning, order=order, **chosen)  # type: ignore[arg-type]


def asked(model: str, accept: Accept, shots: bool) -> tuple[tuple[tuple[str, Any], ...], Any]:
    """What a sample is asked, and who passes: it shows its class, and is not too close to a real picture of another."""
    if not model:
        return (), None
    if accept == "apart" and not shots:
        raise Refusal(
            "--accept apart keeps what is not too close to real pictures of other classes, and here are none: take likely or named"
        )
    shows = {"likely": (Clip(model=model), 1.0), "named": (Margin(model=model), 0.0)}
    found: list[tuple[str, Any, float]] = [("clip", *shows[accept])] if accept in shows else []
    found += [("clearance", Clearance(model=model), 0.0)] if shots else []
    scores = tuple((name, score) for name, score, _ in found)
    if shots:  # for the eye: what starts from a picture is meant to be like it
        scores = (("nearest_real", NearestReal()), *scores)
    return scores, Every(tuple(AtLeast(name, limit) for name, _, limit in found))


def writer(kind: PromptKind, language: str, domain: str) -> Any:
    """Who writes what each sample is told."""
    if language and kind == "template":
        raise Refusal(
            f"--language {language} writes sentences, and --prompts template asks for none: leave one out"
        )
    if language or kind == "language":
        return Language(model=language or "miniature")
    return Templates(of=domain) if kind == "template" else Grammar()
