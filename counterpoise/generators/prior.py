"""What a text-to-image model knew of classes before it learnt: pictures of its own, made for their names alone.

A model that learns a class from few rows forgets what it knew of the name, and of other things besides. So part of what it
sees are its own pictures from before (prior preservation, Ruiz et al. 2023, arXiv 2208.12242, Equation 2). They are drawn
without guidance: of such samples no model expects less error than the one that made them, so that they ask for no change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from counterpoise.diffusion.checkpoints import refusing_full_disk
from counterpoise.diffusion.ranks import Ranks
from counterpoise.generators.generator import Context, Failed
from counterpoise.rundir import commit
from counterpoise.seeding import derive
from counterpoise.spaces.latents import Latents
from counterpoise.types import Refusal, fingerprint

if TYPE_CHECKING:
    from counterpoise.generators.stable_diffusion import StableDiffusion

PRIOR = "prior"  # the folder, in that of a generator
PER_CLASS = 20  # at most: they take as long to make as samples do
STEPS = 20


@dataclass(frozen=True)
class Known:
    x: Tensor  # (n, c, h, w)
    labels: np.ndarray  # (n,)


class Undecoded(Latents):
    """Samples remain latents."""

    def back(self, x: Tensor, labels: np.ndarray) -> list[np.ndarray | str]:
        return list(x.numpy())


def known_before(
    model: StableDiffusion, space: Latents, classes: Sequence[str], views: int, folder: Path
) -> Known:
    """As many for each class as `views` of all of them ask for; a file for each, and what is there is not made again."""
    channels, size = space.own
    config, ranks = model.supposed(channels, size, classes), Ranks.here()
    plain = dataclasses.replace(model, adapt=None, balance=None, guides=(), sampler="dpmpp_2m", steps=STEPS)
    net = plain.network_for(config, seed=0).to(ranks.device)
    undecoded = Undecoded(space.autoencoder, None, space.shape, space.size, space.own)
    sample = plain.sampled(net, None, undecoded, Context(lambda ids: np.zeros(0)))
    count = min(PER_CLASS, math.ceil(views / len(classes)))
    asked = {"base": config["content"], "prompt": model.prompt, "steps": STEPS, "count": count}
    files = [folder / f"{fingerprint(asked | {'class': name})}.safetensors" for name in classes]
    for label in range(ranks.rank, len(classes), ranks.world):
        if not files[label].exists():
            seeds = [derive("prior", classes[label], number) for number in range(count)]
            rows = [{"label": label, "seed": seed, "strength": 1.0} for seed in seeds]
            at_once = model.schooling.batch  # the fit has room for as many
            made = [x for at in range(0, count, at_once) for x in sample(rows[at : at + at_once])]
            _write(files[label], [x for x in made if not isinstance(x, Failed)])
    net.to("cpu")  # it is no part of the fit, which needs the room
    ranks.wait()
    found = [load_file(file)["x"] for file in files]
    return Known(torch.cat(found), np.repeat(np.arange(len(classes)), [len(x) for x in found]))


def _write(file: Path, made: list[np.ndarray]) -> None:
    if not made:
        raise Refusal("the model makes nothing finite of a class as it is: leave prior at 0")
    content = save({"x": torch.from_numpy(np.stack(made))})
    with refusing_full_disk(file.parent):
        commit(file, lambda out: out.write(content))
