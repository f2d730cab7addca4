"""Files of adapters between this package, diffusers and peft: what one writes, the other reads as the same weights."""

from __future__ import annotations

import json

import pytest
import text_to_image
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from counterpoise.nets.ldm_names import ldm_names
from counterpoise.nets.lora import LowRank, by_layer, put_adapters
from counterpoise.nets.lora_files import (
    Adapter,
    read_adapters,
    write_diffusers,
    write_kohya,
    write_words,
)
from counterpoise.nets.stable_diffusion import open_base
from counterpoise.types import Refusal, describe, load

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The configuration file of this scheduler:FutureWarning"
)  # theirs

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
TOWER = [
    f"encoder.layers.1.self_attn.{name}" for name in ("q_proj", "out_proj")
]  # theirs looks for the latter
PROMPT = "a photo of a fox"
WRITERS = {"diffusers": write_diffusers, "kohya": write_kohya}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_to_image.save(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def networks(folder):
    pipe = text_to_image.theirs(folder)
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}


def drawn(net: torch.nn.Module, layer: str, rank: int, alpha: float | None = None) -> LowRank:
    weight = net.get_parameter(f"{layer}.weight")
    rng = torch.Generator().manual_seed(len(layer))
    down = torch.randn(rank, *weight.shape[1:], generator=rng)
    up = 0.3 * torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=rng)
    return LowRank(down, up, rank if alpha is None else alpha)


@pytest.fixture
def adapters(networks):
    """Of other ranks and alphas, beside a convolution and in the tower as well."""
    unet, tower = networks["unet"], networks["text_encoder"]
    lows = {
        LINEAR: drawn(unet, LINEAR, 4, 2.0),
        OUT: drawn(unet, OUT, 2),
        CONVOLUTION: drawn(unet, CONVOLUTION, 3),
    }
    return {"unet": lows, "text_encoder": {layer: drawn(tower, layer, 2, 1.0) for layer in TOWER}}


def assert_same(found, expected, networks):
    for network, layers in expected.items():
        assert set(found[network]) == set(layers)
        for layer, low in layers.items():
            weight = networks[network].get_parameter(f"{layer}.weight")
            torch.testing.assert_close(found[network][layer].change(weight), low.change(weight))


def picture(pipe, prompt=PROMPT):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = {"num_inference_steps": 3, "guidance_scale": 2.0, "height": 32, "width": 32, "output_type": "pt"}
    return pipe(prompt, latents=noise, **told).images


@pytest.mark.parametrize("layout", WRITERS)
def test_what_we_write_we_read(layout, adapters, networks, tmp_path):
    path = tmp_path / "a.safetensors"
    WRITERS[layout](path, adapters, {"base": "tiny", "steps": 3})
    assert_same(read_adapters(path, networks), adapters, networks)
    alone = read_adapters(path, {"unet": networks["unet"], "text_encoder": None})
    assert_same(alone, {"unet": adapters["unet"]}, networks)


