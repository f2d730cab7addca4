"""Small random CLIPs and SigLIPs with a tokenizer, as folders of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

ASSETS = Path(__file__).parents[2] / "assets" / "miniatures"
SIZE, LENGTH, VOCABULARY = 32, 32, 2048
TOWER = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_factor": 8.0,
}  # fmt: skip


def saved_pair(
    folder: Path,
    kind: str = "clip",
    tokenizer: Path | None = ASSETS / "tokenizer",
    seed: int = 0,
    projection: int = 12,
) -> Path:
    """The factor and the noise make towers that tell pictures and texts apart, which fresh ones do not."""
    import transformers

    text = TOWER | {
        "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1,
    }  # fmt: skip
    vision = TOWER | {"image_size": SIZE, "patch_size": 8}
    torch.manual_seed(seed)
    if kind == "clip":
        net = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)
        )
    else:
        net = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        torch.nn.init.constant_(net.logit_scale, 2.0)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.2 * torch.randn(parameter.shape)
    net.save_pretrained(folder)
    settings = {
        "size": {"height": SIZE, "width": SIZE},
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.25] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    for file in tokenizer.iterdir() if tokenizer else []:
        shutil.copy(file, folder / file.name)
        (folder / file.name).chmod(0o644)
    return folder
