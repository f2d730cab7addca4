"""The filter by a CLIP: pictures a second against scoring one by one as published, and against a plain batched loop of transformers.

Everybody reads the same stored samples, on one thread, and keeps what is likelier than by chance; time is the processor's.
As published, each picture goes through the model alone and all class names go with it, each time. The plain loop is
`CLIPProcessor` and `CLIPModel` in batches, the best of several sizes, with names read once, which costs it no time here;
nor does opening a model. Ours decodes the table, looks, writes down what it saw (into an empty folder) and chooses. On a
chip that multiplies in bf16 pictures are looked at in it, and how many samples the two choose differently is printed.

Two models: the miniature of the package, and one of random weights with the sizes of ViT-B/32.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from counterpoise import tables
from counterpoise.gathering import samples_in
from counterpoise.nets import miniatures
from counterpoise.nets.words import prompts
from counterpoise.rundir import Run
from counterpoise.scores import looking
from counterpoise.scores.batch import Batch
from counterpoise.scores.clip import Clip, Margin
from counterpoise.scores.select import AtLeast
from counterpoise.seeding import generator

SINGLE_BAR, BATCHED_BAR, TURNS = 10.0, 1.0, 3
CLASSES, BATCHES = 100, (8, 16, 32)
NAMES = [f"{kind} {thing}" for kind in ("red", "old", "small", "wild", "paper", "iron", "wet", "toy", "young", "blue")
         for thing in ("fox", "rose", "truck", "chair", "castle", "dolphin", "bottle", "apple", "bridge", "bear")]  # fmt: skip
PICTURES = {"miniature": (32, 384, 8), "ViT-B/32": (224, 32, 2)}  # pixels, how many, how many one by one


def write_samples(run: Run, unit: str, size: int, count: int) -> None:
    """As `generate` leaves them: raw pixels in Parquet, smooth with some noise."""
    rng = generator("bench.clip_filter")
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    pixels = np.clip(coarse + rng.integers(-12, 13, coarse.shape), 0, 255).astype(np.uint8)
    rows = [{"request_id": f"{i:05d}", "status": "made", "x": x.tobytes()} for i, x in enumerate(pixels)]
    columns = {name: [row.get(name) for row in rows] for name in tables.SAMPLES.names}
    run.put_table(unit, tables.table(tables.SAMPLES, columns, {"shape": [size, size, 3], "dtype": "uint8"}))


def write_large(folder: Path) -> Path:
    """ViT-B/32 of random weights, with OpenAI's sizes and the words of the miniature."""
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(miniatures.folder("clip"))
    config = transformers.CLIPConfig(text_config={"eos_token_id": words.eos_token_id})
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    transformers.CLIPImageProcessorPil().save_pretrained(folder)
    return folder