@pytest.mark.parametrize("layout", WRITERS)
def test_with_our_file_their_pipeline_draws_what_it_draws_with_our_weights(
    layout, adapters, folder, tmp_path
):
    path, pipe, ours = tmp_path / "a.safetensors", text_to_image.theirs(folder), text_to_image.theirs(folder)
    plain = picture(pipe)
    WRITERS[layout](path, adapters, {})
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    networks = {"unet": ours.unet, "text_encoder": ours.text_encoder}
    Adapter(str(path))(networks)
    found = picture(ours)
    assert (found - plain).abs().max() > 0.01
    torch.testing.assert_close(picture(pipe), found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("alpha", [4, 1])
@pytest.mark.parametrize("layout", WRITERS)
def test_files_that_they_write_are_read_as_they_mean_them(layout, alpha, folder, tmp_path):
    pipe = text_to_image.theirs(folder)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=alpha,
        target_modules=["to_q", "to_out.0", "conv1"],
        rank_pattern={"conv1": 2},
        alpha_pattern={"conv1": 3},
    )
    pipe.unet.add_adapter(config)
    pipe.text_encoder.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "out_proj"]))
    rng = torch.Generator().manual_seed(0)
    for net in (pipe.unet, pipe.text_encoder):
        for name, weight in net.named_parameters():
            if ".lora_" in name:
                weight.data = 0.3 * torch.randn(weight.shape, generator=rng)
    layers = {
        f"{place}_lora_layers": peft.utils.get_peft_model_state_dict(net)
        for place, net in (("unet", pipe.unet), ("text_encoder", pipe.text_encoder))
    }
    told = {"unet_lora_adapter_metadata": config.to_dict()}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    if layout == "diffusers":
        pipe.save_lora_weights(tmp_path, **layers, **told)
    else:
        state = {
            f"{place.removesuffix('_lora_layers')}.{k}": v
            for place, own in layers.items()
            for k, v in own.items()
        }
        theirs = diffusers.utils.state_dict_utils.convert_state_dict_to_kohya(state)
        for key in [key for key in theirs if key.endswith(".alpha") and "unet" in key]:
            theirs[key] = torch.tensor(3.0 if "conv1" in key else float(alpha))
        save_file({key: value.contiguous() for key, value in theirs.items()}, path)
    ours = text_to_image.theirs(folder)
    before = picture(ours)
    Adapter(str(path))({"unet": ours.unet, "text_encoder": ours.text_encoder})
    found = picture(ours)
    assert (found - before).abs().max() > 0.01
    torch.testing.assert_close(found, picture(pipe), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spelling", ["plain", "processor"])
def test_files_of_older_diffusers(spelling, adapters, networks, folder, tmp_path):
    lows = {layer: adapters["unet"][layer].scaled for layer in (LINEAR, OUT)}
    tensors = {}
    for layer, low in lows.items():
        block, _, last = layer.removesuffix(".0").rpartition(".")
        name = f"unet.{layer}.lora" if spelling == "plain" else f"unet.{block}.processor.{last}_lora"
        tensors |= {f"{name}.down.weight": low.down, f"{name}.up.weight": low.up}
    save_file(tensors, tmp_path / "a.safetensors")
    assert_same(read_adapters(tmp_path / "a.safetensors", networks), {"unet": lows}, networks)
    pipe = text_to_image.theirs(folder)
    pipe.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    Adapter(str(tmp_path / "a.safetensors"))(networks)
    ours = text_to_image.theirs(folder)
    ours.unet.load_state_dict(networks["unet"].state_dict())
    torch.testing.assert_close(picture(pipe), picture(ours), atol=1e-4, rtol=1e-4)


def xl():
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=4,
        cross_attention_dim=8,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
        use_linear_projection=True,
    )


def test_layers_by_the_names_of_the_first_code_are_those_that_diffusers_takes_them_for():
    from diffusers.loaders import lora_conversion_utils as theirs
    from diffusers.utils import convert_unet_state_dict_to_peft

    unet = xl()
    matrices = {name.removesuffix(".weight") for name, value in unet.named_parameters() if value.ndim > 1}
    names = {layer: name for layer, name in ldm_names(unet).items() if layer in matrices}
    assert set(names) == matrices
    assert len(set(names.values())) == len(names)
    for layer, name in names.items():
        start = f"lora_unet_{name.replace('.', '_')}"
        state = {f"{start}.lora_down.weight": torch.zeros(1), f"{start}.lora_up.weight": torch.zeros(1)}
        state = theirs._maybe_map_sgm_blocks_to_diffusers(state, unet.config)
        found = convert_unet_state_dict_to_peft(theirs._convert_non_diffusers_lora_to_diffusers(state)[0])
        assert f"unet.{layer}.lora_A.weight" in {key.replace(".processor", "") for key in found}, name


def test_kohyas_files_for_sdxl_are_read(tmp_path):
    unet, layer = xl(), "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v"
    low = drawn(unet, layer, 2, 1.0)
    start = "lora_unet_output_blocks_1_1_transformer_blocks_0_attn2_to_v"
    tensors = {"lora_down.weight": low.down, "lora_up.weight": low.up, "alpha": torch.tensor(1.0)}
    save_file({f"{start}.{end}": value for end, value in tensors.items()}, tmp_path / "a.safetensors")
    networks = {"unet": unet, "text_encoder": None, "text_encoder_2": None}
    assert_same(read_adapters(tmp_path / "a.safetensors", networks), {"unet": {layer: low}}, networks)


@pytest.mark.parametrize("layout", WRITERS)
def test_keys_that_belong_to_no_layer_are_refused_by_name(layout, adapters, networks, tmp_path):
    path, changed = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    WRITERS[layout](path, adapters, {})
    tensors = load_file(path)
    key = next(key for key in tensors if "conv1" in key and ("lora_A" in key or "lora_down" in key))
    for other, said in [
        (key.replace("conv1", "conv9"), "1 of {} keys belong to no layer of this model, {}:"),
        (key.replace(".weight", ".hada_w1_a"), "1 of {} keys belong to no layer of this model, {}:"),
    ]:
        save_file(tensors | {other: torch.zeros(1)}, changed)
        with pytest.raises(Refusal) as refused:
            read_adapters(changed, networks)
        assert said.format(len(tensors) + 1, other) in str(refused.value)
    save_file({f"0.{key}": value for key, value in tensors.items()}, changed)
    count = len(tensors)
    with pytest.raises(Refusal, match=rf"{count} of {count} keys .* and {count - 3} more: adapters"):
        read_adapters(changed, networks)
    with pytest.raises(Refusal, match="belong to no layer"):  # of a model without this tower
        read_adapters(path, {"unet": networks["unet"]})


