"""Class-conditional diffusion on pixels, 8 to 64 px, trained on the uneven data itself.

With `balance` it is class-balancing diffusion (Qin et al. 2023, CBDM), without it plain conditional diffusion. The
folder of a fitted generator holds `weights.safetensors` (the averaged weights), `config.json`, `log.jsonl` and grids
of samples that were drawn while it learnt.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from counterpoise.data.nonleaky import NonLeaky
from counterpoise.data.pixels import Rows
from counterpoise.diffusion.checkpoints import Folder
from counterpoise.diffusion.denoisers import EDM, Cond, Denoiser, Eps
from counterpoise.diffusion.guides import CFG, AutoGuidance, Clamp, guided
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.ladder import cut, discrete, karras
from counterpoise.diffusion.losses import ClassBalancing, LogNormal
from counterpoise.diffusion.ranks import Ranks
from counterpoise.diffusion.samplers import SAMPLERS
from counterpoise.diffusion.start import from_noise, from_source
from counterpoise.diffusion.training import Material, Schooling, autocast, train_denoiser
from counterpoise.generators.generator import Context, Failed, Lesson, Row, Sampler
from counterpoise.nets.dit import DiT
from counterpoise.nets.mlp import MLP
from counterpoise.nets.unet import UNet, UNetModel
from counterpoise.rundir import commit
from counterpoise.seeding import derive
from counterpoise.types import Refusal, describe, fingerprint, part

SMALLEST, LARGEST = 8, 64  # pixels
WEAK_SHARE = 0.15  # of the steps: how long the copy that autoguidance steers away from is trained
GRID_COLUMNS, GRID_CLASSES = 8, 12
GAP, FRAME = 1, 128  # pixels between the tiles of a grid, and their grey


@part
class PixelDiffusion:
    """Settings of a pixel diffusion model: what is trained, how, and how samples are drawn from it.

    `network` is a part, or one of "mlp", "unet", "dit" for the one of that kind that suits the size; None chooses the kind. `init` names the folder of an earlier one to go on from (fine-tuning).
    """

    network: Any = None
    objective: Any = LogNormal()
    schooling: Schooling = Schooling()
    balance: ClassBalancing | None = None
    augment: NonLeaky | None = None
    init: str | None = None
    sampler: Literal["dpmpp_2m", "heun", "euler", "ddim", "ancestral"] = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guides: tuple[Any, ...] = (CFG(scale=1.5),)
    learns: ClassVar[bool] = True
    takes_guides: ClassVar[bool] = True

    # --- learning ------------------------------------------------------------------------------------------

    def fit(self, lesson: Lesson, out: Path, seed: int) -> None:
        shape = _shape(lesson.rows)
        config = {"channels": shape[2], "size": shape[0], "classes": list(lesson.classes)}
        ranks = Ranks.here()
        self._train(lesson, config, out, seed, self.schooling.steps, ranks)
        if any(isinstance(guide, AutoGuidance) for guide in self.guides):
            steps = max(1, round(WEAK_SHARE * self.schooling.steps))
            self._train(lesson, config, out / "weak", seed, steps, ranks)
        if ranks.leads:
            told = {"generator": describe(self)} | config
            commit(out / "config.json", lambda file: file.write(json.dumps(told, indent=2).encode()))

    def _train(self, lesson: Lesson, config: dict, out: Path, seed: int, steps: int, ranks: Ranks) -> None:
        path = out / "weights.safetensors"
        if path.exists():
            return
        settings = dataclasses.replace(self.schooling, steps=steps)
        identity = fingerprint({"generator": describe(self), "seed": seed, "steps": steps} | config)
        net = self._network(config, seed)
        if self.init is not None:
            _begin_from(Path(self.init), net, config, self)
        grid = self._grid(config, seed)
        folder = Folder(out, identity, grid, lesson.hear)
        material = Material(
            lambda picked: to_space(lesson.rows.batch(picked)),
            lesson.labels,
            len(lesson.classes),
            None if lesson.pool is None else lambda picked: to_space(lesson.pool.batch(picked)),  # type: ignore[union-attr]
            0 if lesson.pool is None else len(lesson.pool),
        )
        if material.pool is None and (settings.pretrain or settings.pool_share):
            raise Refusal(
                "this generator learns from an unlabelled pool as well, and the data have none: "
                "put some aside with --pool SHARE"
            )
        made = train_denoiser(
            net, self.objective, material, settings, seed, folder, self.balance, self.augment, ranks
        )
        if ranks.leads:
            weights = {key: value.cpu().contiguous() for key, value in made.state_dict().items()}
            commit(path, lambda file: file.write(save(weights)))
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
            sample = self._sampler(net, net, config, Context(lambda ids: np.zeros(0)))
            tiles = [np.zeros_like(x) if isinstance(x, Failed) else x for x in sample(rows)]
            framed = [np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=FRAME) for tile in tiles]
            lines = [framed[at : at + GRID_COLUMNS] for at in range(0, len(framed), GRID_COLUMNS)]
            sheet = np.concatenate([np.concatenate(line, 1) for line in lines])
            file = io.BytesIO()
            Image.fromarray(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet).save(file, "PNG")
            return file.getvalue()

        return draw

    # --- sampling ------------------------------------------------------------------------------------------

    def load(self, out: Path, ctx: Context) -> Sampler:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        device = Ranks.alone().device
        net = _opened(self, out, json.dumps(config), str(device))
        weak = (
            _opened(self, out / "weak", json.dumps(config), str(device)) if (out / "weak").is_dir() else None
        )
        return self._sampler(net, weak, config, ctx)

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
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            found = call(x, noise, cond)
            forward = time.perf_counter() - start
            found.square().mean().backward()
            taken.append((forward / batch, (time.perf_counter() - start) / batch))
        forward, step = taken[-1]
        doubled = 2 if self.balance else 1
        return self.schooling.steps * self.schooling.batch * step * doubled, self.steps * forward

    # --- leaving -------------------------------------------------------------------------------------------

    def export(self, fitted: Path, out: Path) -> None:
        """A fitted model as a folder that diffusers samples from."""
        from counterpoise.nets.to_diffusers import export_pipeline

        config = json.loads((fitted / "config.json").read_text(encoding="utf-8"))
        net, read = _opened(self, fitted, json.dumps(config), "cpu"), self.objective.parametrisation
        if not isinstance(net, UNetModel) or not isinstance(read, EDM | Eps):
            raise Refusal(
                f"diffusers has no pipeline for {type(net).__name__} trained as {type(read).__name__}: only U-Nets "
                "trained as EDM or DDPM can be exported (--network unet trains one)"
            )
        more: dict[str, Any] = {"kind": "eps"}
        if isinstance(read, EDM):
            more = {"kind": "edm", "sigma_data": read.sigma_data}
            more |= {"sigma_min": read.sigma_min, "sigma_max": read.sigma_max}
        scales = [guide.scale for guide in self.guides if isinstance(guide, CFG)]
        export_pipeline(
            net,
            out,
            classes=config["classes"],
            size=config["size"],
            channels=config["channels"],
            steps=self.steps,
            scale=scales[0] if scales else 1.0,
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
    """The network of a kind that suits a size; of all, the U-Net had the least Frechet distance after equal time."""
    unet = UNet() if size < 28 else UNet(width=64, levels=(1, 1, 2))
    return {"unet": unet, "mlp": MLP(), "dit": DiT()}[kind or "unet"]


def _shape(rows: Rows) -> tuple[int, int, int]:
    height, width, channels = rows.raw(np.arange(1))[0].shape
    if not SMALLEST <= height <= LARGEST:
        raise Refusal(
            f"pixel diffusion works on {SMALLEST} to {LARGEST} pixels, found {height} x {width}: "
            "choose another --size, or a generator that works in a latent space"
        )
    return height, width, channels


@lru_cache(maxsize=4)
def _opened(settings: PixelDiffusion, out: Path, config: str, device: str) -> nn.Module:
    net = settings._network(json.loads(config), seed=0)
    net.load_state_dict(load_file(out / "weights.safetensors"))
    return net.to(device).eval().requires_grad_(False)


def _begin_from(folder: Path, net: nn.Module, config: dict, generator: PixelDiffusion) -> None:
    """Take the weights of an earlier generator; its classes may be others, the rest must be the same."""
    if not (folder / "config.json").exists() or not (folder / "weights.safetensors").exists():
        raise Refusal(
            f"{folder} is no fitted pixel diffusion: config.json and weights.safetensors are looked for in it, "
            "for example runs/digits/generators/round_0/diffusion/draw_0"
        )
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    theirs = found | {name: found["generator"][name] for name in ("network", "augment")}
    ours = config | {"network": describe(generator.network), "augment": describe(generator.augment)}
    for field in ("channels", "size", "network", "augment"):
        if theirs[field] != ours[field]:
            raise Refusal(
                f"{folder}: its {field} is {theirs[field]}, this run's is {ours[field]}: they must agree"
            )
    state = load_file(folder / "weights.safetensors")
    mine = net.state_dict()
    if found["classes"] != config["classes"]:  # label embeddings of other classes mean nothing here
        state |= {name: mine[name] for name, value in mine.items() if state[name].shape != value.shape}
    net.load_state_dict(state)
