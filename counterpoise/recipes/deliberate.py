"""Rounds of samples, each asked for by a classifier that has learnt from the ones before (after Deliberate Practice)."""

from __future__ import annotations

import dataclasses
from typing import Any

from counterpoise import grounds
from counterpoise.proposals.budgets import Adaptive, ByNeed, FillUp
from counterpoise.proposals.pairings import FromNoise
from counterpoise.recipe import Data, Recipe, Synthesis, Trials
from counterpoise.recipes.feedback_guided import CRITERIA, CriterionName, Mode, guide, scores
from counterpoise.scores.select import AtLeast
from counterpoise.types import Refusal


@grounds.takes_ground()
def deliberate(
    data: Data,
    trials: Trials,
    *,
    criterion: CriterionName = "loss",
    feedback: float | None = None,
    every: int | None = None,
    floor: float | None = None,
    mode: Mode | None = None,
    rounds: int = 6,
    share: float = 1 / 18,
    patience: int = 1,
    fill_to: int | None = None,
    draws: int | None = None,
    smoke: bool = False,
    **ground: Any,
) -> Recipe:
    """Few samples, made where a classifier that learns from them still errs, against classes filled up in one go.

    counterpoise run digits --recipe deliberate --cut exp:20:top=40:shuffled --pool 0.45 --no-flip
    Measured numbers and their commit are in docs/results.md.

    At most `--rounds N` times this happens: a classifier is trained further on all there is; its errors on validation
    say which classes get the next samples, `--share SHARE` of what filling up would take by then; they are guided by
    `--criterion NAME` with `--feedback SCALE` on every `--every N`-th step (`--floor`, `--mode`: see `feedback_guided`); after
    `--patience N` rounds without gain, and a little more the longer it has run, it stops. Beside it stand classes that
    were filled up to the largest, or to `--fill-to N`, and about as many samples as all rounds may make, spread evenly in one go.

    `--groups` counts class x group cells, and adds the arms that look at groups. With `--backbone NAME` (at
    `--backbone-size PIXELS`) this happens among features, `--components N` of them (128; 0: all), and heads are trained with
    `--loss NAME`; without one on pixels, with `--guidance SCALE` of the generator and residual networks of `--width
    CHANNELS` and `--blocks N`; `--flip/--no-flip`: not for things that have a hand. The generator learns for `--fit-steps N`,
    classifiers for `--steps N` of `--batch N`.

    `--base NAME` takes a text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. Of it `--adapt KIND` is learnt: adapters and a word for each class
    (lora), all of it (full), words alone, or none. `--clip NAME` drops what does not show its class by such a
    model (the two miniatures read texts with the same network: together they agree more than they should). `--guidance` is 1
    on pixels and 3 with a base. `--adapters FILE[:SCALE]` are merged into the model first; with those that are made for it,
    `--few-steps N` draws in so few (LCM).
    """
    if rounds < 1 or not 0 < rounds * share <= 1:
        raise Refusal(
            f"--rounds times --share is at most 1, what filling up would take, found {rounds} x {share:g}: lower one of them"
        )
    stands = grounds.on(data, smoke=smoke, **ground)
    pull = dataclasses.replace(guide(feedback, every, mode, floor), criterion=CRITERIA[criterion])
    whole = FillUp(to=fill_to)
    by_group = bool(ground.get("groups"))
    filled = Synthesis(
        "filled",
        stands.generator,
        whole,
        FromNoise(),
        (*scores(pull.criterion), *stands.scores),
        stands.select(AtLeast("nearest_real", 1.0)),
        tutor=stands.tutor,
        by_group=by_group,
    )
    even = ByNeed(budget=whole, share=rounds * share, floor=1.0)
    practice = Adaptive(ByNeed(budget=whole, share=share), rounds=rounds, patience=patience)
    return stands.recipe(
        "deliberate",
        data,
        Trials(n=min(trials.n, 3) if smoke else trials.n, draws=draws or 1, seed=trials.seed),
        [
            (filled, "candidate"),
            (dataclasses.replace(filled, name="even", budget=even), "candidate"),
            (dataclasses.replace(filled, name="deliberate", budget=practice, guides=(pull,)), "candidate"),
        ],
    )
