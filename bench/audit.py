"""The audit of 60,000 image files by 2 processes, against one process that does no more than decode them with Pillow.

Ours is the real run: `execute(recipe, to, processes=2, until="audit")` on an image folder, so listing, decoding, hash,
statistics, working-size cache, splits and audit tables, all committed to disk. The baseline does the least that anybody
does with a file: `np.asarray(Image.open(io.BytesIO(bytes)).convert("RGB"))`, one process; for comparison also bare
`Image.open(...).load()`. Files are crops of two photographs, 64 to 128 px, half JPEG (quality 90), half PNG.

A run of N and one of N/10 images differ by 0.9 N images and in nothing else, so the difference of their times is what
images cost; starting two processes that import torch is in both and cancels. The ratio with it is printed too. Both
sides take turns (each turn decodes another third of the files), so that a busy machine hurts both, and the turn with
the median ratio counts. Memory is the sum of the peaks of the resident sets of the driver and of its workers, file
pages included, for N against N/10.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BAR, MEMORY_BAR = 1.6, 1.25
IMAGES, CLASSES, PROCESSES, TURNS = 60_000, 10, 2, 3
SIZES = ((64, 64), (80, 80), (96, 72), (96, 96), (128, 96), (128, 128))  # width, height


# --- the files -----------------------------------------------------------------------------------------------


def write_files(root: Path, first: int, last: int) -> None:
    """Files first..last: each its own crop of a photograph, mirrored or not, brighter or darker."""
    from sklearn.datasets import load_sample_images

    from counterpoise.seeding import generator

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(first, last):
        rng = generator("bench.audit", number)
        width, height = SIZES[rng.integers(len(SIZES))]
        photo = photos[rng.integers(len(photos))]
        zoom = rng.uniform(1, 2.5)
        left, top = (
            rng.uniform(0, whole - zoom * part)
            for whole, part in zip(photo.size, (width, height), strict=True)
        )
        box = (left, top, left + zoom * width, top + zoom * height)
        image = photo.resize((width, height), Image.Resampling.BILINEAR, box=box)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        name = str(root / f"class_{number % CLASSES}" / f"{number:06d}")
        if rng.random() < 0.5:
            image.save(name + ".jpg", quality=90)
        else:
            image.save(name + ".png", compress_level=6)


def write_folders(root: Path, images: int) -> tuple[Path, Path]:
    """A folder of all the images and one of every tenth of them."""
    whole, tenth = root / "whole", root / "tenth"
    for folder in (whole, tenth):
        for label in range(CLASSES):
            (folder / f"class_{label}").mkdir(parents=True)
    edges = np.linspace(0, images, 21).astype(int).tolist()
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in [pool.submit(write_files, whole, *pair) for pair in pairwise(edges)]:
            job.result()
    for folder in sorted(whole.iterdir()):
        for file in sorted(folder.iterdir())[::10]:
            os.link(file, tenth / folder.name / file.name)
    return whole, tenth


# --- both sides ----------------------------------------------------------------------------------------------


def decode_array(data: bytes) -> object:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decode_load(data: bytes) -> object:
    return Image.open(io.BytesIO(data)).load()


def baseline(files: Sequence[Path], decode: Callable[[bytes], object]) -> float:
    """Seconds per image."""
    begin = time.perf_counter()
    for file in files:
        decode(file.read_bytes())
    return (time.perf_counter() - begin) / len(files)


def peak_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_once(root: str, to: str) -> dict[str, Any]:
    """One real run in this process and its workers: its seconds, its peaks, what it audited."""
    import torch

    from counterpoise.data.folders import Folder
    from counterpoise.data.splits import Holdout
    from counterpoise.pipeline import execute
    from counterpoise.recipe import Data, Trials
    from counterpoise.recipes.baselines import baselines

    torch.set_num_threads(1)
    peaks: dict[int, float] = {}

    def watch(stage: str, done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            try:
                peaks[child.pid or 0] = peak_mb(child.pid or 0)
            except (OSError, IndexError):  # it has just ended
                continue

    recipe = baselines(Data(Folder(root), holdout=Holdout()), Trials())
    begin = time.perf_counter()
    run = execute(recipe, to, processes=PROCESSES, until="audit", progress=watch)
    seconds = time.perf_counter() - begin
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = {f"{row['stage']} {row['step']}": row["seconds"] for row in log}
    audit = run.json("audit.json")
    assert audit["quarantined"] == 0, audit
    return {
        "seconds": seconds,
        "images": audit["images"],
        "memory_mb": peak_mb(os.getpid()) + sum(peaks.values()),
        "steps": steps,
    }


def ours(root: Path, to: Path) -> dict[str, Any]:
    """`run_once` in a process of its own, so that its memory is not mixed with the bench's."""
    command = [sys.executable, "-m", "bench.audit", "--one", str(root), str(to)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def turn(files: Sequence[Path], whole: Path, tenth: Path, to: Path) -> dict[str, Any]:
    half = len(files) // 2  # a half before, a half after: the machine's mood changes slowly
    before = baseline(files[:half], decode_array)
    small = ours(tenth, to / "tenth")
    large = ours(whole, to / "whole")
    after = baseline(files[half:], decode_array)
    pillow = (before + after) / 2
    per_image = (large["seconds"] - small["seconds"]) / (large["images"] - small["images"])
    return {
        "pillow": pillow,
        "load": baseline(files[:: max(1, len(files) // 3000)], decode_load),
        "ours": per_image,
        "ratio": pillow / per_image,
        "ratio_with_start": pillow * large["images"] / large["seconds"],
        "seconds": large["seconds"],
        "memory": (small["memory_mb"], large["memory_mb"]),
        "steps": large["steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES, help="fewer for a quick try")
    parser.add_argument("--one", nargs=2, metavar=("ROOT", "TO"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(run_once(*asked.one)))
        return
    with tempfile.TemporaryDirectory() as name:
        whole, tenth = write_folders(Path(name), asked.images)
        files = sorted(whole.rglob("*.*"))
        turns = []
        for number in range(TURNS):
            with tempfile.TemporaryDirectory(dir=name) as to:
                turns.append(turn(files[number::TURNS], whole, tenth, Path(to)))
    middle = sorted(turns, key=lambda one: one["ratio"])[TURNS // 2]
    memory = statistics.median(one["memory"][1] / one["memory"][0] for one in turns)
    show(asked.images, turns, middle)
    speed, memory = round(middle["ratio"], 2), round(memory, 3)
    ratios = {
        "speed": {"ratio": speed, "bar": BAR, "holds": speed >= BAR},
        "memory (lower is better)": {"ratio": memory, "bar": MEMORY_BAR, "holds": memory <= MEMORY_BAR},
    }
    found = {
        "bench": "audit",
        "ratio": speed,
        "bar": BAR,
        "holds": all(one["holds"] for one in ratios.values()),
        "ratios": ratios,
        "with_start": round(middle["ratio_with_start"], 2),
        "against_load": round(middle["load"] / middle["ours"], 2),
        "images": asked.images,
    }
    print(json.dumps(found))


def show(images: int, turns: Sequence[dict[str, Any]], middle: dict[str, Any]) -> None:
    print(f"{images:,} images of 64 to 128 px, half JPEG, half PNG; {PROCESSES} processes against 1")
    print(
        f"{'turn':>4} {'Pillow to array':>16} {'Pillow load':>12} {'audit':>10} {'ratio':>6} {'to load':>8} {'with start':>11}"
        f" {'MB at N/10':>11} {'MB at N':>8}"
    )
    for number, one in enumerate(turns):
        micro = [1e6 * one[side] for side in ("pillow", "load", "ours")]
        print(
            f"{number:>4} {micro[0]:>13.0f} us {micro[1]:>9.0f} us {micro[2]:>7.0f} us {one['ratio']:>6.2f}"
            f" {one['load'] / one['ours']:>8.2f} {one['ratio_with_start']:>11.2f} {one['memory'][0]:>11.0f} {one['memory'][1]:>8.0f}"
        )
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in middle["steps"].items())
    print(f"the middle run took {middle['seconds']:.1f} s: {steps}")


if __name__ == "__main__":
    main()
