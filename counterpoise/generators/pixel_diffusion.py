"""Class-conditional diffusion on pixels, 8 to 64 px, trained on the uneven data itself.

With `balance` it is class-balancing diffusion (Qin et al. 2023, CBDM), without it plain conditional diffusion. The
folder of a fitted generator holds `weights.safetensors` (the averaged weights), `config.json`, `log.jsonl` and grids
of samples that were drawn while it learnt.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.checkpoints import Folder, refusing_full_disk
from counterpoise.diffusion.denoisers import EDM, Cond, Denoiser, Eps
from counterpoise.diffusion.guides import CFG, AutoGuidance, Clamp, guided
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.ladder import cut, discrete, karras
from counterpoise.diffusion.losses import ClassBalancing, LogNormal
from counterpoise.diffusion.precision import autocast
from counterpoise.diffusion.ranks import Ranks
from counterpoise.diffusion.samplers import SAMPLERS, calls
from counterpoise.diffusion.start import from_noise, from_source
from counterpoise.diffusion.training import Material, Schooling, train_denoiser
from counterpoise.generators.fitted import CONFIG, WEIGHTS, begin_from, read_config, refuse_another
from counterpoise.generators.generator import Context, Failed, Lesson, Row, Sampler
from counterpoise.generators.sheet import contact_sheet
from counterpoise.nets.dit import DiT
from counterpoise.nets.mlp import MLP
from counterpoise.nets.unet import UNet, UNetModel
from counterpoise.rundir import commit
from counterpoise.seeding import derive
from counterpoise.types import Refusal, describe, fingerprint, part

SMALLEST, LARGEST = 8, 64  # pixels
WEAK_SHARE = 0.15  # of the steps: how long the copy that autoguidance steers away from is trained
GRID_COLUMNS, GRID_CLASSES, GRID_STEPS = 8, 12, 20
LEARNING = (
    "network",
    "objective",
    "schooling",
    "balance",
    "augment",
    "init",
)  # the other settings only sample


@part
class PixelDiffusion:
    """Settings of a pixel diffusion model: what is trained, how, and how samples are drawn from it.

    `network` is a part, or one of "mlp", "unet", "dit" for the one of that kind that suits the size; None chooses the
    kind. `augment` is `NonLeaky` or `Mirror`. `init` names the folder of an earlier one to go on from (fine-tuning).
    """

    network: Any = None
    objective: Any = LogNormal()
    schooling: Schooling = Schooling()
    balance: ClassBalancing | None = None
    augment: Any = None
    init: str | None = None
    sampler: Literal["dpmpp_2m", "heun", "euler", "ddim", "ancestral"] = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guides: tuple[Any, ...] = (CFG(scale=1.5),)
    learns: ClassVar[bool] = True
    takes_guides: ClassVar[bool] = True

    # --- learning ------------------------------------------------------------------------------------------

    def fit(self, lesson: Lesson, out: Path, seed: int) -> None:
        height, _, channels = _shape(lesson.rows)
        config = {"channels": channels, "size": height, "classes": list(lesson.classes)}
        ranks = Ranks.here()
        self._train(lesson, config, out, seed, self.schooling.steps, ranks)
        if any(isinstance(guide, AutoGuidance) for guide in _inside(self.guides)):
            steps = max(1, round(WEAK_SHARE * self.schooling.steps))
            self._train(dataclasses.replace(lesson, hear=_nobody), config, out / "weak", seed, steps, ranks)
        if ranks.leads:
            told = {"generator": describe(self)} | config
            with refusing_full_disk(out):
                commit(out / CONFIG, lambda file: file.write(json.dumps(told, indent=2).encode()))

    def _train(self, lesson: Lesson, config: dict, out: Path, seed: int, steps: int, ranks: Ranks) -> None:
        lr = self.schooling.lr or rate_for(config["size"])
        settings = dataclasses.replace(self.schooling, steps=steps, lr=lr)
        learning = {name: describe(getattr(self, name)) for name in LEARNING} | {"steps": steps, "seed": seed}
        identity = fingerprint(learning | config | {"data": _digest(lesson)})
        folder = Folder(out, identity, self._grid(config, seed), lesson.hear)
        if refuse_another(out, identity):
            folder.finish()
            return
        net = self._network(config, seed)
        if self.init is not None and not folder.begun:
            agree = {name: config[name] for name in ("channels", "size")}
            agree |= {name: describe(getattr(self, name)) for name in ("network", "augment")}
            begin_from(Path(self.init), net, agree, config["classes"])
        pool = lesson.pool
        if pool is None and (settings.pretrain or settings.pool_share):
            raise Refusal(
                "this generator learns from an unlabelled pool as well, and the data have none: "
                "put some aside with --pool SHARE"
            )
        material = Material(
            lambda picked: to_space(lesson.rows.batch(picked)),
            lesson.labels,
            len(lesson.classes),
            None if pool is None else lambda picked: to_space(pool.batch(picked)),
            0 if pool is None else len(pool),
        )
        made = train_denoiser(
            net, self.objective, material, settings, seed, folder, self.balance, self.augment, ranks
        )
        if ranks.leads:
            weights = {key: value.cpu().contiguous() for key, value in made.state_dict().items()}
            with refusing_full_disk(out):
                commit(out / WEIGHTS, lambda file: file.write(save(weights, {"identity": identity})))
            folder.preview(steps, made)
            folder.finish()
        ranks.wait()

    def _network(self, config: dict, seed: int) -> nn.Module:
        told = 0 if self.augment is None else self.augment.dim
        network = (
            network_for(config["size"], self.network)
            if isinstance(self.network, str | None)
            else self.network
        )
        return network(config["channels"], len(config["classes"]), config["size"], seed, told)

    def _grid(self, config: dict, seed: int) -> Callable[[int, nn.Module], bytes]:
        """A picture of the same requests every time: a row for each of the first classes."""

        def draw(step: int, net: nn.Module) -> bytes:
            labels = range(min(len(config["classes"]), GRID_CLASSES))
            rows = [
                {"label": label, "seed": derive("grid", seed, label, column), "strength": 1.0}
                for label in labels
                for column in range(GRID_COLUMNS)
            ]
            # The weak copy of autoguidance is not there yet: away from itself is nowhere.
            quick = dataclasses.replace(self, sampler="dpmpp_2m", steps=min(self.steps, GRID_STEPS))
            sample = quick._sampler(net, net, config, Context(lambda ids: np.zeros(0)))
            shape = (config["size"], config["size"], config["channels"])
            tiles = [np.zeros(shape, np.uint8) if isinstance(x, Failed) else x for x in sample(rows)]
            return contact_sheet(tiles, GRID_COLUMNS)

        return draw

    # --- sampling ------------------------------------------------------------------------------------------

    def load(self, out: Path, ctx: Context) -> Sampler:
        config, device = read_config(out), str(Ranks.alone().device)
        weak = _opened(self, out / "weak", json.dumps(config), device) if (out / "weak").is_dir() else None
        return self._sampler(_opened(self, out, json.dumps(config), device), weak, config, ctx)

    def _sampler(self, net: nn.Module, weak: nn.Module | None, config: dict, ctx: Context) -> Sampler:
        shape = (config["channels"], config["size"], config["size"])
        device = next(net.parameters()).device
        read = self.objective.parametrisation

        def denoiser(net: nn.Module) -> Denoiser:
            return read.denoiser(autocast(net.eval(), device, self.schooling.bf16))

        def ladder() -> Tensor:
            if hasattr(read, "schedule"):
                return discrete(read.schedule, self.steps)
            return karras(self.steps, read.sigma_min, read.sigma_max)

        @torch.no_grad()
        def sample(rows: Sequence[Row]) -> list[np.ndarray | Failed]:
            seeds = [row["seed"] for row in rows]
            strength = rows[0]["strength"]
            rungs = cut(ladder(), strength)
            guides = GuideContext(ladder=rungs, weak=None if weak is None else denoiser(weak))
            denoise = guided(denoiser(net), (*self.guides, Clamp()), guides)
            cond = Cond(torch.tensor([row["label"] for row in rows], device=device))
            if strength < 1:
                source = ctx.real([row["source_id"] for row in rows])
                x = from_source(rungs, to_space(torch.from_numpy(source).permute(0, 3, 1, 2)), seeds)
            else:
                x = from_noise(rungs, seeds, shape)
            made = SAMPLERS[self.sampler](denoise, x.to(device), rungs, cond, seeds).cpu()
            sound = made.flatten(1).isfinite().all(1).tolist()
            images = to_pixels(made)
            return [image if ok else Failed("not finite") for image, ok in zip(images, sound, strict=True)]

        return sample

    # --- what it costs -------------------------------------------------------------------------------------

    def seconds(self, channels: int, size: int, classes: int, batch: int = 16) -> tuple[float, float]:
        """About how long a fit takes here, and a sample: timed on a few rows."""
        net = self._network({"channels": channels, "size": size, "classes": range(classes)}, seed=0)
        device = Ranks.alone().device
        call = autocast(net.to(device), device, self.schooling.bf16)
        x, noise = torch.zeros(batch, channels, size, size, device=device), torch.zeros(batch, device=device)
        cond = Cond(torch.zeros(batch, dtype=torch.long, device=device))

        def now() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

        for _ in range(3):  # the last one counts: the first ones warm up
            start = now()
            found = call(x, noise, cond)
            forward = now() - start
            found.square().mean().backward()
            step = now() - start
        twice = any(isinstance(guide, CFG) and guide.scale not in (0, 1) for guide in _inside(self.guides))
        fit = self.schooling.steps * self.schooling.batch * step * (2 if self.balance else 1)
        return fit / batch, calls(self.sampler, self.steps) * forward * (2 if twice else 1) / batch

    # --- leaving -------------------------------------------------------------------------------------------

    def export(self, fitted: Path, out: Path) -> None:
        """A fitted model as a folder that diffusers samples from."""
        from counterpoise.nets.to_diffusers import export_pipeline

        config = read_config(fitted)
        net, read = _opened(self, fitted, json.dumps(config), "cpu"), self.objective.parametrisation
        if not isinstance(net, UNetModel) or not isinstance(read, EDM | Eps):
            raise Refusal(
                f"diffusers has no pipeline for {type(net).__name__} trained as {type(read).__name__}: only U-Nets "
                "trained as EDM or DDPM can be exported (--network unet trains one)"
            )
        if any(not isinstance(guide, CFG) for guide in self.guides):
            raise Refusal(
                "a diffusers pipeline knows classifier-free guidance at all noise levels only, found "
                f"{', '.join(type(guide).__name__ for guide in self.guides)}: sample with this package, or without them"
            )
        if isinstance(read, EDM):
            more: dict[str, Any] = {"kind": "edm"} | {
                name: getattr(read, name) for name in ("sigma_data", "sigma_min", "sigma_max")
            }
        else:
            schedule = read.schedule
            more = {"kind": "eps", "train_steps": schedule.steps}
            more |= {"beta_first": schedule.beta_first, "beta_last": schedule.beta_last}
        export_pipeline(
            net,
            out,
            classes=config["classes"],
            size=config["size"],
            channels=config["channels"],
            steps=self.steps,
            scale=self.guides[0].scale if self.guides else 1.0,
            **more,
        )


def to_space(pixels: Tensor) -> Tensor:
    """uint8 (b, c, h, w) => floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_pixels(x: Tensor) -> np.ndarray:
    """Floats (b, c, h, w) => uint8 (b, h, w, c)."""
    bytes_ = ((x.nan_to_num() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return bytes_.permute(0, 2, 3, 1).contiguous().numpy()


def network_for(size: int, kind: str | None = None) -> Any:
    """The network of a kind that suits a size. After equal time they were close (docs/results.md)."""
    unet = UNet() if size < 28 else UNet(width=64, levels=(1, 1, 2))
    return {"unet": unet, "mlp": MLP(), "dit": DiT()}[kind or "unet"]


def rate_for(size: int) -> float:
    """At 32 pixels the balanced U-Net stops learning at the rate that is best at 8 (docs/log.md)."""
    return 4e-3 if size < 28 else 1e-3


def _inside(guides: Sequence[Any]) -> Iterator[Any]:
    """The guides, and those that they act for on an interval."""
    for guide in guides:
        yield guide
        yield from _inside([guide.guide] if hasattr(guide, "guide") else [])


def _nobody(share: float) -> None:
    """Nobody is told."""


def _digest(lesson: Lesson) -> str:
    """Of what is learnt from: the labels, and the pixels of the first rows of each side."""
    found = hashlib.blake2b(lesson.labels.tobytes(), digest_size=8)
    for rows in (lesson.rows, lesson.pool):
        if rows is not None:
            found.update(len(rows).to_bytes(8, "little"))
            found.update(rows.raw(np.arange(min(len(rows), 64))).tobytes())
    return found.hexdigest()


def _shape(rows: Rows) -> tuple[int, ...]:
    shape = rows.raw(np.arange(1))[0].shape
    if len(shape) != 3:
        raise Refusal(
            f"pixel diffusion makes pictures, and these rows are feature vectors of {shape[0]} numbers"
        )
    if not SMALLEST <= shape[0] <= LARGEST:
        raise Refusal(
            f"pixel diffusion works on {SMALLEST} to {LARGEST} pixels, found {shape[0]} x {shape[1]}: "
            "choose another --size, or a generator that works in a latent space"
        )
    return shape


def _opened(settings: PixelDiffusion, out: Path, config: str, device: str) -> nn.Module:
    return _read(settings, out / WEIGHTS, (out / WEIGHTS).stat().st_mtime_ns, config, device)


@lru_cache(maxsize=4)
def _read(settings: PixelDiffusion, path: Path, changed: int, config: str, device: str) -> nn.Module:
    """`changed` is not read: weights that were fitted anew are opened anew."""
    net = settings._network(json.loads(config), seed=0)
    net.load_state_dict(load_file(path))
    return net.to(device).eval().requires_grad_(False)
