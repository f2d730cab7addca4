"""A recipe: one whole study as a frozen value. Stages read it; recipes are functions that return one."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field

from counterpoise.classifiers.robust import Mean
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tutor import Tutor
from counterpoise.data.splits import Holdout
from counterpoise.proposals.budgets import Piloted
from counterpoise.proposals.pairings import FromNoise
from counterpoise.proposals.quotas import Quota
from counterpoise.proposals.strengths import ByShots, Enough
from counterpoise.types import Refusal, part

Role = Literal["baseline", "control", "candidate"]


@part
class Data:
    """What is studied: a source, the resolution it is worked at, and how it is split and cut."""

    source: Any
    size: Annotated[int, Field(ge=4, le=1024)] | None = None  # None: what most images have, at most 64
    colour: Literal["auto", "grey", "rgb"] = "auto"
    holdout: Any = Holdout()
    cut: Any = None
    glossary: tuple[tuple[str, str], ...] = ()  # class, and what text models are told it is
    seed: int = 0


@part
class Trials:
    """Paired repetitions: trial t has the same split, samples, initialisation and order seed in every arm.

    `draws` is how many times the cut and the synthetic samples are drawn anew; trial t uses draw t % draws.
    """

    n: Annotated[int, Field(ge=1, le=1000)] = 10
    draws: Annotated[int, Field(ge=1, le=1000)] = 1
    seed: int = 0


@part
class Synthesis:
    """One way of making samples: how many, from what, by which generator, and which are kept.

    `guides` pull every sample, around the guides that the generator has itself; a `tutor` is the classifier that guides,
    budgets and scores may listen to. With `by_group`, class x group cells take the place of classes in the budget, the
    pairing and the generator. `prompts` writes a text for every sample; without it the generator has one for each class.
    """

    name: str
    generator: Any
    budget: Any
    pairing: Any
    scores: tuple[tuple[str, Any], ...] = ()
    select: Any = None
    guides: tuple[Any, ...] = ()
    tutor: Tutor | None = None
    by_group: bool = False
    prompts: Any = None

    @property
    def rounds(self) -> int:
        """At most so many times samples are planned, made and chosen from."""
        return getattr(self.budget, "rounds", 1)

    @property
    def retold(self) -> bool:
        """Whether every round has a tutor of its own, which has learnt from those before; a quota only counts."""
        return self.tutor is not None and not isinstance(self.budget, Quota)


@part
class Fit:
    """One way of training a classifier. Arms that differ only in what comes `after` share it.

    `pool` holds `PseudoLabels`: how rows of the unlabelled pool join the real ones, with labels of another arm.
    `wise` interpolates the given network, with a head fitted on its features, and what training made of it (WiSE-FT).
    `by_cell`: its groups are class x group cells, as the authors of GroupDRO mean them.
    `views` is a synthesis whose samples, beside those of `synthesis`, count as real: other views of the same images.
    `own` trains nothing: it takes the predictions that the generator of `synthesis` itself makes.
    `tuning` starts from the head that class names give, where the backbone reads them, and says how it is trained.
    `start` trains the network on the samples of `synthesis`, or without labels, before it sees the real rows alone.
    """

    name: str
    loss: Any
    sampler: Any
    augment: tuple[Any, ...] = ()
    synthesis: str | None = None
    mix: Any = None
    reduction: Any = Mean()
    wise: bool = False
    pool: Any = None
    by_cell: bool = False
    views: str | None = None
    own: Literal["softmax", "mixture"] | None = None
    tuning: Any = None
    start: Any = None


@part
class Arm:
    """A line in the report: a fit, and what is done to its linear head afterwards.

    Controls and baselines are the cheap arms; a candidate must beat the strongest of them.
    """

    name: str
    fit: str
    after: Any = None
    role: Role = "baseline"


@part
class Recipe:
    """Everything that decides the result of a run, and nothing else."""

    name: str
    data: Data
    network: Any
    training: Training
    trials: Trials
    fits: tuple[Fit, ...]
    arms: tuple[Arm, ...]
    synthesis: tuple[Synthesis, ...] = ()
    rows_per_shard: Annotated[int, Field(ge=1)] = (
        512  # of a plan: the unit of work and of what a kill can cost
    )
    rows_per_batch: Annotated[int, Field(ge=1)] = 64  # inside a shard: what a generator is asked for at once

    def __post_init__(self) -> None:
        for kind in ("fits", "arms", "synthesis"):
            names = [item.name for item in getattr(self, kind)]
            for name, times in Counter(names).items():
                if times > 1:
                    raise Refusal(f"recipe.{kind}: names must differ, {name!r} is there {times} times")
                if not name or not all(c.isalnum() or c in "-_+." for c in name) or name.startswith("."):
                    raise Refusal(
                        f"recipe.{kind}: a name is letters, digits, '-', '_', '+', '.', found {name!r}"
                    )
        fits = {fit.name for fit in self.fits}
        made = {item.name for item in self.synthesis}
        for arm in self.arms:
            if arm.fit not in fits:
                raise Refusal(
                    f"recipe.arms.{arm.name}: there is no fit {arm.fit!r} (fits: {', '.join(sorted(fits))})"
                )
        for fit in self.fits:
            for name in (fit.synthesis, fit.views):
                if name is not None and name not in made:
                    raise Refusal(
                        f"recipe.fits.{fit.name}: there is no synthesis {name!r} (made: {', '.join(sorted(made))})"
                    )
            if fit.views and not fit.synthesis:
                raise Refusal(
                    f"recipe.fits.{fit.name}.views: views lie beside the samples of a synthesis, and it names none: name "
                    f"{fit.views!r} as its synthesis"
                )

        space = "features" if getattr(self.network, "frozen", False) else "pixels"
        for item in self.synthesis:
            if space not in item.generator.spaces and space == "pixels":  # pictures have features as well
                raise Refusal(
                    f"recipe.synthesis.{item.name}: {type(item.generator).__name__} works on "
                    f"{' or '.join(item.generator.spaces)}, and this study's rows are {space}: "
                    "name a --backbone, or take another generator"
                )
            if item.prompts is not None and not item.generator.reads_prompts:
                raise Refusal(
                    f"recipe.synthesis.{item.name}.prompts: {type(item.generator).__name__} reads no texts: leave prompts out"
                )
            theirs = space if space in item.generator.spaces else "pixels"
            self._check_listening(item, pictured=theirs != space)
            for score_name, score in item.scores:
                seen = getattr(score, "spaces", None)  # most look at vectors, whatever they are of
                if seen and (theirs not in seen or item.generator.own_space):
                    raise Refusal(
                        f"recipe.synthesis.{item.name}.scores.{score_name}: {type(score).__name__} looks at pictures, and these "
                        f"samples are {'codes' if item.generator.own_space else theirs}: leave the score out"
                    )
        own = {item.name for item in self.synthesis if item.generator.own_space}
        for fit in self.fits:
            if fit.own and fit.synthesis not in own:
                raise Refusal(
                    f"recipe.fits.{fit.name}.own: {fit.synthesis} makes no predictions of its own "
                    f"(those that do: {', '.join(sorted(own)) or 'none'})"
                )

        scored = {item.name: {name for name, _ in item.scores} for item in self.synthesis}
        for fit in self.fits:
            wanted = getattr(getattr(fit.mix, "claims", None), "score", None)
            if wanted is not None and fit.synthesis is not None and wanted not in scored[fit.synthesis]:
                raise Refusal(
                    f"recipe.fits.{fit.name}.mix.claims: there is no score {wanted!r} of {fit.synthesis} "
                    f"(scores: {', '.join(sorted(scored[fit.synthesis])) or 'none'}): add it, or let claims go by strength"
                )
        for fit in self.fits:
            if fit.by_cell and fit.pool is not None:
                raise Refusal(
                    f"recipe.fits.{fit.name}: a cell is a class in a group, and rows of the pool have no class of their own: "
                    "use by_cell without pool"
                )
        plain = {fit.name for fit in self.fits if fit.pool is None and fit.synthesis is None}
        teachers = [arm.name for arm in self.arms if arm.fit in plain]
        for fit in self.fits:
            if fit.pool is not None and fit.pool.teacher not in teachers:
                raise Refusal(
                    f"recipe.fits.{fit.name}.pool.teacher: pseudo-labels are those of an arm that sees neither the pool "
                    f"nor synthetic rows, found {fit.pool.teacher!r} (such arms: {', '.join(teachers)})"
                )

        for fit in self.fits:
            if fit.tuning is not None and (space != "features" or self.network.components is not None):
                raise Refusal(
                    f"recipe.fits.{fit.name}.tuning: heads that begin as class names work on the features of a text-image pair as they "
                    f"are, and these rows are {'its principal components' if space == 'features' else space}: use the network "
                    "Frozen with components=None"
                )
            if fit.tuning is not None and (fit.own or fit.loss.cosine or {fit.synthesis, fit.views} & own):
                raise Refusal(
                    f"recipe.fits.{fit.name}.tuning: heads that begin as class names are trained on features of their pair, by a loss on "
                    "plain logits: take another loss or synthesis, or leave tuning out"
                )
            if fit.start is not None and (
                space == "features" or fit.mix or fit.views or fit.wise or fit.tuning or fit.own
            ):
                raise Refusal(
                    f"recipe.fits.{fit.name}.start: first weights are those of a network, which then sees real rows alone: leave out mix, views, "
                    "wise, tuning and own, and take a network that is trained"
                )
            if fit.wise and fit.tuning is None and not getattr(self.network, "pretrained", False):
                raise Refusal(
                    f"recipe.fits.{fit.name}: WiSE-FT goes back towards given weights, and {type(self.network).__name__} "
                    "offers none: use the network Finetuned, or wise=False"
                )
            if fit.wise and getattr(fit.loss, "cosine", False):
                raise Refusal(
                    f"recipe.fits.{fit.name}: WiSE-FT starts from a plain linear head, not from the cosines of "
                    f"{type(fit.loss).__name__}: use another loss, or wise=False"
                )

    def _check_listening(self, item: Synthesis, pictured: bool) -> None:
        where = f"recipe.synthesis.{item.name}"
        if getattr(item.generator, "images", None) and isinstance(item.pairing, FromNoise):
            raise Refusal(
                f"{where}: its generator is to be told real pictures, and FromNoise names none: take SameClass(strength=1.0)"
            )
        if pictured and item.guides:
            raise Refusal(
                f"{where}.guides: a tutor of this study hears features of a frozen backbone, and {type(item.generator).__name__} "
                "makes pictures: leave guides empty, or leave out --backbone"
            )
        if item.guides and not item.generator.takes_guides:
            raise Refusal(
                f"{where}.guides: {type(item.generator).__name__} has no denoiser to guide: leave guides empty"
            )
        scores = [score for _, score in item.scores if getattr(score, "listens", False)]
        if scores and item.generator.own_space:
            raise Refusal(
                f"{where}.scores: a tutor knows the rows of the study, and samples of {type(item.generator).__name__} are codes "
                f"of its own encoder: leave out {', '.join(type(score).__name__ for score in scores)}"
            )
        parts = (*item.guides, item.budget, item.pairing, *scores)
        deaf = [type(found).__name__ for found in parts if getattr(found, "listens", False)]
        if deaf and item.tutor is None:
            raise Refusal(
                f"{where}.tutor: {', '.join(deaf)} listen to a classifier and there is none: give it a Tutor"
            )
        strength = getattr(item.pairing, "strength", None)
        if isinstance(strength, ByShots) and not hasattr(item.generator, "strength_at"):
            raise Refusal(
                f"{where}.pairing.strength: ByShots says how much noise a source is given, and {type(item.generator).__name__} adds "
                "none: give it a share of the way, or take a diffusion model"
            )
        if isinstance(strength, Enough):
            made = [name for name, _ in item.scores]
            if not isinstance(item.budget, Piloted) or strength.score not in made:
                raise Refusal(
                    f"{where}.pairing.strength: Enough is found by a pilot's score {strength.score!r}, and here are "
                    f"{type(item.budget).__name__} and the scores {', '.join(made) or 'none'}: give it Piloted and that score"
                )
        if item.generator.own_space and (item.by_group or item.rounds > 1):
            raise Refusal(
                f"{where}: samples of {type(item.generator).__name__} are codes of its own encoder, so it can neither be "
                "asked for groups nor work in rounds: use by_group=False and a budget for one round"
            )
        if item.tutor is not None:
            plain = [fit for fit in self.fits if fit.pool is None and fit.synthesis is None]
            able = [fit.name for fit in plain if not (fit.wise or fit.by_cell or fit.tuning or fit.start)]
            if item.tutor.fit not in able:
                raise Refusal(
                    f"{where}.tutor.fit: a tutor is trained as one of the fits on real rows is, found "
                    f"{item.tutor.fit!r} (such fits: {', '.join(able)})"
                )

    @property
    def from_names(self) -> bool:
        """Whether all classifiers begin with what class names say, so that a study can do without training images."""
        return all(fit.tuning is not None for fit in self.fits)

    def fit(self, name: str) -> Fit:
        return next(fit for fit in self.fits if fit.name == name)

    def arms_of(self, fit: str) -> list[Arm]:
        return [arm for arm in self.arms if arm.fit == fit]
