"""Real pictures that a text-to-image model is told of beside the text: it sees what the class looks like in these data.

A row of a plan is told of its source, whatever it starts from. What a picture says is an embedding of a few hundred numbers;
whoever is told all of them makes what is much like it, so that some are left out (Askari-Hemmat et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.denoisers import Schedule
from counterpoise.diffusion.ranks import Ranks
from counterpoise.generators.generator import Context, Row
from counterpoise.nets.conditioning import sinusoids
from counterpoise.nets.diffusers_folder import Folder
from counterpoise.nets.image_adapters import ImageAdapter
from counterpoise.nets.stable_diffusion import Base
from counterpoise.seeding import generator
from counterpoise.spaces.store import Store
from counterpoise.types import Refusal, part

KEPT_BYTES = 1 << 30  # of the embeddings that one encoder made
LARGEST_SEED = 2**62
OPEN_AT_ONCE = 256  # rows, while they are looked at


@part
class Exemplars:
    """What of a picture is told.

    Each number of its embedding is left out with probability `elements`, and of a row all of them with probability `whole`:
    then it is told its text alone, as rows without a source are. `noise` is the step of unCLIP's own schedule up to which
    embeddings are noised. Models that see no pictures by themselves need an `adapter`.

    What is left out is zero, as where there is no picture, and what is left stays as it was: with more left out a row goes
    from its picture to its text. (Dropout in training would scale it up, for means to stay. Here none should.)
    """

    elements: Annotated[float, Field(ge=0, le=1)] = 0.0
    whole: Annotated[float, Field(ge=0, le=1)] = 0.0
    noise: Annotated[int, Field(ge=0)] = 0
    adapter: ImageAdapter | None = None

    def ready(self, folder: Folder) -> None:
        """Refuses what can be refused before anything is opened."""
        if self.adapter is not None:
            self.adapter.ready(folder)
        elif not folder.family.seen(folder.settings):
            raise Refusal(
                f"{folder.name} is a {folder.family.pipeline}, which is told of no pictures: give it an adapter (IP-Adapter), or "
                "name an unCLIP model"
            )
        steps = 1 if self.adapter is not None else folder.image_schedule["steps"]
        if self.noise >= steps:
            raise Refusal(
                f"of pictures {folder.name} knows noise up to step {steps - 1}, found {self.noise}: ask for less"
            )

    def __call__(self, base: Base, rows: Sequence[Row], ctx: Context) -> Tensor:
        """What the network is told of the source of each row (b, numbers); zeros of none."""
        told = torch.zeros(len(rows), base.seen)
        some = [place for place, row in enumerate(rows) if row.get("source_id")]
        if some:
            ids, which = np.unique([rows[place]["source_id"] for place in some], return_inverse=True)
            known = _embedded(base, ctx.real(ids.tolist()))[which]
            told[some] = self.told(base, known, [rows[place]["seed"] for place in some])
        return told

    def of(self, base: Base, rows: Rows) -> Callable[[np.ndarray, torch.Generator], Tensor]:
        """What is told of training rows each time they are seen: each is its own exemplar."""
        slices = np.array_split(np.arange(len(rows)), -(-len(rows) // OPEN_AT_ONCE))
        known = torch.cat([_embedded(base, rows.raw(some)) for some in slices])

        def told(picked: np.ndarray, rng: torch.Generator) -> Tensor:
            seeds = torch.randint(LARGEST_SEED, (len(picked),), generator=rng)
            return self.told(base, known[torch.from_numpy(picked)], seeds.tolist())

        return told

    def told(self, base: Base, known: Tensor, seeds: Sequence[int]) -> Tensor:
        """Embeddings (n, d) => (n, numbers). All draws of a row are of its seed."""
        heard, kept, noise = _draws(seeds, known.shape[1], self.whole, self.elements)
        if self.adapter is not None:
            return known * kept * heard
        mean, deviation = base.usual
        schedule = Schedule(**{name: value for name, value in base.image_schedule.items() if name != "kind"})
        sigma = float(schedule.sigmas[self.noise])
        noised = ((known - mean) / deviation + sigma * noise) / (1 + sigma**2) ** 0.5
        level = sinusoids(torch.full((len(known),), self.noise), known.shape[1])
        return torch.cat([(noised * deviation + mean) * kept, level], 1) * heard


def _draws(seeds: Sequence[int], width: int, whole: float, elements: float) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a row hears of its picture (n, 1), of which numbers (n, d), and noise (n, d)."""
    heard, kept, noise = [], [], []
    for seed in seeds:
        rng = generator("exemplar", seed)
        heard.append([rng.random() >= whole])
        kept.append(rng.random(width) >= elements)
        noise.append(rng.standard_normal(width, np.float32))
    return tuple(torch.from_numpy(np.array(found)) for found in (heard, kept, noise))  # type: ignore[return-value]


def _embedded(base: Base, pixels: np.ndarray) -> Tensor:
    """Each picture is seen once on a machine, and alone: its neighbours in a batch must not decide a bit."""
    eye = base.eye.to(Ranks.alone().device)

    def see(pictures: np.ndarray) -> np.ndarray:
        return np.concatenate([eye(torch.from_numpy(np.array(one[None]))).cpu().numpy() for one in pictures])

    return torch.from_numpy(Store.of(f"seen-{eye.digest}", KEPT_BYTES).rows(pixels, see))
