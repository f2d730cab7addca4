from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import text_to_image
import torch
from safetensors.torch import load_file, save_file

from counterpoise.nets.ldm_names import ldm_names
from counterpoise.nets.stable_diffusion import base_folder, open_base
from counterpoise.types import Refusal

NORMS = {"norm1": "in_layers.0", "norm2": "out_layers.0"}


def unet_as_one_file(net) -> dict[str, torch.Tensor]:
    """The weights of a U-Net by the names of the first code."""
    names = ldm_names(net) | {"conv_norm_out": "out.0"}
    found = {}
    for name, value in net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        theirs = names[layer]
        for ours, old in NORMS.items():
            if ".resnets." in layer:
                theirs = theirs.replace(ours, old)
        found[f"model.diffusion_model.{theirs}.{kind}"] = value.clone()
    return found


def vae_as_one_file(net) -> dict[str, torch.Tensor]:
    blocks = len(net.config.block_out_channels)
    found = {}
    for name, value in net.state_dict().items():
        renamed = name.replace("mid_block.resnets.0", "mid.block_1").replace(
            "mid_block.resnets.1", "mid.block_2"
        )
        renamed = renamed.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        for block in range(blocks):
            renamed = renamed.replace(f"down_blocks.{block}.resnets", f"down.{block}.block")
            renamed = renamed.replace(f"down_blocks.{block}.downsamplers.0", f"down.{block}.downsample")
            renamed = renamed.replace(f"up_blocks.{block}.resnets", f"up.{blocks - 1 - block}.block")
            renamed = renamed.replace(f"up_blocks.{block}.upsamplers.0", f"up.{blocks - 1 - block}.upsample")
        renamed = renamed.replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in renamed:
            named = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            for ours, old in named.items():
                renamed = renamed.replace(f"attn_1.{ours}.", f"attn_1.{old}.")
            value = value[..., None, None] if value.ndim == 2 else value  # there they are convolutions
        found[f"first_stage_model.{renamed}"] = value.clone()
    return found


def open_clip_as_one_file(net) -> dict[str, torch.Tensor]:
    """The second tower of SDXL, which came from open_clip."""
    whole = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "text_projection.weight": "text_projection",
    }
    whole |= {"embeddings.token_embedding.weight": "token_embedding.weight"}
    renamed = {
        "final_layer_norm": "ln_final",
        "encoder.layers": "transformer.resblocks",
        "layer_norm1": "ln_1",
    }
    renamed |= {"layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn"}
    weights = {name.removeprefix("text_model."): value.clone() for name, value in net.state_dict().items()}
    found = {}
    for name, value in weights.items():
        theirs = whole.get(name, name)
        for ours, old in renamed.items():
            theirs = theirs.replace(ours, old)
        if ".q_proj." in theirs:
            value = torch.cat([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            theirs = theirs.replace(".q_proj.", ".in_proj_")
        if ".k_proj." not in theirs and ".v_proj." not in theirs:
            found[theirs] = value.T.contiguous() if theirs == "text_projection" else value
    return found


def as_one_file(folder: Path, file: Path) -> Path:
    """The same model as a file, with its settings and tokenizers in a folder beside it."""
    base = open_base(str(folder))
    weights = unet_as_one_file(base.unet()) | vae_as_one_file(base.autoencoder.net)
    first, *second = base.reader().tower.towers
    place = "conditioner.embedders.0.transformer" if second else "cond_stage_model.transformer"
    for name, value in first.state_dict().items():
        weights[f"{place}.text_model.{name}"] = value.clone()
    for net in second:
        named = open_clip_as_one_file(net)
        weights |= {f"conditioner.embedders.1.model.{name}": value for name, value in named.items()}
    save_file(weights, file)
    shutil.copytree(folder, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """As a folder, and as a file."""
    folder = text_to_image.save(tmp_path_factory.mktemp("base") / "tiny")
    return folder, as_one_file(folder, tmp_path_factory.mktemp("file") / "v1-tiny.safetensors")


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_file_is_the_model_that_it_was_made_of(kind, tmp_path):
    folder = text_to_image.save(tmp_path / "base", kind=kind)
    file = as_one_file(folder, tmp_path / "one.safetensors")
    ours, theirs = open_base(str(file)), open_base(str(folder))
    assert (ours.shape, ours.size, ours.schedule) == (theirs.shape, theirs.size, theirs.schedule)
    pairs = [(ours.unet(), theirs.unet()), (ours.autoencoder, theirs.autoencoder)]
    pairs += [(ours.reader().tower, theirs.reader().tower)]
    for one, other in pairs:
        found, wanted = one.state_dict(), other.state_dict()
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        assert not any(weight.requires_grad for weight in one.parameters())
    ids = theirs.reader().tokens(["a photo of a fox", ""]).input_ids
    assert torch.equal(ours.reader().encoded(ids).words, theirs.reader().encoded(ids).words)
    assert ours.content != theirs.content
    assert file in ours.files()


def test_half_as_wide_numbers_are_read_as_whole_ones(tiny, tmp_path):
    _, file = tiny
    half = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, half)
    shutil.copytree(file.with_suffix(""), half.with_suffix(""))
    base = open_base(str(half))
    for net in (base.unet(), base.autoencoder, base.reader().tower):
        assert {weight.dtype for weight in net.parameters()} == {torch.float32}


def test_without_settings_it_says_which_are_needed_and_where(tiny, tmp_path):
    alone = Path(shutil.copy(tiny[1], tmp_path / "alone.safetensors"))
    with pytest.raises(
        Refusal, match=r"holds weights alone, .*stable-diffusion-v1-5.*OFFLINE.* a folder alone beside it"
    ):
        base_folder(str(alone))


@pytest.mark.parametrize(
    ("part", "gone"),
    [("unet", "out.2.bias"), ("vae", "encoder.conv_in.bias"), ("text_encoder", "final_layer_norm.bias")],
)
def test_a_file_that_lacks_weights_is_refused(part, gone, tiny, tmp_path):
    _, file = tiny
    holed = tmp_path / "holed.safetensors"
    save_file({name: value for name, value in load_file(file).items() if not name.endswith(gone)}, holed)
    shutil.copytree(file.with_suffix(""), holed.with_suffix(""))
    base = open_base(str(holed))
    with pytest.raises(
        Refusal,
        match=f"its {part} (has no weights|cannot be opened: the file has no weights) for (1|some) of its layers",
    ):
        _ = [base.unet(), base.autoencoder, base.reader()]


def test_a_file_that_is_something_else_is_refused(tmp_path):
    pickled, fake, lora = (tmp_path / name for name in ("a.ckpt", "b.safetensors", "c.safetensors"))
    pickled.write_bytes(b"x")
    fake.write_bytes(b"no safetensors at all")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2)}, lora)
    for file, found in [
        (pickled, "can run code when they are opened"),
        (fake, "is no safetensors file, whatever its name"),
        (lora, "no whole text-to-image model: of its 1 weights none begins with model.diffusion_model"),
    ]:
        with pytest.raises(Refusal, match=found):
            open_base(str(file))
