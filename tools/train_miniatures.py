"""Train the small text-to-image, CLIP and language models of assets/miniatures; stopped, the same command goes on.

python tools/train_miniatures.py                                     # everything, in order
python tools/train_miniatures.py diffusion --minutes 20              # a piece of one part
torchrun --nproc-per-node 2 tools/train_miniatures.py diffusion      # the same training, on two processes
python tools/train_miniatures.py save                                # the folders, of the weights as they stand
python tools/train_miniatures.py card                                # measure them, write the card
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from miniatures import autoencoder, card, clip, diffusion, folders, language, words  # noqa: E402
from miniatures.learning import Place, averaged  # noqa: E402
from miniatures.pictures import load  # noqa: E402
from transformers import CLIPTokenizer  # noqa: E402

PARTS = ("words", "autoencoder", "clip", "diffusion", "language", "save", "card")
STEPS = {"autoencoder": 1900, "clip": 3400, "diffusion": 3300, "language": 1200}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    shared = HERE.parents[1] / "shared"
    parser.add_argument(
        "--data", type=Path, default=shared / "data" / "cifar100", help="train.parquet, test.parquet"
    )
    parser.add_argument(
        "--judge", default=f"hf:{shared}/models/mobilenet_v2_imagenet", help="backbone that measures"
    )
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "counterpoise" / "miniatures")
    parser.add_argument("--out", type=Path, default=HERE.parent / "assets" / "miniatures")
    for part, steps in STEPS.items():
        parser.add_argument(f"--{part}-steps", type=int, default=steps, help=f"default {steps}")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there are the parts {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    place, work, words_at = Place.here(), asked.work, asked.out / "tokenizer"
    for part in asked.parts:
        if part == "words":
            words.train(words_at)
            continue
        real, held = (load(asked.data, split, work) for split in ("train", "test"))
        tokenizer = CLIPTokenizer.from_pretrained(words_at)
        if part == "autoencoder":
            autoencoder.fit(real, held, work / part, place, asked.autoencoder_steps, asked.minutes)
        elif part == "clip":
            clip.fit(real, held, tokenizer, work / part, place, asked.clip_steps, asked.minutes)
        elif part == "diffusion":
            vae, _ = averaged(autoencoder.build(), work / "autoencoder")
            diffusion.scaled(vae, real)
            tower = clip.text_tower(work / "clip")
            diffusion.fit(
                real, vae, tower, tokenizer, work / part, place, asked.diffusion_steps, asked.minutes
            )
        elif part == "language":
            language.fit(tokenizer, work / part, place, asked.language_steps, asked.minutes)
        elif part == "save":
            print(json.dumps(folders.save(real, work, words_at, asked.out), indent=2))
        elif part == "card":
            card.write(real, held, asked.judge, work, asked.out)


if __name__ == "__main__":
    main()
