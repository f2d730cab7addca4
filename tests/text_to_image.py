"""Text-to-image models with random weights, one of each family, as small as they come, in the layout of diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 40
T5_LENGTH = 48  # tokens
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = {
    "sd": "StableDiffusionPipeline",
    "unclip": "StableUnCLIPImg2ImgPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd3 without t5": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}
FLOWS = ("sd3", "sd3 without t5", "flux")


def tokenizer(folder: Path, pad: str = END) -> None:
    """CLIP's, without any merges: a token per byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    told = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    told |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def t5_tokenizer(folder: Path) -> None:
    """T5's: a token per letter, and fewer of them than CLIP knows."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters]
    T5Tokenizer(
        vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=T5_LENGTH
    ).save_pretrained(folder)


def clip(width: int = 24, projected: bool = False, old: bool = False):
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=12,
        bos_token_id=512,
        eos_token_id=2 if old else 513,  # as configs of that time have it
        pad_token_id=513,
    )
    return (
        transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)
    )


def clip_vision(width: int = 20):
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=width,
    )
    return transformers.CLIPVisionModelWithProjection(config)


def image_normalizer(width: int = 20):
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    made = StableUnCLIPImageNormalizer(width)
    made.mean.data += 0.3 * torch.randn(1, width)
    made.std.data *= 1.5 + torch.rand(1, width)
    return made


def t5(width: int):
    import transformers

    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=100,
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def autoencoder(channels: int, **more):
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=2.5,
        **more,
    )


def unet(channels: int, words: int, **more):
    import diffusers

    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        cross_attention_dim=words,
        norm_num_groups=8,
        **more,
    )


def networks(kind: str, channels: int) -> dict:
    """By the names of their parts."""
    import diffusers

    found = {"vae": autoencoder(channels, **({"shift_factor": 0.3} if kind in FLOWS else {}))}
    if kind == "sd":
        return found | {"unet": unet(channels, 24), "text_encoder": clip()}
    if kind == "unclip":
        net = unet(channels, 24, class_embed_type="projection", projection_class_embeddings_input_dim=2 * 20)
        seen = {"image_encoder": clip_vision(), "image_normalizer": image_normalizer()}
        return found | {"unet": net, "text_encoder": clip()} | seen
    if kind == "sdxl":
        told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        net = unet(channels, 24 + 16, projection_class_embeddings_input_dim=12 + 6 * 8, **told)
        return found | {
            "unet": net,
            "text_encoder": clip(old=True),
            "text_encoder_2": clip(16, projected=True, old=True),
        }
    if kind == "flux":
        net = diffusers.FluxTransformer2DModel(
            in_channels=4 * channels,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=24,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        )
        return found | {"transformer": net, "text_encoder": clip(), "text_encoder_2": t5(32)}
    net = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=32,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
    )
    found |= {
        "transformer": net,
        "text_encoder": clip(projected=True),
        "text_encoder_2": clip(16, projected=True),
    }
    return found if kind == "sd3 without t5" else found | {"text_encoder_3": t5(48)}


def scheduler(kind: str, **schedule):
    import diffusers

    if kind not in FLOWS:
        return diffusers.DDIMScheduler(**SCHEDULE | {"clip_sample": False} | schedule)
    usual = {"use_dynamic_shifting": True, "shift": 3.0} if kind == "flux" else {"shift": 3.0}
    return diffusers.FlowMatchEulerDiscreteScheduler(**usual | schedule)


def save(out: Path, channels: int = 4, seed: int = 0, kind: str = "sd", **schedule) -> Path:
    """Pictures of 32 pixels, latents of 8 x 8; `schedule` are settings of a scheduler of diffusers."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nets = networks(kind, channels)
        for net in nets.values():  # so that a text, a step and a latent each make a difference
            for weight in net.parameters():
                weight.data += 0.05 * torch.randn_like(weight)
    index = {"_class_name": KINDS[kind], "scheduler": ["diffusers", type(scheduler(kind)).__name__]}
    for part, net in nets.items():
        net.save_pretrained(out / part)
        index[part] = ["transformers" if "_encoder" in part else "diffusers", type(net).__name__]
        if "text" in part:
            reads = part.replace("text_encoder", "tokenizer")
            is_t5 = type(net).__name__ == "T5EncoderModel"
            t5_tokenizer(out / reads) if is_t5 else tokenizer(
                out / reads, "!" if part == "text_encoder_2" else END
            )
            index[reads] = ["transformers", "T5TokenizerFast" if is_t5 else "CLIPTokenizer"]
    if kind == "sd3 without t5":
        index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    if kind == "unclip":
        index |= see_and_noise(out)
    if kind == "sd":
        index |= {"safety_checker": [None, None]}
    scheduler(kind, **schedule).save_pretrained(out / "scheduler")
    (out / "model_index.json").write_text(json.dumps(index))
    return out


