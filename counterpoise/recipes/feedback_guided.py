"""Samples that a classifier asks for: diffusion guided by what would teach it (Askari-Hemmat et al. 2023), in one shot."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from counterpoise import grounds
from counterpoise.diffusion.criteria import Entropy, Hardness, Loss, Margin
from counterpoise.diffusion.feedback import Coverage, Feedback
from counterpoise.proposals.budgets import ByNeed, FillUp
from counterpoise.proposals.pairings import FromNoise
from counterpoise.recipe import Data, Recipe, Role, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.feedback import Fidelity, Usefulness
from counterpoise.scores.select import AtLeast
from counterpoise.types import Refusal

CRITERIA: dict[str, Any] = {
    "loss": Loss(),
    "capped_loss": Loss(cap=2.0),
    "entropy": Entropy(),
    "entropy_on_label": Entropy(on_label=0.5),
    "hardness": Hardness(),
    "margin": Margin(),
}
CriterionName = Literal["loss", "capped_loss", "entropy", "entropy_on_label", "hardness", "margin"]
Mode = Literal["fast", "published"]
#: The settings of the paper's repository, whatever the generator. Its scale is a share of a sample's length.
AS_PUBLISHED = {"criterion": "entropy", "feedback": 0.03, "every": 5, "mode": "published"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "imagenet_lt": AS_PUBLISHED | {"fill_to": 1300},
    "nico": AS_PUBLISHED | {"groups": True},
}


@grounds.takes_ground()
def feedback_guided(
    data: Data,
    trials: Trials,
    *,
    criterion: Literal[CriterionName, "all"] | None = None,
    feedback: float | None = None,
    every: int | None = None,
    floor: float | None = None,
    mode: Mode | None = None,
    sweep: tuple[float, ...] = (),
    coverage: float = 0.0,
    need: Literal["error", "loss", "entropy"] | None = None,
    published: Literal["imagenet_lt", "nico"] | None = None,
    fill_to: int | None = None,
    draws: int | None = None,
    smoke: bool = False,
    **ground: Any,
) -> Recipe:
    """Classes filled up with samples that a classifier steers to what it does not know yet, unguided ones beside them.

    counterpoise run digits --recipe feedback_guided --cut exp:20:top=40:shuffled --pool 0.45 --no-flip
    Measured numbers and their commit are in docs/results.md.

    `--criterion NAME` is what is raised (all: an arm for each), `--feedback SCALE` by how much: the density of samples is
    multiplied by exp(scale x criterion). It acts on every `--every N`-th step, and pulls no sample to where the judge gives its
    class a log probability below `--floor LOG_P` (-1 is p = .37). `--mode published` is the paper's: a
    second call of the network with a gradient through it, and a nudge by that share of the sample's length. `--sweep
    SCALE`, given several times, makes an arm for each, of which validation chooses one; the report draws them.
    `--coverage SCALE` pulls every sample towards a real row of its class. `--need KIND` adds unguided arms that
    spend the same number of samples where validation says that it is needed, and evenly; `--groups` fills class x group cells and adds the arms
    that look at groups. `--published PRESET` takes all this from the paper.

    With `--backbone NAME` (at `--backbone-size PIXELS`) this happens among features, `--components N` of them (128; 0: all),
    and heads are trained with `--loss NAME`; without one on pixels, with `--guidance SCALE` of the generator and residual
    networks of `--width CHANNELS` and `--blocks N`; `--flip/--no-flip`: not for things that have a hand. Classes are filled up to the
    largest, or to `--fill-to N`. The generator learns for `--fit-steps N`, classifiers for `--steps N` of `--batch N`.

    `--base NAME` takes a text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. Of it `--adapt KIND` is learnt: adapters and a word for each class
    (lora), all of it (full), words alone, or none. `--clip NAME` drops what does not show its class by such a
    model (the two miniatures read texts with the same network: together they agree more than they should). `--guidance` is 1
    on pixels and 3 with a base. `--adapters FILE[:SCALE]` are merged into the model first; with those that are made for it,
    `--few-steps N` draws in so few (LCM).
    """
    flags = {"criterion": criterion, "feedback": feedback, "every": every, "mode": mode, "fill_to": fill_to}
    told: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if sweep and feedback is not None:
        raise Refusal(
            f"--sweep names the scales to try, found --feedback {feedback:g} beside it: leave one of them out"
        )
    preset = PUBLISHED.get(published or "", {})
    if clash := [f"--{name.replace('_', '-')}" for name in told if name in preset]:
        raise Refusal(f"--published {published} settles what {', '.join(clash)} would: leave one of them out")
    told |= preset
    by_group = bool(told.pop("groups", False) or ground.get("groups", False))
    stands = grounds.on(data, smoke=smoke, **(ground | {"groups": by_group}))
    asked = told.get("criterion", "loss")
    shared = guide(told.get("feedback"), told.get("every"), told.get("mode"), floor)
    diverse = (Coverage(scale=coverage),) if coverage else ()
    plain = Synthesis("unguided", stands.generator, FillUp(to=told.get("fill_to")), FromNoise())
    plain = dataclasses.replace(
        plain,
        tutor=stands.tutor,
        by_group=by_group,
        scores=(*scores(CRITERIA.get(asked, Entropy())), *stands.scores),
        select=stands.select(AtLeast("nearest_real", 1.0)),
    )
    synthesis: list[tuple[Synthesis, Role]] = [(plain, "candidate")]
    for name in CRITERIA if asked == "all" else [asked]:
        for strength in sweep or (shared.scale,):
            pull = dataclasses.replace(shared, criterion=CRITERIA[name], scale=strength)
            called = f"{name}_{strength:g}" if sweep else name
            item = dataclasses.replace(
                plain,
                name=called,
                guides=(pull, *diverse),
                scores=(*scores(CRITERIA[name]), *stands.scores),
            )
            synthesis.append((item, "candidate"))
    if need:  # without guides: what the plan alone is worth, against as many samples spread evenly
        spent = ByNeed(budget=plain.budget, of=need)
        even = dataclasses.replace(plain, name="even", budget=dataclasses.replace(spent, floor=1.0))
        synthesis += [
            (even, "candidate"),
            (dataclasses.replace(plain, name="by_need", budget=spent), "candidate"),
        ]
    n = min(trials.n, 3) if smoke else trials.n
    return stands.recipe("feedback_guided", data, Trials(n=n, draws=draws or 1, seed=trials.seed), synthesis)


def guide(
    scale: float | None = None, every: int | None = None, mode: Mode | None = None, floor: float | None = None
) -> Feedback:
    """Feedback with its own defaults where nothing else is said; the published mode's scale is another measure."""
    if mode == "published" and floor is not None:
        raise Refusal(f"--mode published asks no judge, found --floor {floor:g}: leave one of them out")
    said: dict[str, Any] = {"scale": scale, "every": every, "mode": mode, "floor": floor}
    if mode == "published" and scale is None:
        said["scale"] = AS_PUBLISHED["feedback"]
    return Feedback(**{name: value for name, value in said.items() if value is not None})


def scores(criterion: Any) -> tuple[tuple[str, Any], ...]:
    """What is told of every sample, guided or not: is it a copy, what would it teach, does the judge know its class?"""
    return (("nearest_real", NearestReal()), ("useful", Usefulness(criterion)), ("label", Fidelity()))
