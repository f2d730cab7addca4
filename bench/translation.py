"""Translation: images/s of plan rows to PNG files against diffusers' image-to-image pipeline called once per image as the published code does, and the time outside the networks.

Both take 25 steps of DPM-Solver++(2M) at strength 0.7 and guidance 7.5, which are 17 calls, with the same random U-Net
of 10 million weights at latents of 16 x 16 and an autoencoder that costs as much of a call as Stable Diffusion's does.
Theirs has all threads of the machine and 32-bit numbers, as diffusers has them on a processor. Ours is two processes of
one thread; every source serves four rows, and no latents are known before. What each factor alone brings is measured on
few pictures. Fewer steps are listed apart: they are no part of the ratio.

The time outside the networks is that of one 512-pixel picture between networks that do nothing: planning, reading,
noise, guidance, the solver's arithmetic, bytes, PNG and disk. It is held against Stable Diffusion 1.5's own calls, which
are timed here on weights of zero.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench._translating import (
    CLASSES,
    FOLD,
    SCALE,
    SD15,
    STEPS,
    STRENGTH,
    Shape,
    context,
    forgetting,
    nets,
    pictures,
    planned,
    sampler,
    saved,
    theirs,
    translating,
    written,
)
from counterpoise.diffusion.denoisers import Cond, Eps, Velocity
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.ladder import cut, discrete, from_sigma
from counterpoise.diffusion.samplers import ddim, dpmpp_2m
from counterpoise.diffusion.start import from_noise
from counterpoise.generators.generator import Row
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.seeding import derive
from counterpoise.spaces.latents import Latents

BAR, OUTSIDE_BAR = 2.5, 0.05
SMALL = Shape(side=16, unet=(48, 96, 192), vae=(16, 32, 48, 48), text=256, layers=4, groups=16, heads=2)
SOURCES, ROWS, FEW, BATCH = 8, 32, 2, 16
CALLS = int(STEPS * STRENGTH)
STAIRS = (
    "theirs",
    "theirs, embeddings given",
    "ours, one by one",
    "+ batches",
    "+ latents known",
    "+ bf16",
    "ours",
)


class Cost(NamedTuple):
    """In seconds: on the clock, and of all processors together, which a busy machine changes less."""

    wall: float
    busy: float


# --- ours ----------------------------------------------------------------------------------------------------


def worker(folder: Path, pixels: Path, rows: Sequence[Row], out: Path, ready: Any, told: Any) -> None:
    """One of the processes: opens the model, waits for the others, and says when it began and ended."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the libraries' own
    real = np.load(pixels, mmap_mode="r")
    sample = sampler(folder, real, bf16=True)
    sample([row | {"strength": 1.0} for row in rows[:1]])  # from noise: warms up, and no latents are kept
    ready.wait()
    begun, busy = time.time(), time.process_time()
    written(sample, rows, BATCH, out)
    told.put((begun, time.time(), time.process_time() - busy))


def together(folder: Path, pixels: Path, rows: Sequence[Row], out: Path, processes: int) -> Cost:
    """What a picture costs with so many processes of one thread."""
    spawn = multiprocessing.get_context("spawn")
    ready, told = spawn.Barrier(processes), spawn.Queue()
    shares = [rows[at::processes] for at in range(processes)]
    started = [
        spawn.Process(target=worker, args=(folder, pixels, share, out, ready, told)) for share in shares
    ]
    for process in started:
        process.start()
    begun, ended, busy = zip(*(told.get(timeout=600) for _ in started), strict=True)
    for process in started:
        process.join()
    return Cost((max(ended) - min(begun)) / len(rows), sum(busy) / len(rows))


# --- what each factor brings ---------------------------------------------------------------------------------


def cost(work: Callable[[], object], of: int = 1, times: int = 1) -> Cost:
    """Of one of so many things that the work makes, the least of some times."""
    found = []
    for _ in range(times):
        start, busy = time.perf_counter(), time.process_time()
        work()
        found.append(Cost((time.perf_counter() - start) / of, (time.process_time() - busy) / of))
    return min(found)


