"""Pictures of classes that are known by name alone, and a classifier that learns from them (He et al. 2023, zero-shot)."""

from __future__ import annotations

import dataclasses
from typing import Any

from counterpoise import grounds, named
from counterpoise.data.cuts import FewShot
from counterpoise.data.names import Names
from counterpoise.nets.stable_diffusion import base_folder
from counterpoise.recipe import Arm, Data, Recipe, Role, Synthesis, Trials


@grounds.takes(named.on, without=("shots", "flip", "orders"))
def prompted(
    data: Data, trials: Trials, *, draws: int | None = None, smoke: bool = False, **ground: Any
) -> Recipe:
    """Classes that nobody has a picture of: they are drawn from sentences about their names, filtered by a CLIP, and learnt from.

    counterpoise run photos/ --recipe prompted --base miniature --size 32
    counterpoise run names:dolphin,rose,wolf --recipe prompted --base miniature --size 32
    On the miniature it does not beat the class names alone (docs/results.md).

    Training images are not looked at, whoever has some, unless `--cut` says how many: few:4, and then a head tuned on those alone has to be beaten as well. Of class names alone, a text file
    with one on every line or names:CAT,DOG, pictures can be made and taken home, but nothing can be proven of them.

    `--base NAME` is the text-to-image model: on the hub, a folder, `miniature`, the small one of this package, or `auto`, Stable
    Diffusion 1.5 where it can be had and else the miniature. It is told `--prompts KIND` sentences: of a *grammar* of
    places, lights and views, one *template* (`--domain NAME` says what the pictures are: photo, satellite, bird, eurosat ...), or those of a
    *language* model, `--language NAME`. Of each class `--each N` pictures are kept. `--clip NAME` judges them, a
    CLIP or SigLIP other than the one that learns where there is one (`none`: whatever is drawn is kept): a picture passes that
    is likelier to be its class than any other (`--accept named`), or, as published, than by chance (*likely*). More are made until
    enough have passed, but never more than `--most X` times as many as are wanted.

    The classifier is what the class names say in `--backbone NAME`, a CLIP or SigLIP (at `--backbone-size PIXELS`), its head then trained
    on the pictures alone for `--steps N` with the published settings; of a picture's label a share, `--share S`, is what the names alone say of it.
    Nothing is chosen on validation. It has to beat the names alone, and with `--pool DIR`, a folder of your own unlabelled pictures,
    as many of those, found by the class names. The arm *plain* is drawn from one template and not filtered.

    `--guidance SCALE` is 3 unless said. `--adapters FILE[:SCALE]` are merged into the model first; with those that are made for it,
    `--few-steps N` draws in so few (LCM).
    """
    stands = named.on(data, shots=False, smoke=smoke, **ground)
    model = stands.generator
    if isinstance(getattr(data.source, "source", data.source), Names):  # as large as the model draws them
        own = base_folder(model.base, model.revision, model.allow_pickle).size
        data = dataclasses.replace(data, size=data.size or own)
    elif data.cut is None:
        data = dataclasses.replace(data, cut=FewShot(0))
    elif data.cut != FewShot(0):  # what the few pictures are worth by themselves
        alone = dataclasses.replace(stands.made, name="tuned")
        arms = [*stands.arms, Arm("tuned", "tuned")]
        stands = dataclasses.replace(stands, fits=[*stands.fits, alone], arms=arms)
    plain = stands.drawn("plain", budget=stands.wanted, scores=(), select=None, prompts=None)
    made: list[tuple[Synthesis, Role]] = [(plain, "candidate"), (stands.drawn("prompted"), "candidate")]
    made += stands.retrieved(data)
    n = min(trials.n, 3) if smoke else trials.n
    return stands.recipe("prompted", data, Trials(n=n, draws=draws or 1, seed=trials.seed), made)
