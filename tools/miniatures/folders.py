"""The trained weights as folders that diffusers and transformers open by themselves: float16 safetensors."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CLIPImageProcessorPil, CLIPTokenizer

from miniatures import autoencoder, clip, diffusion, language
from miniatures.learning import averaged
from miniatures.pictures import Pictures

LIMIT_MB = 40


def save(real: Pictures, work: Path, words_at: Path, out: Path) -> dict[str, float]:
    """Write all that has begun to be trained; returns the megabytes of each folder."""
    tokenizer = CLIPTokenizer.from_pretrained(words_at)
    if (work / "diffusion" / "state.safetensors").exists():
        vae, _ = averaged(autoencoder.build(), work / "autoencoder")
        diffusion.scaled(vae, real)
        unet, _ = averaged(diffusion.build(), work / "diffusion")
        pipe = diffusion.pipeline(vae.half(), unet.half(), clip.text_tower(work / "clip").half(), tokenizer)
        pipe.save_pretrained(out / "text_to_image", safe_serialization=True)
    if (work / "clip" / "state.safetensors").exists():
        model, _ = averaged(clip.build(), work / "clip")
        model.logit_scale.data.clamp_(max=clip.SHARPEST)  # type: ignore[union-attr, operator]
        model.half().save_pretrained(out / "clip")
        tokenizer.save_pretrained(out / "clip")
        CLIPImageProcessorPil(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_mean=list(clip.MEAN),
            image_std=list(clip.STD),
        ).save_pretrained(out / "clip")
    if (work / "language" / "state.safetensors").exists():
        net, _ = averaged(language.build(), work / "language")
        net.half().save_pretrained(out / "language")
        tokenizer.save_pretrained(out / "language")
    for config in out.glob("**/config.json"):
        told = json.loads(config.read_text(encoding="utf-8"))
        if (
            "dtype" in told
        ):  # of files in half precision, transformers would open half a network, which processors cannot run
            config.write_text(json.dumps(told | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        for folder in sorted(out.iterdir())
        if folder.is_dir()
    }
    if sum(sizes.values()) > LIMIT_MB:
        raise SystemExit(
            f"the folders may have {LIMIT_MB} MB together, found {sum(sizes.values()):.1f}: {sizes}"
        )
    return sizes