@torch.no_grad()
def measured(shape: Shape, work: Path, threads: int) -> Iterator[tuple[str, Cost]]:
    """What a picture costs, way by way."""
    folder, out = saved(shape, work / "base"), work / "made"
    out.mkdir()
    pixels = pictures(SOURCES, shape.size)
    np.save(work / "pixels.npy", pixels)
    rows = planned(pixels, ROWS)
    prompts = [f"a photo of a {CLASSES[row['label']]}" for row in rows]
    torch.set_num_threads(threads)

    pipe = theirs(folder)
    translate = translating(pipe, pixels, shape.size, out)
    translate(rows[0], prompts[0])
    yield "theirs", cost(lambda: translate(rows[1], prompts[1]), times=FEW)
    told = pipe.encode_prompt(prompts[1], "cpu", 1, True)
    kept = {"prompt_embeds": told[0], "negative_prompt_embeds": told[1]}
    yield "theirs, embeddings given", cost(lambda: translate(rows[1], "", **kept), times=FEW)
    pipe.to(torch.bfloat16)
    translate(rows[0], prompts[0])
    yield "theirs, bf16", cost(lambda: translate(rows[1], prompts[1]), times=FEW)

    forgetting(Path(os.devnull))  # none are kept
    single = sampler(folder, pixels, bf16=False)
    some = rows[:BATCH]
    written(single, some[:1], 1, out)
    yield "ours, one by one", cost(lambda: written(single, some[:FEW], 1, out), FEW)
    yield "+ batches", cost(lambda: written(single, some, BATCH, out), BATCH)
    forgetting(work / "known")
    written(single, [row | {"strength": 0.0} for row in some], BATCH, out)  # latents and no steps
    yield "+ latents known", cost(lambda: written(single, some, BATCH, out), BATCH)
    fast = sampler(folder, pixels, bf16=True)
    written(fast, some[:1], BATCH, out)
    yield "+ bf16", cost(lambda: written(fast, some, BATCH, out), BATCH)

    forgetting(work / "cold")
    yield "ours", together(folder, work / "pixels.npy", rows, out, threads)
    pipe.to(torch.float32)
    yield "theirs, again", cost(lambda: translate(rows[1], prompts[1]), times=FEW)


# --- outside the networks ------------------------------------------------------------------------------------


class Nothing(nn.Module):
    """Networks of the right shapes that cost nothing."""

    scale, shift = 1.0, 0.0

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.made = torch.from_numpy(pictures(1, size)).permute(0, 3, 1, 2) / 127.5 - 1

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        return x

    def encode(self, shown: Tensor) -> tuple[Tensor, Tensor]:
        some = shown[:, :1, ::FOLD, ::FOLD].expand(-1, 4, -1, -1)
        return some, some

    def decode(self, x: Tensor) -> Tensor:
        return self.made.expand(len(x), -1, -1, -1)


def outside(work: Path, n: int = 16) -> float:
    """Seconds per 512-pixel picture that no network takes."""
    forgetting(work / "outside")
    pixels, model = pictures(n, SD15.size), StableDiffusion(steps=STEPS, guides=(CFG(SCALE),))
    nothing: Any = Nothing(SD15.size)
    space = Latents(nothing, None, (4, SD15.side, SD15.side), SD15.size, (3, SD15.size))
    sample = model.sampled(nothing, None, space, context(pixels))
    out = work / "outside_made"
    out.mkdir()
    return cost(lambda: written(sample, planned(pixels, n), n, out), n, 3).busy


@torch.no_grad()
def stable_diffusion() -> dict[str, float]:
    """Seconds of Stable Diffusion 1.5's networks for one picture: a guided call of the U-Net in bf16, and both ways of
    the autoencoder in the 32 bits that it runs in here. All weights are zero."""

    def made(name: str, dtype: torch.dtype) -> nn.Module:
        with torch.device("meta"):
            net = nets(SD15)[name]()
        net = net.to(dtype).to_empty(device="cpu").eval()
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.zero_()
        return net

    unet: Any = made("unet", torch.bfloat16)
    x, told = torch.zeros(2, 4, SD15.side, SD15.side).bfloat16(), torch.zeros(2, 77, SD15.text).bfloat16()
    call = cost(lambda: unet(x, 500, told), times=2).busy
    coder: Any = made("vae", torch.float32)
    return {
        "guided call": call,
        "encode": cost(lambda: coder.encode(torch.zeros(1, 3, SD15.size, SD15.size))).busy,
        "decode": cost(lambda: coder.decode(torch.zeros(1, 4, SD15.side, SD15.side))).busy,
    }


