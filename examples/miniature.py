"""Pictures by name from the small models that come with the package, and what the small CLIP thinks of them.

    python examples/miniature.py apple bicycle castle dolphin rose --out names.png

Everything runs offline on one core, in about a minute; the models are opened by plain diffusers and transformers calls.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from counterpoise.nets import miniatures
from counterpoise.nets.words import prompts
from counterpoise.scores.clip import Clip

COLUMNS, SCALE = 8, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=["apple", "bicycle", "castle", "dolphin", "mountain", "rose", "sunflower"]
    )
    parser.add_argument("--out", type=Path, default=Path("names.png"))
    asked = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(miniatures.folder("text_to_image"))
    texts = [text for text in prompts("a photo of {a}", asked.names) for _ in range(COLUMNS)]
    made = pipe(
        texts,
        num_inference_steps=20,
        guidance_scale=SCALE,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    pictures = (made.images * 255).round().astype(np.uint8)  # (n, 32, 32, 3)

    chances = Clip(model="miniature").probabilities(pictures, tuple(asked.names))
    for row, name in enumerate(asked.names):
        own = chances[row * COLUMNS : (row + 1) * COLUMNS, row]
        print(
            f"{name:>12}: CLIP says so of {(own > 1 / len(asked.names)).sum()} of {COLUMNS} (p {own.mean():.2f})"
        )
    rows = pictures.reshape(len(asked.names), COLUMNS, 32, 32, 3)
    sheet = rows.transpose(0, 2, 1, 3, 4).reshape(len(asked.names) * 32, COLUMNS * 32, 3)
    Image.fromarray(sheet).resize((sheet.shape[1] * 3, sheet.shape[0] * 3), Image.Resampling.NEAREST).save(
        asked.out
    )
    print(f"{asked.out}: a row for each name")


if __name__ == "__main__":
    main()