def see_and_noise(out: Path) -> dict[str, list[str]]:
    """What unCLIP has besides networks."""
    import diffusers
    from transformers import CLIPImageProcessor

    noise = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    noise.save_pretrained(out / "image_noising_scheduler")
    side = {"height": 32, "width": 32}
    CLIPImageProcessor(crop_size=side, size={"shortest_edge": 32}).save_pretrained(out / "feature_extractor")
    return {
        "image_noising_scheduler": ["diffusers", "DDPMScheduler"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }


def image_adapter(out: Path, folder: Path, few: int = 4, seed: int = 0) -> tuple[Path, Path]:
    """An IP-Adapter with random weights for such a model, as a file, and the folder of what sees for it."""
    import diffusers
    from safetensors.torch import save_file

    net = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    width, rng = net.config.cross_attention_dim, torch.Generator().manual_seed(seed)
    shapes = {"image_proj.proj.weight": (few * width, 20), "image_proj.proj.bias": (few * width,)}
    shapes |= {"image_proj.norm.weight": (width,), "image_proj.norm.bias": (width,)}
    for place, name in enumerate(net.attn_processors):
        if "attn2" in name:
            rows = len(net.get_submodule(name.removesuffix(".processor")).to_k.weight)
            shapes |= {f"ip_adapter.{place}.to_{to}_ip.weight": (rows, width) for to in "kv"}
    out.mkdir(parents=True)
    made = {name: 0.4 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    save_file(made, out / "adapter.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip_vision().save_pretrained(out / "encoder")
    return out / "adapter.safetensors", out / "encoder"


def theirs(folder: Path, img2img: bool = False, **settings):
    """diffusers' own pipeline over such a folder; `settings` of the pipeline."""
    import diffusers
    import transformers

    index = json.loads((folder / "model_index.json").read_text())
    name = index["_class_name"]
    if "Img2Img" not in name:
        name = name.replace("Pipeline", "Img2ImgPipeline" if img2img else "Pipeline")
    cls = getattr(diffusers, name)
    parts = {name: None for name, value in index.items() if value == [None, None]}
    for name, value in index.items():
        if isinstance(value, list) and value[0] and name != "scheduler":
            where = diffusers.pipelines.stable_diffusion if name == "image_normalizer" else diffusers
            opens = getattr(transformers if value[0] == "transformers" else where, value[1])
            parts[name] = opens.from_pretrained(folder / name, local_files_only=True)
    flows = "Flow" in index["scheduler"][1]
    told = {} if flows else {"timestep_spacing": "trailing"}
    noise = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder / "scheduler", **told)
    if index["_class_name"] == KINDS["sd"]:
        settings |= {"feature_extractor": None, "requires_safety_checker": False}
    if index["_class_name"] == KINDS["sdxl"]:
        settings |= {"add_watermarker": False}
    pipe = cls(**parts, scheduler=noise, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe
