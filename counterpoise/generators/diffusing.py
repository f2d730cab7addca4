"""What diffusion generators share, whatever their space: training into a folder, going on from it, sampling rows of a plan.

The folder of a fitted one holds `weights.safetensors` (the averaged weights, and what its space has learnt),
`config.json` and `log.jsonl`; with autoguidance there is a folder `weak` of the same kind in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.batches import Augment, Material
from counterpoise.diffusion.checkpoints import Folder, refusing_full_disk
from counterpoise.diffusion.denoisers import NO_LABEL, Cond, Denoiser, snr_to_sigma
from counterpoise.diffusion.guides import CFG, AutoGuidance, guided
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.ladder import cut, discrete, karras, strength_of
from counterpoise.diffusion.losses import ClassBalancing
from counterpoise.diffusion.precision import autocast
from counterpoise.diffusion.ranks import Ranks
from counterpoise.diffusion.samplers import SAMPLERS, calls
from counterpoise.diffusion.start import from_noise, from_source
from counterpoise.diffusion.training import Schooling, train_denoiser
from counterpoise.generators.fitted import CONFIG, WEIGHTS, digest, read_config, refuse_another
from counterpoise.generators.generator import TEXT, Context, Failed, Lesson, Row, Sampler
from counterpoise.rundir import commit
from counterpoise.types import Refusal, describe, fingerprint

WEAK_SHARE = 0.15  # of the steps: how long the copy that autoguidance steers away from is trained
SPACE = "space."  # begins the names of what lies with the weights and is none of them
LEAST_SHARE = 1 / 4  # of the steps are taken, however little noise there is to come down from (docs/log.md)


class Space(Protocol):
    """Rows of the study as x, the tensors that are noised and denoised, and back."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x."""
        ...

    @property
    def guides(self) -> tuple[Any, ...]:
        """What its limits ask of every estimate, around all other guides."""
        ...

    @property
    def spread(self) -> float:
        """Standard deviation of a number in x, about."""
        ...

    def into(self, rows: np.ndarray, labels: np.ndarray) -> Tensor: ...
    def back(self, x: Tensor, labels: np.ndarray) -> Iterable[np.ndarray | str]:
        """A row for each x, or why there is none."""
        ...

    def look(self, x: Tensor, labels: Tensor) -> Tensor:
        """x as a classifier sees rows; gradients pass."""
        ...

    def sources(self, rows: Sequence[Row], ctx: Context) -> Tensor:
        """Where these rows of a plan start, without noise."""
        ...


class Shares:
    """At how many of the noise levels where something may befall a row it did."""

    def __init__(self) -> None:
        self.levels: dict[str, Tensor] = {}

    def add(self, what: str, rows: Tensor) -> None:
        self.levels[what] = self.levels.get(what, torch.zeros(len(rows))) + rows.cpu().float()

    def told(self) -> dict[str, np.ndarray]:
        """By what befell them, the share of the guided noise levels for each row (b,)."""
        guided = self.levels.pop("guided", None)
        if guided is None:
            return {}
        return {what: (times / guided).numpy() for what, times in self.levels.items()}


@dataclass(frozen=True)
class Shown:
    """What the trainings of one fit look at, made by the first that does."""

    settings: Diffusing
    lesson: Lesson
    config: dict[str, Any]
    out: Path

    @cached_property
    def learnt(self) -> dict[str, np.ndarray]:
        return self.settings.learn_space(self.lesson)

    @cached_property
    def material(self) -> Material:
        space = self.settings.space(self.config, self.learnt)
        return self.settings.material(self.lesson, space, self.settings.settled(self.config), self.out)


class Diffusing:
    """The work of a part whose fields are at least these; how it sees rows is said in the methods below them."""

    objective: Any
    schooling: Schooling
    balance: ClassBalancing | None
    sampler: Any
    steps: int
    guides: tuple[Any, ...]
    learns: ClassVar[bool] = True
    takes_guides: ClassVar[bool] = True
    reads_prompts: ClassVar[bool] = False
    own_space: ClassVar[bool] = False
    learning: ClassVar[tuple[str, ...]]  # the fields that decide the weights; the others only sample

    def config(self, lesson: Lesson) -> dict[str, Any]:
        """What a network is made for: channels, size and classes; rows that do not suit are refused."""
        raise NotImplementedError

    def network_for(self, config: dict[str, Any], seed: int) -> nn.Module:
        raise NotImplementedError

    def learn_space(self, lesson: Lesson) -> dict[str, np.ndarray]:
        """What the space has to know of the training rows."""
        return {}

    def space(self, config: dict[str, Any], learnt: Mapping[str, np.ndarray]) -> Space:
        raise NotImplementedError

    def settled(self, config: dict[str, Any]) -> Schooling:
        """The schooling, with a learning rate that suits."""
        return self.schooling

    def decides(self, steps: int) -> dict[str, Any]:
        """The settings that weights are of, trained for so long."""
        return {name: describe(getattr(self, name)) for name in self.learning} | {"steps": steps}

    def to_sample(self, net: nn.Module, config: dict[str, Any]) -> nn.Module:
        """A network with nothing left to learn in the form that says the same soonest."""
        return net

    def begin(self, net: nn.Module, config: dict[str, Any]) -> None:
        """Give a new network other first weights than its own."""

    def preview(self, config: dict[str, Any], seed: int) -> Callable[[int, nn.Module], bytes] | None:
        """Draws what the model makes of fixed requests, if there is anything to look at."""
        return None

    def ladder(self) -> Tensor:
        """The noise levels that a sample comes down from noise alone."""
        read = self.objective.parametrisation
        if hasattr(read, "schedule"):
            return discrete(read.schedule, self.steps)
        return karras(self.steps, read.sigma_min, read.sigma_max)

    def strength_at(self, snr_db: float) -> float:
        """The strength at which x, taken to have unit variance, has this signal-to-noise ratio; 1 where only noise is as noisy.

        The same noise on every schedule and ladder: abar / (1 - abar) where it preserves the variance, ((1 - t) / t)^2 on a
        flow, 1 / sigma^2 in EDM. Latents are not pixels: at equal noise pictures are left further there.
        """
        return strength_of(self.ladder(), snr_to_sigma(10 ** (snr_db / 10)))

    def seen(self, rows: Sequence[Row], ctx: Context) -> Tensor | None:
        """What the network is told of the sources of these rows, wherever it starts; zeros of none."""
        return None

    @property
    def changes(self) -> Augment | None:
        """How training rows are changed each time they are seen."""
        return None

    # --- learning ------------------------------------------------------------------------------------------

    def fit(self, lesson: Lesson, out: Path, seed: int) -> None:
        config, ranks = self.config(lesson), Ranks.here()
        shown = Shown(self, lesson, config, out)
        self._train(shown, lesson.hear, out, seed, self.schooling.steps, ranks)
        if self._guides_itself:
            steps = max(1, round(WEAK_SHARE * self.schooling.steps))
            self._train(shown, _nobody, out / "weak", seed, steps, ranks)
        if ranks.leads:
            told = {"generator": describe(self)} | config
            with refusing_full_disk(out):
                commit(out / CONFIG, lambda file: file.write(json.dumps(told, indent=2).encode()))

    @property
    def _guides_itself(self) -> bool:
        return any(isinstance(guide, AutoGuidance) for guide in inside(self.guides))

    def _train(
        self, shown: Shown, hear: Callable[[float], None], out: Path, seed: int, steps: int, ranks: Ranks
    ) -> None:
        config, settings = shown.config, dataclasses.replace(self.settled(shown.config), steps=steps)
        identity = fingerprint(self.decides(steps) | {"seed": seed} | config | {"data": digest(shown.lesson)})
        folder = Folder(out, identity, self.preview(config, seed), hear)
        if refuse_another(out, identity):
            folder.finish()
            return
        net = self.network_for(config, seed)
        if not folder.begun:
            self.begin(net, config)
        made = net
        if list(net.parameters()):  # else all of its weights are other people's
            made = train_denoiser(
                net,
                self.objective,
                shown.material,
                settings,
                seed,
                folder,
                self.balance,
                self.changes,
                ranks,
            )
        if ranks.leads:
            weights = {key: value.cpu().contiguous() for key, value in made.state_dict().items()}
            weights |= {SPACE + name: torch.from_numpy(value) for name, value in shown.learnt.items()}
            with refusing_full_disk(out):
                commit(out / WEIGHTS, lambda file: file.write(save(weights, {"identity": identity})))
            folder.preview(steps, made)
            folder.finish()
        ranks.wait()

    def material(
        self, lesson: Lesson, space: Space, settings: Schooling, out: Path | None = None
    ) -> Material:
        """What is learnt from, as tensors. What has to be made for it first lies in `out`."""

        def seen(rows: Rows, labels: np.ndarray) -> Callable[[np.ndarray], Tensor]:
            return lambda picked: space.into(rows.raw(picked), labels[picked])

        pool = lesson.pool
        if pool is None and (settings.pretrain or settings.pool_share):
            raise Refusal(
                "this generator learns from an unlabelled pool as well, and the data have none: "
                "put some aside with --pool SHARE"
            )
        return Material(
            seen(lesson.rows, lesson.labels),
            lesson.labels,
            len(lesson.classes),
            None if pool is None else seen(pool, np.full(len(pool), NO_LABEL)),
            0 if pool is None else len(pool),
        )

    # --- sampling ------------------------------------------------------------------------------------------

    def load(self, out: Path, ctx: Context) -> Sampler:
        config = read_config(out)
        net, learnt = opened(self, out, config)
        weak = opened(self, out / "weak", config)[0] if (out / "weak").is_dir() else None
        return self.sampled(net, weak, self.space(config, learnt), ctx)

    def sampled(self, net: nn.Module, weak: nn.Module | None, space: Space, ctx: Context) -> Sampler:
        device = next(chain(net.parameters(), net.buffers())).device
        read, ladder = self.objective.parametrisation, self.ladder()
        least = math.ceil(LEAST_SHARE * self.steps)

        def denoiser(net: nn.Module) -> Denoiser:
            return read.denoiser(autocast(net.eval(), device, self.schooling.bf16))

        @torch.no_grad()
        def sample(rows: Sequence[Row]) -> list[np.ndarray | Failed]:
            seeds = [row["seed"] for row in rows]
            strength = rows[0]["strength"]
            rungs = cut(ladder, strength, least)
            labels = np.array([row["label"] for row in rows])
            label = torch.from_numpy(labels).to(device)
            text = torch.stack([row[TEXT] for row in rows]).to(device) if TEXT in rows[0] else None
            seen = self.seen(rows, ctx)
            cond = Cond(label, text=text, image=None if seen is None else seen.to(device))
            plain, shares = denoiser(net), Shares()
            hears = GuideContext(
                ladder=rungs,
                weak=None if weak is None else denoiser(weak),
                model=plain,
                spread=space.spread,
                label=torch.from_numpy(ctx.class_of(labels)).to(device),
                look=lambda x: space.look(x, label),
                teacher=ctx.teacher,
                judge=ctx.judge,
                dealt=None if ctx.dealt is None else torch.from_numpy(ctx.dealt(rows)).to(device),
                tell=shares.add,
            )
            denoise = guided(plain, (*self.guides, *space.guides, *ctx.guides), hears)
            if strength < 1:
                x = from_source(rungs, space.sources(rows, ctx), seeds)
            else:
                x = from_noise(rungs, seeds, space.shape)
            made = SAMPLERS[self.sampler](denoise, x.to(device), rungs, cond, seeds).cpu()
            ctx.tell(rows, shares.told())
            sound = made.flatten(1).isfinite().all(1).tolist()
            found = space.back(made, labels)
            return [
                Failed("not finite") if not ok else Failed(one) if isinstance(one, str) else one
                for one, ok in zip(found, sound, strict=True)
            ]

        return sample

    # --- what it costs -------------------------------------------------------------------------------------

    def supposed(self, channels: int, size: int, classes: Sequence[str]) -> dict[str, Any]:
        """The config of such rows, of which there are none yet."""
        return {"channels": channels, "size": size, "classes": list(classes)}

    def shape(self, config: dict[str, Any]) -> tuple[int, ...]:
        """Of one x."""
        return (config["channels"], config["size"], config["size"])

    def stored(self, channels: int, size: int, classes: int) -> int:
        """Bytes of the weights of a fitted one, about."""
        config = self.supposed(channels, size, [f"class {number}" for number in range(classes)])
        learnt = sum(weight.numel() for weight in self.network_for(config, seed=0).parameters())
        return 4 * learnt * (2 if self._guides_itself else 1)

    def seconds(self, channels: int, size: int, classes: int, batch: int = 16) -> tuple[float, float]:
        """About how long a fit takes here, and a sample: timed on a few rows."""
        config = self.supposed(channels, size, [f"class {number}" for number in range(classes)])
        net, device = self.network_for(config, seed=0), Ranks.alone().device
        x = torch.zeros(batch, *self.shape(config), device=device)
        noise = torch.zeros(batch, device=device)
        # Rows of as many classes as there may be: each may be a text of its own that has to be read.
        cond = Cond(torch.arange(batch, device=device) % classes)

        def timed(net: nn.Module) -> float:
            call = autocast(net.to(device), device, self.schooling.bf16)
            for _ in range(3):  # the last one counts: the first ones warm up
                start = time.perf_counter()
                found = call(x, noise, cond)
                if found.requires_grad:
                    found.square().mean().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
            return time.perf_counter() - start

        step = timed(net) if list(net.parameters()) else 0.0  # else there is nothing to learn
        with torch.no_grad():
            forward = timed(self.to_sample(net.requires_grad_(False), config))
        twice = any(isinstance(guide, CFG) and guide.scale not in (0, 1) for guide in inside(self.guides))
        fit = self.schooling.steps * self.schooling.batch * step * (2 if self.balance else 1)
        return fit / batch, calls(self.sampler, self.steps) * forward * (2 if twice else 1) / batch


def inside(guides: Sequence[Any]) -> Iterator[Any]:
    """The guides, and those that they act for on an interval."""
    for guide in guides:
        yield guide
        yield from inside([guide.guide] if hasattr(guide, "guide") else [])


def _nobody(share: float) -> None:
    """Nobody is told."""


def opened(
    settings: Diffusing, out: Path, config: dict[str, Any], device: torch.device | None = None
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """The network of a fitted generator, and what its space has learnt."""
    path = out / WEIGHTS
    device = device or Ranks.alone().device
    return _read(settings, path, path.stat().st_mtime_ns, json.dumps(config), device)


@lru_cache(maxsize=2)  # of a lot: with autoguidance there are two
def _read(
    settings: Diffusing, path: Path, changed: int, config: str, device: torch.device
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """`changed` is not read: weights that were fitted anew are opened anew."""
    of, found = json.loads(config), load_file(path)
    net = settings.network_for(of, seed=0)
    net.load_state_dict({name: value for name, value in found.items() if not name.startswith(SPACE)})
    learnt = {
        name.removeprefix(SPACE): value.numpy() for name, value in found.items() if name.startswith(SPACE)
    }
    return settings.to_sample(net.requires_grad_(False), of).to(device).eval().requires_grad_(False), learnt
