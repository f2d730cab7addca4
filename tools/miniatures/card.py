"""Measure the saved folders by plain diffusers and transformers calls, and write their model card."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer, GPT2LMHeadModel

from counterpoise.generators.sheet import contact_sheet
from miniatures import autoencoder, clip, diffusion, judged, language
from miniatures.captions import KIND_OF
from miniatures.grammar import NAMES, words
from miniatures.learning import draws
from miniatures.pictures import Pictures

SCALES = (1.0, 1.5, 2.0, 3.0, 4.5)
FEW, MANY = 500, 5000  # samples to choose a scale by, and to report it
SHOWN = words("""
apple bicycle bus castle cloud dolphin fox lion mountain orange palm_tree pickup_truck rose shark streetcar sunflower
""")


def write(real: Pictures, held: Pictures, backbone: str, work: Path, out: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(out / "text_to_image")
    studio = judged.Studio(out / "text_to_image", os.cpu_count() or 1)
    pair = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip")
    told: dict[str, Any] = {"trained": _history(work), "machine": _machine()}
    told["autoencoder_psnr_db"] = autoencoder.psnr(pipe.vae.float(), held.seen(np.arange(len(held.labels))))
    told["clip_zero_shot_top1"] = clip.zero_shot(pair, tokenizer, held, len(held.labels))
    judge = judged.Judge(backbone, real, held, work)
    told["judge"] = judge.accuracy | {"fd_of_real_train_pictures": judge.floor}
    told["fd_of_reconstructions"] = judge.distance(judge(_through(pipe.vae, held)))
    noise = torch.randint(
        256, (2000, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    told["fd_of_noise"] = judge.distance(judge(noise))
    told["scales"] = judged.by_scale(studio, judge, held.names, SCALES, FEW, judge.taught)
    best = min(told["scales"], key=lambda row: row["fd"])["scale"]
    told["best"] = judged.by_scale(studio, judge, held.names, [best], MANY, judge.real)[0]
    told["seconds_for_100"] = _seconds(pipe, held.names, best, bf16=True)
    told["seconds_for_100_float32"] = _seconds(pipe, held.names, best, bf16=False)
    told["views"] = told["trained"]["diffusion"]["steps"] * diffusion.BATCH
    if (out / "language").is_dir():
        told["language"] = _language(out)
    labels = np.repeat([held.names.index(name) for name in SHOWN], 10)
    shown = studio(judged.prompts_of(held.names, labels), best, seed=7)
    tiles = shown.permute(0, 2, 3, 1).numpy().repeat(2, 1).repeat(2, 2)
    (out / "samples.png").write_bytes(contact_sheet(list(tiles), 10))
    (out / "metrics.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(page(told), encoding="utf-8")


@torch.no_grad()
def _through(vae: Any, held: Pictures) -> torch.Tensor:
    """Test pictures, encoded and decoded."""
    out = []
    for rows in np.array_split(np.arange(len(held.labels)), 40):
        back = vae.decode(vae.encode(held.seen(rows)).latent_dist.mode()).sample
        out.append(((back.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(out)


def _seconds(pipe: Any, names: list[str], scale: float, bf16: bool) -> float:
    """For 100 pictures in one batch on one core, the second time."""
    prompts, took = judged.prompts_of(names, np.arange(100)), 0.0
    for seed in range(2):
        began = time.process_time()
        judged.drawn(prompts, scale, seed, pipe, bf16)
        took = time.process_time() - began
    return took


def _language(out: Path) -> dict[str, Any]:
    """Of sentences drawn for names it knows and names it does not: the share that has the name in it, and that differs."""
    net = GPT2LMHeadModel.from_pretrained(out / "language", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(out / "language")
    rng = draws("card")
    known = [name.replace("_", " ") for name in KIND_OF] + NAMES
    found: dict[str, Any] = {}
    for kind, names in {"known": known[::3], "new": [language.made_up(rng) for _ in range(100)]}.items():
        said = [
            (name, text) for name in names for text in language.sentences(net, tokenizer, name, 4, seed=0)
        ]
        found[f"{kind}_has_name"] = float(np.mean([name in text for name, text in said]))
        found[f"{kind}_distinct"] = len({text for _, text in said}) / len(said)
        found[f"{kind}_examples"] = [text for _, text in said[:40:8]]
    return found


def _history(work: Path) -> dict[str, Any]:
    """Steps and seconds of every training, from its log."""
    found = {}
    for log in sorted(work.glob("*/log.jsonl")):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        found[log.parent.name] = {
            "steps": rows[-1]["step"],
            "minutes": round(sum(row["seconds"] for row in rows) * 50 / 60, 1),
            "loss": rows[-1]["loss"],
        }
    return found


def _machine() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = named[0] if named else platform.processor()
    return f"{model}, {torch.get_num_threads()} thread a process, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


def page(told: dict[str, Any]) -> str:
    """The model card, in words; every number is from metrics.json."""
    best, judge, trained = told["best"], told["judge"], told["trained"]
    rows = "\n".join(
        f"| {row['scale']:g} | {row['fd']:.1f} | {row['top1']:.1f} | {row['top5']:.1f} |"
        for row in told["scales"]
    )
    times = "\n".join(f"| {name} | {t['steps']:,} | {t['minutes']:.0f} |" for name, t in trained.items())
    spoken = told.get("language", {})
    examples = "\n".join(f"- {text}" for text in spoken.get("known_examples", [])[:5])
    return f"""# Miniatures