class Theirs:
    """The model opened as anyone opens it."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.model = transformers.CLIPModel.from_pretrained(folder).eval()
        self.shown = transformers.CLIPImageProcessorPil.from_pretrained(folder)
        length = self.model.config.text_config.max_position_embeddings
        self.said = transformers.AutoTokenizer.from_pretrained(folder)(
            prompts("a photo of {a}", NAMES),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            names = self.model.get_text_features(**self.said).pooler_output
        self.names = names / names.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def batched(self, x: np.ndarray, batch: int) -> np.ndarray:
        found = []
        for start in range(0, len(x), batch):
            shown = self.shown(images=list(x[start : start + batch]), return_tensors="pt")
            seen = self.model.get_image_features(**shown).pooler_output
            seen = seen / seen.norm(dim=-1, keepdim=True)
            found.append((self.model.logit_scale.exp() * seen @ self.names.T).softmax(1))
        return torch.cat(found).numpy()

    @torch.no_grad()
    def one_by_one(self, x: np.ndarray) -> np.ndarray:
        found = []
        for picture in x:
            shown = self.shown(images=[picture], return_tensors="pt")
            found.append(self.model(**self.said, **shown).logits_per_image.softmax(1))
        return torch.cat(found).numpy()


def ours(scores: Sequence[Any], x: np.ndarray, labels: np.ndarray, cache: Path) -> list[np.ndarray]:
    """What each score says, of pictures that nobody has seen."""
    with TemporaryDirectory(dir=cache) as empty:
        os.environ["COUNTERPOISE_CACHE"] = empty
        looking._place.cache_clear()
        none = np.zeros((0, 1), np.float32)
        batch = Batch(none, labels, none, np.zeros(0, str), labels[:0], pictures=x, classes=tuple(NAMES))
        return [score(batch, 0.0)[0] for score in scores]


def measured(name: str, folder: Path, work: Path) -> dict[str, float]:
    """Pictures a second of every side, each the median of what was timed in turns."""
    size, count, few = PICTURES[name]
    run, unit = Run.create(work / "run", {"bench": name}, lambda run: False), f"samples/{size}.parquet"
    write_samples(run, unit, size, count)
    labels = np.arange(count) % CLASSES
    theirs, model = Theirs(folder), str(folder)

    def plain(batch: int) -> list[bool]:
        p = theirs.batched(samples_in(run, unit)[0], batch)[np.arange(count), labels]
        return list(p >= 1 / CLASSES)

    def chosen(*scores: Any) -> list[bool]:
        values, *_ = ours(scores, samples_in(run, unit)[0], labels, work)
        return [reason is None for reason in AtLeast("clip", 1.0)({"clip": values}, labels)]

    def exact() -> list[bool]:
        backbone = Clip(model).pair().backbone
        fast, backbone.bf16 = backbone.bf16, False
        found = chosen(Clip(model))
        backbone.bf16 = fast
        return found

    sides: dict[str, tuple[int, Callable[[], Any]]] = {
        "ours": (count, partial(chosen, Clip(model))),
        "ours, float32": (count, exact),
        "ours, two scores": (count, partial(chosen, Clip(model), Margin(model))),
        "one by one": (few, lambda: theirs.one_by_one(samples_in(run, unit)[0][:few])),
        **{f"batches of {batch}": (count, partial(plain, batch)) for batch in BATCHES},
    }
    chosen(Clip(model))  # opens the model, and reads the names
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(TURNS):
        for side, (_, work_) in sides.items():
            start = time.process_time()
            work_()
            seconds[side].append(time.process_time() - start)
    rates = {side: sides[side][0] / statistics.median(took) for side, took in seconds.items()}
    rates["batched"] = max(rates[f"batches of {batch}"] for batch in BATCHES)
    agree = np.mean(np.array(plain(BATCHES[0])) == np.array(chosen(Clip(model))))
    print(f"{name}: {count} pictures of {size} px, {CLASSES} names; chosen alike {100 * agree:.1f} %")
    for side, rate in rates.items():
        print(
            f"{side:>18} {rate:>9.2f} pictures/s   ours is {rates['ours'] / rate:.2f} times as fast",
            flush=True,
        )
    return rates


def main() -> None:
    torch.set_num_threads(1)
    ratios = {}
    with TemporaryDirectory() as name:
        folders = {"miniature": miniatures.folder("clip"), "ViT-B/32": write_large(Path(name) / "large")}
        for model, folder in folders.items():
            work = Path(name) / model.replace("/", "-")
            work.mkdir()
            rates = measured(model, folder, work)
            for side, bar in (("one by one", SINGLE_BAR), ("batched", BATCHED_BAR)):
                ratio = rates["ours"] / rates[side]
                ratios[f"{side}, {model}"] = {"ratio": round(ratio, 2), "bar": bar, "holds": ratio >= bar}
    first = next(iter(ratios.values()))
    holds = all(one["holds"] for one in ratios.values())
    print(json.dumps({"bench": "clip_filter"} | first | {"holds": holds, "ratios": ratios}))


if __name__ == "__main__":
    main()