def test_files_that_cannot_be_are_refused(adapters, networks, tmp_path):
    path = tmp_path / "a.safetensors"
    write_diffusers(path, adapters, {})
    tensors, name = load_file(path), f"unet.{LINEAR}"

    def refused(tensors, match):
        save_file(tensors, path)
        with pytest.raises(Refusal, match=match):
            read_adapters(path, networks)

    lone = {key: value for key, value in tensors.items() if key != f"{name}.lora_B.weight"}
    refused(lone, f"{name} has no up factor")
    wide = tensors | {f"{name}.lora_A.weight": torch.zeros(4, 99)}
    refused(wide, rf"{name} is \(16, 16\) in this model, and its adapter \(16, 4\) x \(4, 99\)")
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(Refusal, match="cannot be read as safetensors"):
        read_adapters(path, networks)
    for suffix in (".bin", ".pt"):
        torch.save(tensors, tmp_path / f"a{suffix}")
        with pytest.raises(Refusal, match=r"from a \.safetensors file"):
            read_adapters(tmp_path / f"a{suffix}", networks)
    with pytest.raises(Refusal, match="is not there"):
        Adapter(str(tmp_path / "none.safetensors")).ready()


def test_the_header_tells_both_worlds(networks, tmp_path):
    unet = networks["unet"]
    adapters = {"unet": by_layer(put_adapters(unet, 2, ("attention",), seed=0))}
    write_kohya(
        tmp_path / "a.safetensors",
        adapters,
        {"base": "hf:tiny", "classes": {"日本の犬": "a photo of <class0-0>"}},
    )
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        told = file.metadata()
        assert len(file.keys()) == 3 * len(adapters["unet"])
    assert {k: v for k, v in told.items() if k.startswith("ss_")} == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "2",
        "ss_base_model_version": "hf:tiny",
    }
    assert json.loads(told["counterpoise"])["classes"] == {"日本の犬": "a photo of <class0-0>"}


def test_learnt_words_are_read_by_their_pipeline(folder, tmp_path):
    words = {"<class0-0>": torch.randn(24), "<class0-1>": torch.randn(24)}
    write_words(tmp_path / "learned_embeds.safetensors", words, {})
    pipe, found = text_to_image.theirs(folder), load_file(tmp_path / "learned_embeds.safetensors")
    pipe.load_textual_inversion(list(found.values()), token=list(found))
    ids = pipe.tokenizer("a <class0-0> <class0-1>").input_ids[2:4]
    torch.testing.assert_close(
        pipe.text_encoder.get_input_embeddings().weight[ids], torch.stack(list(words.values()))
    )


def test_adapters_of_others_are_part_of_a_base_and_of_its_digest(adapters, folder, tmp_path):
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_kohya(path, adapters, {})
    write_kohya(other, adapters | {"unet": {}}, {})
    plain = open_base(str(folder))
    made = {
        (file, scale): open_base(str(folder), adapters=[Adapter(str(file), scale)]).content
        for file, scale in [(path, 1.0), (path, 0.5), (other, 1.0)]
    }
    assert len({plain.content, *made.values()}) == 4
    before, after = plain.unet(), open_base(str(folder), adapters=[Adapter(str(path), 0.5)]).unet()
    assert set(after.state_dict()) == set(before.state_dict())
    assert not any(weight.requires_grad for weight in after.parameters())
    for name, weight in before.named_parameters():
        low = adapters["unet"].get(name.removesuffix(".weight"))
        expected = weight + 0.5 * low.change(weight) if low and name.endswith(".weight") else weight
        torch.testing.assert_close(after.get_parameter(name), expected)


def test_an_adapter_is_named_by_its_file_and_scale():
    assert load(describe(Adapter("a.safetensors", 0.8))) == Adapter.named("a.safetensors:0.8")
    assert Adapter.named("a:0.1.safetensors:1.2.3").file == "a:0.1.safetensors:1.2.3"  # no scale
    assert Adapter.named("a.safetensors:.5").scale == 0.5
