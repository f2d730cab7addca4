"""Real pictures translated towards another class by a text-to-image model, and its relatives (Diff-Mix, Wang et al. 2024)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from counterpoise import bases, grounds
from counterpoise.classifiers.claims import ByStrength, Claims, Measured
from counterpoise.classifiers.mixing import Replace
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt
from counterpoise.proposals.budgets import Even, FillUp, Piloted
from counterpoise.proposals.pairings import FromNoise
from counterpoise.proposals.strategies import StrategyName, strategy
from counterpoise.proposals.strengths import Enough, Strengths
from counterpoise.recipe import Data, Recipe, Role, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast, KeepAll
from counterpoise.scores.turned import Turned
from counterpoise.types import Refusal

CONTROLS: tuple[StrategyName, ...] = ("diff-gen", "diff-aug", "real-mix", "real-aug")
SourceRule = Literal["class", "image", "confusion"]


@dataclass(frozen=True)
class Setting:
    """What the authors do on data of one kind."""

    replace: float  # probability that a view is synthetic
    source: SourceRule
    rare: bool  # whether rare classes replace most


SETTINGS = {
    "full": Setting(replace=0.1, source="class", rare=False),
    "few-shot": Setting(replace=0.3, source="class", rare=False),
    "long-tail": Setting(replace=0.3, source="image", rare=True),
}
#: The data sets of the paper, each with the word that its prompts say what its classes are.
SUPERCLASSES = {"cub": "bird", "aircraft": "aircraft", "flowers": "flower", "cars": "car", "dogs": "dog"}
#: What the paper's repository has for all of them.
TIMES, STEPS, GUIDANCE, RANK = 5.0, 25, 7.5, 10
SCHOOLING = Schooling(
    steps=35_000, batch=8, lr=5e-5, warmup=0.0, decay="none", ema=0.0, clip=1.0, unlabelled=0.0
)
AMONG = (0.3, 0.5, 0.7, 0.9)  # what it draws strengths from, where not all are .7


#: Pictures are translated, and each strategy says what of the model is learnt.
@grounds.takes_ground(without=("adapt",))
def interclass_mix(
    data: Data,
    trials: Trials,
    *,
    base: str = "auto",
    backbone: str = "auto",
    preset: Literal["cub", "aircraft", "flowers", "cars", "dogs"] | None = None,
    setting: Literal["full", "few-shot", "long-tail"] | None = None,
    superclass: str = "",
    strategies: tuple[StrategyName, ...] = ("diff-mix", *CONTROLS),
    strength: tuple[float, ...] = (),
    adaptive: bool = False,
    source: SourceRule | None = None,
    gamma: float = 0.5,
    measured: bool = False,
    replace: float | None = None,
    times: float | None = None,
    fill_to: int | None = None,
    draws: int | None = None,
    smoke: bool = False,
    **ground: Any,
) -> Recipe:
    """Pictures of one class edited towards another, with a label in between, beside the other ways of using the same model.

    counterpoise run photos/ --recipe interclass_mix --base miniature --size 32
    On the miniature it does not beat the cheap arms (docs/results.md).

    `--base NAME` is the text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. `--strategies NAME`, given several times, are the ways of using it,
    each with an arm: *diff* has learnt a word for each class and adapters, *ti* the words alone, *real* nothing; *mix* starts
    from pictures of any class, *aug* from the same one, *gen* from noise. `--superclass WORD` ends their prompt: a photo of a
    sparrow bird. `--source RULE` says whose pictures are translated: those of all classes alike (class), as there are images
    (image, unless said), or of classes that are confused. A view is synthetic with probability `--replace P` (.3), of rare
    classes most often.

    `--strength S` is how far they leave their source (1 forgets it), .7 unless said; of several, each is used as often. With
    `--adaptive` the first 32 samples of every class of a *mix* try several, .3 .5 .7 .9 unless said, and the others take the least
    at which its samples have turned, by classifiers that have not seen the source. Of a mixed label S^gamma is the class
    wanted (`--gamma`; 0 is all of it), or with `--measured` what those classifiers give to it.

    Classes are filled up to the largest, or to `--fill-to N`; `--times N` makes N times as many as there are in all instead, of
    each class as many. `--clip NAME` drops what does not show its class by a CLIP.

    `--setting KIND` is the authors' for such data: --times 5, and --replace .1 --source class on *full* ones, .3 and class on
    *few-shot* ones, where rare classes are not preferred, .3 and image on a *long-tail*, where they are. `--preset NAME` is theirs
    for a data set, full unless said: its superclass, 25 steps at guidance 7.5, adapters of rank 10 and a word for each
    class, learnt in 35,000 steps of 8 rows at a constant 5e-5 without averaging. What a flag says beside them stands.
    Ours stay: labels of mass one (theirs .9), words that begin as the class name (theirs as one syllable for all), the
    classifiers, which are not theirs, and the size of the data (theirs 512).

    Classifiers are heads on features of `--backbone NAME` (at `--backbone-size PIXELS`), on all of them or `--components N`, trained
    with `--loss NAME`, their weight decay chosen on validation. Samples have other views of the same images beside them, and
    must beat those alone. Unless said it is the miniature's own CLIP where the pictures are the miniature's: its opponent
    should know what it knows. Otherwise, or with `none`, classifiers are residual networks of `--width CHANNELS` and `--blocks
    N`. They are trained for `--steps N` of `--batch N`.

    `--fit-steps N` trains the adapters, `--guidance SCALE` is 3 unless said. `--adapters FILE[:SCALE]` are merged into the model
    first; with those that are made for it, `--few-steps N` draws in so few (LCM). `--flip/--no-flip`: not for things that have
    a hand. `--groups` adds the arms that look at groups.
    """
    if not base:
        raise Refusal("interclass_mix translates pictures with a text-to-image model: name one with --base")
    if times and fill_to:
        raise Refusal(f"--times {times:g} and --fill-to {fill_to} both say how many: leave one out")
    theirs = SETTINGS[setting or ("full" if preset else "long-tail")]
    if (setting or preset) and not fill_to:
        times = times or TIMES
    if preset:
        superclass = superclass or SUPERCLASSES[preset]
        ground = {"fit_steps": None if smoke else SCHOOLING.steps} | {
            name: value for name, value in ground.items() if value is not None
        }
        if "few_steps" not in ground:  # whose adapters have learnt the guidance
            ground = {"guidance": GUIDANCE} | ground
    base, backbone = bases.opposite(base, backbone)
    stands = grounds.on(data, base=base, backbone=backbone, smoke=smoke, **ground)
    model = dataclasses.replace(stands.generator, prompt=f"a photo of {{a}} {superclass}".strip())
    if preset:
        model = dataclasses.replace(
            model,
            steps=ground.get("few_steps", STEPS),
            schooling=dataclasses.replace(SCHOOLING, steps=model.schooling.steps),
        )
    budget = Even(times=times) if times else FillUp(to=fill_to)
    synthesis: list[tuple[Synthesis, Role]] = []
    mixes: dict[str, Any] = {}
    for name in dict.fromkeys(strategies):
        mixed = name.endswith("mix")
        way = strategy(name, _strengths(strength, adaptive, mixed), source or theirs.source)
        # A translated picture is meant to be like its source; what comes from noise is not meant to be like any.
        kept = AtLeast("nearest_real", 1.0) if isinstance(way.pairing, FromNoise) else KeepAll()
        adapt = None
        if way.adapt != "none":
            adapt = Adapt(kind=way.adapt, flip=ground.get("flip", True))
            adapt = dataclasses.replace(adapt, rank=RANK) if preset else adapt
        asked = (("turned", Turned()),) if mixed and (adaptive or measured) else ()
        item = Synthesis(
            name,
            dataclasses.replace(model, adapt=adapt),
            Piloted(budget) if mixed and adaptive else budget,
            way.pairing,
            (("nearest_real", NearestReal()), *asked, *stands.scores),
            stands.select(kept),
            tutor=stands.tutor if asked or getattr(way.pairing, "listens", False) else None,
        )
        synthesis.append((item, "candidate"))
        claims: Claims = Measured() if mixed and measured else ByStrength(gamma=gamma if mixed else 0.0)
        p = theirs.replace if replace is None else replace
        mixes[name] = Replace(p=p, rare=theirs.rare, claims=claims)
    n = min(trials.n, 3) if smoke else trials.n
    for item, role in stands.augmented(budget):
        synthesis.append((item, role))
        mixes[item.name] = Replace(p=theirs.replace if replace is None else replace, rare=theirs.rare)
    return stands.recipe(
        "interclass_mix", data, Trials(n=n, draws=draws or 1, seed=trials.seed), synthesis, mixes
    )


def _strengths(told: tuple[float, ...], adaptive: bool, mixed: bool) -> Strengths:
    if not adaptive:
        return told if len(told) > 1 else told[0] if told else 0.7
    among = tuple(sorted(set(told or AMONG)))
    if len(among) == 1:
        raise Refusal(
            f"--adaptive chooses among strengths, found {among[0]:g} alone: name several with --strength"
        )
    return Enough(among=among) if mixed else among
