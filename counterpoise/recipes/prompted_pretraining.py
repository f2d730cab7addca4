"""Networks that learn from pictures of class names first, and then from the real ones (He et al., ICLR 2023, pre-training)."""

from __future__ import annotations

import dataclasses
from typing import Any

from counterpoise import grounds, named
from counterpoise.classifiers.pretraining import Pretraining
from counterpoise.classifiers.training import Training
from counterpoise.data.augment import CutMix, Flip
from counterpoise.data.views import Tint, Zoom
from counterpoise.nets.finetuned import Finetuned
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import FromNoise
from counterpoise.recipe import Arm, Data, Recipe, Role, Synthesis, Trials
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import KeepAll
from counterpoise.types import Refusal

DRAWN = "drawn"  # the pictures that two arms learn from


#: The pictures are of names alone, and nothing is made in feature space.
@grounds.takes_ground(without=("adapt", "fit_steps", "components", "loss"))
def prompted_pretraining(
    data: Data,
    trials: Trials,
    *,
    base: str = "auto",
    backbone: str = "",
    backbone_size: int | None = None,
    each: int = 100,
    first_steps: int | None = None,
    prompts: named.PromptKind = "grammar",
    language: str = "",
    domain: str = "photo",
    steps: int | None = None,
    draws: int | None = None,
    smoke: bool = False,
    **ground: Any,
) -> Recipe:
    """Networks that are trained on drawn pictures alone before they see a real one, with the labels of those or without.

    counterpoise run photos/ --recipe prompted_pretraining --base miniature --size 32
    Three trials of a prototype gained six points, on classes that the miniature had learnt from; a study is missing (docs/log.md).

    `--base NAME` is the text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. It has seen none of your pictures. Of each class it draws `--each N`, told
    `--prompts KIND` sentences: of a *grammar* of places, lights and views, one *template* (`--domain NAME` says what the pictures are:
    photo, satellite, bird, eurosat ...), or those of a *language* model, `--language NAME`. `--clip NAME` drops what does not show
    its class by a CLIP; the authors filter nothing here.

    The arm *pretrained* learns the labels of the drawn pictures in `--first-steps N`, four times those of the training unless said, *pretrained_contrastive* to
    know each of them again in another view (SimCLR), which needs no label. Heads are then made anew, and all of it is trained on the
    real rows as the arm *cutmix* is. They have to beat the cheap arms, and their own controls: *contrastive_real* looks at the real
    rows again and again, and at unlabelled ones where there are some, *longer* learns the real labels for as many steps more.

    Classifiers are residual networks of `--width CHANNELS` and `--blocks N` from scratch, or with `--backbone NAME` all of a given one (at
    `--backbone-size PIXELS`), trained for `--steps N` (250; a given one 100) of `--batch N`, the rate falling by a cosine. The authors draw 1.2 to
    3.6 million pictures of CIFAR-100's classes, learn them for 90 epochs of AdamW, batch 512, and then the real ones for 200 of SGD at 3e-3, a
    fifth of that from epoch 60, 120 and 160 on.

    `--guidance SCALE` is 3 unless said. `--adapters FILE[:SCALE]` are merged into the model first; with those that are made for it,
    `--few-steps N` draws in so few (LCM). `--flip/--no-flip`: not for things that have a hand. `--groups` adds the arms that look
    at groups.
    """
    if not base:
        raise Refusal("prompted_pretraining draws with a text-to-image model: name one with --base")
    if backbone_size is not None and not backbone:
        raise Refusal("--backbone-size says something of given weights: name them with --backbone")
    steps = steps or (20 if smoke else 100 if backbone else 250)
    stands = grounds.on(data, base=base, adapt="none", steps=steps, smoke=smoke, **ground)
    if backbone:
        training = Training(steps=steps, batch=stands.training.batch, lr=0.003, weight_decay=1e-4)
        network = Finetuned(backbone=backbone, size=backbone_size)
        stands = dataclasses.replace(stands, network=network, training=training)
    drawn = Synthesis(
        DRAWN,
        stands.generator,
        Fixed(4 if smoke else each, unseen=True),
        FromNoise(),
        (("nearest_real", NearestReal()), *stands.scores),
        stands.select(KeepAll()),
        prompts=named.writer(prompts, language, domain),
    )
    before = dataclasses.replace(stands.training, steps=first_steps or 4 * steps)
    known_again = Zoom(), Tint(), *(one for one in stands.look if isinstance(one, Flip))
    labels = Pretraining("supervised", before, (*stands.look, CutMix()))
    views = Pretraining("contrastive", before, known_again)
    whole = stands.recipe(
        "prompted_pretraining",
        data,
        Trials(n=min(trials.n, 3) if smoke else trials.n, draws=draws or 1, seed=trials.seed),
        [],
    )
    plain = dataclasses.replace(stands.made, mix=None)
    starts: dict[str, tuple[str | None, Pretraining, Role]] = {
        "pretrained": (DRAWN, labels, "candidate"),
        "pretrained_contrastive": (DRAWN, views, "candidate"),
        "contrastive_real": (None, views, "control"),
        "longer": (None, labels, "control"),
    }
    fits = [
        dataclasses.replace(plain, name=name, synthesis=of, start=start)
        for name, (of, start, _) in starts.items()
    ]
    return dataclasses.replace(
        whole,
        synthesis=(drawn,),
        fits=(*whole.fits, *fits),
        arms=(*whole.arms, *(Arm(name, name, role=role) for name, (_, _, role) in starts.items())),
    )