A text-to-image model, a CLIP and a language model that are small enough for a repository and were trained from nothing, on the
pictures of CIFAR-100 and sentences of a grammar. They stand in for the big ones where there is no network and no
accelerator: everything that is driven by text runs on them in tests and demonstrations. They make 32 x 32 pixel pictures, and
know the hundred classes of CIFAR-100; of anything else they have never seen a picture.

![Samples by class](samples.png)

*{", ".join(name.replace("_", " ") for name in SHOWN)}: one row each, not selected, guidance scale {best["scale"]:g}.*

## What is here

| folder | what | opened by |
|---|---|---|
| `text_to_image/` | `StableDiffusionPipeline`: autoencoder (6 x 8 x 8 latents), U-Net of 9.6 million weights in v-prediction, CLIP text tower, tokenizer | `diffusers.StableDiffusionPipeline.from_pretrained` |
| `clip/` | `CLIPModel`, a vision transformer over patches of 4 pixels, and the same text tower | `transformers.CLIPModel.from_pretrained` |
| `language/` | `GPT2LMHeadModel`, half a million weights: `"dolphin :"` is continued with a scene | `transformers.GPT2LMHeadModel.from_pretrained` |
| `tokenizer/` | 2,048 byte pairs in the layout of CLIP's; all three use it | `transformers.CLIPTokenizer.from_pretrained` |

In Counterpoise the word `miniature` stands for them: `--base miniature`, `--clip miniature`, `--backbone miniature`.

## Measured

On the 10,000 test pictures, which no training has seen. The judge is MobileNetV2 (ImageNet weights, frozen, pictures enlarged to
{judged.SIZE} pixels) with a linear classifier fitted on {judged.TAUGHT_ON} real training pictures a class; it names
{judge["top1"]:.1f} % of real test pictures right, {judge["top5"]:.1f} % among its first five. Chance is 1 and 5 %.

| | measured | asked |
|---|---|---|
| autoencoder, mean PSNR | {told["autoencoder_psnr_db"]:.1f} dB | >= 24 dB |
| CLIP, zero-shot top-1, "a photo of a NAME" | {told["clip_zero_shot_top1"]:.1f} % | >= 35 % |
| text-to-image, Fréchet distance of {best["n"]:,} samples to the test pictures, scale {best["scale"]:g} | {best["fd"]:.1f} | - |
| the same of real training pictures (5,000), of test pictures through the autoencoder, of noise | {judge["fd_of_real_train_pictures"]:.1f}, {told["fd_of_reconstructions"]:.1f}, {told["fd_of_noise"]:.0f} | - |
| text-to-image, class named right at once, among the first five | {best["top1"]:.1f} %, {best["top5"]:.1f} % | far from 1 %, 5 % |
| 100 pictures, {judged.STEPS} guided steps, one core: in bf16 (autocast), in float32 | {told["seconds_for_100"]:.1f} s, {told["seconds_for_100_float32"]:.1f} s | < 20 s |
| language model: the name is in the sentence, names it knows, made-up names | {100 * spoken.get("known_has_name", 0):.0f} %, {100 * spoken.get("new_has_name", 0):.0f} % | - |

By guidance scale, {FEW:,} samples each, against {judged.TAUGHT_ON} training pictures a class; the least distance chose the scale above. (A
Fréchet distance of fewer samples is larger.)

| scale | Fréchet distance | top-1 % | top-5 % |
|---|---|---|---|
{rows}

Sentences of the language model:

{examples}

## How they were made

`python tools/train_miniatures.py`, from CIFAR-100's 50,000 training pictures (Krizhevsky 2009), captions made of class and superclass
names by the templates in `tools/miniatures/captions.py`, and sentences of `tools/miniatures/grammar.py`; the pieces of the tokenizer
were counted in these and in the language reference that comes with Python. No weights of others went in. {told["machine"]}.

| training | steps | minutes |
|---|---|---|
{times}

Two cores did all of this within two hours, other work beside it; the diffusion model had one of them at first and then both. It was trained
with {told.get("views", 0):,} views of pictures, of which CIFAR-100 has 50,000: it is a small model, briefly trained. CLIP's text
tower stands still after its first {clip.FREEZE:,} steps, since the diffusion model reads with it.

## Licence and limits

The weights are under this repository's licence. CIFAR-100 is a research data set of pictures found on the web; some classes
show people. The models are for tests, demonstrations and comparisons of methods on small pictures, not for making pictures
that anyone should rely on.
"""