# --- fewer steps ---------------------------------------------------------------------------------------------


@torch.no_grad()
def fewer(rows: int = 16) -> int:
    """In how many calls DPM-Solver++(2M) is as near to the exact path as DDIM in 17: on the trained miniature."""
    model = StableDiffusion()
    config = model.supposed(3, 32, ["apple", "bicycle", "fox", "house"])
    net = model.network_for(config, seed=0).requires_grad_(False)
    read = model.objective.parametrisation
    assert isinstance(read, Eps | Velocity)
    denoise = CFG(3.0)(read.denoiser(net), GuideContext())
    top, space = cut(discrete(read.schedule, STEPS), STRENGTH), model.space(config, {})
    seeds, cond = [derive("bench.translation", i) for i in range(rows)], Cond(torch.arange(rows) % 4)
    start = from_noise(top, seeds, space.shape)

    def ladder(calls: int) -> Tensor:
        passed = torch.linspace(float(read.schedule.time(top[:1])), -1, calls + 1)[:-1].round().long()
        return from_sigma(torch.cat([read.schedule.sigmas[passed], torch.zeros(1)]).double(), float(top[0]))

    exact = ddim(denoise, start, ladder(400), cond, seeds)

    def off(solver: Any, calls: int) -> float:
        return float((solver(denoise, start, ladder(calls), cond, seeds) - exact).square().mean().sqrt())

    bar = off(ddim, CALLS)
    return next(calls for calls in range(2, CALLS + 1) if off(dpmpp_2m, calls) <= bar or calls == CALLS)


def main() -> None:
    warnings.simplefilter("ignore")  # the libraries' own
    threads = os.cpu_count() or 1
    with TemporaryDirectory() as name:
        found = {}
        for what, one in measured(SMALL, Path(name), threads):
            found[what] = one
            print(
                f"{what:>26}: {one.wall:7.3f} s and {one.busy:7.3f} s of processors per picture", flush=True
            )
        torch.set_num_threads(1)
        beside = outside(Path(name))
    theirs_, ours = min(found["theirs"], found["theirs, again"]), found["ours"]
    for before, after in pairwise(STAIRS):
        print(f"{before} => {after}: {found[before].busy / found[after].busy:.2f} times")
    ratio = min(theirs_.wall / ours.wall, theirs_.busy / ours.busy)
    print(
        f"images per second {theirs_.wall / ours.wall:.2f} times theirs, per second of processors {theirs_.busy / ours.busy:.2f} times"
    )
    sd = stable_diffusion()
    networks = CALLS * sd["guided call"] + sd["decode"] + sd["encode"] * SOURCES / ROWS
    share = beside / (beside + networks)
    wide = (beside + networks - CALLS * sd["guided call"]) / (beside + networks)
    print(
        f"Stable Diffusion 1.5, one thread: {', '.join(f'{what} {value:.2f} s' for what, value in sd.items())}; outside the "
        f"networks {beside:.3f} s per picture, {share:.2%} of the total; with the autoencoder counted as outside {wide:.1%}"
    )
    calls = fewer()
    print(f"not counted: DPM-Solver++(2M) in {calls} calls is as near to the exact path as DDIM in {CALLS}")
    told = {"ratio": round(ratio, 2), "bar": BAR, "holds": ratio >= BAR}
    ratios = {
        "end to end": told,
        "outside the networks (a share, at most)": {
            "ratio": round(share, 4),
            "bar": OUTSIDE_BAR,
            "holds": share <= OUTSIDE_BAR,
        },
    }
    costs = {what: [round(one.wall, 4), round(one.busy, 4)] for what, one in found.items()}
    both = told | {"holds": all(one["holds"] for one in ratios.values())}
    print(
        json.dumps(
            {"bench": "translation"}
            | both
            | {"ratios": ratios, "seconds": costs, "sd15": sd, "vae_outside": wide}
        )
    )


if __name__ == "__main__":
    main()
