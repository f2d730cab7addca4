"""The miniatures as they are shipped: small, opened by plain library calls, and as good as their card says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from counterpoise.nets import miniatures

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "assets" / "miniatures"
SHARED = ROOT.parent / "shared"
TOLD = json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8"))


def test_they_are_small_and_half_precision():
    files = list(FOLDER.rglob("*.safetensors"))
    assert len(files) == 5  # autoencoder, U-Net, text tower; CLIP; language model
    assert sum(file.stat().st_size for file in files) <= 40e6
    for file in files:
        with safe_open(file, "pt") as opened:
            kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - a handle
        assert kinds <= {"F16", "I64"}, file


def test_nothing_but_weights_settings_and_words_is_shipped():
    assert {file.suffix for file in FOLDER.rglob("*") if file.is_file()} <= {
        ".safetensors",
        ".json",
        ".txt",
        ".md",
        ".png",
    }


def test_the_card_says_what_was_measured():
    from miniatures.card import page

    assert (FOLDER / "README.md").read_text(encoding="utf-8") == page(TOLD)


def test_what_was_measured_is_enough():
    assert TOLD["autoencoder_psnr_db"] >= 24
    assert TOLD["clip_zero_shot_top1"] >= 35
    assert TOLD["best"]["top5"] >= 25  # chance is 5
    assert TOLD["best"]["fd"] < TOLD["fd_of_noise"] / 4
    assert TOLD["seconds_for_100"] < 20


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(miniatures.folder("text_to_image"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pair():
    from transformers import CLIPModel, CLIPTokenizer

    folder = miniatures.folder("clip")
    return CLIPModel.from_pretrained(folder).float().eval(), CLIPTokenizer.from_pretrained(folder)


NAMES = ["apple", "cloud", "dolphin", "palm tree", "sunflower", "rose", "castle", "bottle"]


@torch.no_grad()
def chances(pair, pictures: np.ndarray, names=tuple(NAMES)) -> np.ndarray:
    """(n, names): what the miniature CLIP says of pictures (n, 32, 32, 3) in [0, 1]."""
    model, tokenizer = pair
    words = tokenizer([f"a photo of a {name}" for name in names], padding="max_length", return_tensors="pt")
    x = torch.from_numpy(pictures).float().permute(0, 3, 1, 2) * 2 - 1
    return model(input_ids=words.input_ids, pixel_values=x).logits_per_image.softmax(1).numpy()


def test_prompts_are_drawn_and_understood(pipe, pair):
    """By plain diffusers and transformers calls: 48 pictures by name, of which CLIP names most out of eight."""
    labels = np.arange(48) % len(NAMES)
    prompts = [f"a photo of a {NAMES[label]}" for label in labels]

    def drawn(scale: float) -> np.ndarray:
        rng = torch.Generator().manual_seed(0)
        made = pipe(prompts, num_inference_steps=12, guidance_scale=scale, generator=rng, output_type="np")
        return chances(pair, made.images)[np.arange(48), labels]

    plain, guided = drawn(1.0), drawn(3.0)
    assert (guided > 1 / len(NAMES)).mean() > 0.7
    assert np.mean(guided - plain) > 0.05  # the same noise, pair by pair


def test_the_language_model_speaks_of_what_it_is_given():
    from miniatures.language import sentences
    from transformers import CLIPTokenizer, GPT2LMHeadModel

    folder = miniatures.folder("language")
    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder).float(), CLIPTokenizer.from_pretrained(folder)
    for name in ("dolphin", "palm tree", "truck"):
        said = sentences(model, tokenizer, name, 8, seed=0)
        assert np.mean([name in text for text in said]) >= 0.75, said
        assert len(set(said)) >= 7


@pytest.mark.skipif(not (SHARED / "data" / "cifar100").is_dir(), reason="CIFAR-100 is not in ../shared")
def test_on_real_pictures(pipe, pair):
    """The card's numbers, on 500 test pictures."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(SHARED / "data" / "cifar100" / "test.parquet").slice(0, 500)
    shown = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()])
    header = json.loads(table.schema.metadata[b"huggingface"])
    names = [name.replace("_", " ") for name in header["info"]["features"]["label"]["names"]]
    right = chances(pair, shown / 255, names).argmax(1) == table["label"].to_numpy()
    assert right.mean() > 0.35

    x = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        back = pipe.vae.decode(pipe.vae.encode(x[:100]).latent_dist.mode()).sample.clamp(-1, 1)
    error = ((back - x[:100]) / 2).square().mean((1, 2, 3))
    assert float((-10 * error.log10()).mean()) > 24
