from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import text_to_image
import torch
from safetensors.torch import load_file, save_file

from counterpoise.nets import folders
from counterpoise.nets.stable_diffusion import open_base
from counterpoise.types import Refusal


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return text_to_image.save(tmp_path_factory.mktemp("base") / "tiny", channels=6)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    out = tmp_path_factory.mktemp("families")
    return {kind: text_to_image.save(out / kind, kind=kind) for kind in ("sdxl", "sd3")}


@pytest.fixture
def copy(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def edit(path: Path, **changes) -> None:
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in found.items() if value != "gone"}))


def test_what_is_told_of_a_model(tiny):
    base = open_base(str(tiny))
    assert base.shape == (6, 8, 8)
    assert base.size == 32
    assert base.schedule == {
        "kind": "eps",
        "steps": 1000,
        "beta_first": 0.00085,
        "beta_last": 0.012,
        "shape": "scaled_linear",
        "zero_terminal": False,
    }
    assert open_base(str(tiny)).autoencoder is base.autoencoder
    assert base.unet() is not base.unet()


def test_the_content_follows_all_that_is_read_and_no_place(tiny, copy):
    before = open_base(str(tiny)).content
    assert open_base(str(copy)).content == before
    for file in ("unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"):
        (copy / file).write_text((copy / file).read_text() + "\n")
        changed = open_base(str(copy)).content
        assert changed != before
        before = changed
    for part, stem in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = copy / part / f"{stem}.safetensors"
        weights = load_file(path)
        weights[next(iter(weights))] += 1
        save_file(weights, path, {"format": "pt"})
        assert open_base(str(copy)).content != before


def test_opening_leaves_the_global_generator_alone_and_nothing_to_learn(tiny):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    base = open_base(str(tiny))
    nets = [base.unet(), base.autoencoder, base.reader().tower]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weight.requires_grad for net in nets for weight in net.parameters())
    assert not any(module.training for net in nets for module in net.modules())


def test_latents_are_scaled_and_shifted_as_the_config_says(copy):
    import diffusers

    edit(copy / "vae" / "config.json", shift_factor=0.3)
    ours, theirs = open_base(str(copy)).autoencoder, diffusers.AutoencoderKL.from_pretrained(copy / "vae")
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, deviation = ours.encode(x)
    with torch.no_grad():
        posterior = theirs.encode(x).latent_dist
    torch.testing.assert_close(mean, (posterior.mean - 0.3) * 2.5)
    torch.testing.assert_close(deviation, posterior.std * 2.5)
    torch.testing.assert_close(ours.decode(mean), theirs.decode(posterior.mean).sample, atol=1e-5, rtol=1e-4)


def test_opening_draws_no_bars_and_leaves_those_of_others(tiny, capfd):
    import diffusers

    base, bars = open_base(str(tiny)), diffusers.utils.logging
    _ = [base.unet(), base.autoencoder, base.reader()]
    assert capfd.readouterr().err == ""
    assert bars.is_progress_bar_enabled()


def gone(*path):
    return lambda folder: folder.joinpath(*path).unlink()


def config(path, **changes):
    return lambda folder: edit(folder / path, **changes)


BROKEN = {
    "no index": (gone("model_index.json"), "has no model_index.json"),
    "a video model": (
        config("model_index.json", _class_name="WanPipeline"),
        "is a WanPipeline by its model_index.json, and these are understood: StableDiffusionPipeline, .*FluxPipeline",
    ),
    "a part of sdxl": (
        config("model_index.json", _class_name="StableDiffusionXLPipeline"),
        "has no text_encoder_2 by its model_index.json, and a CLIPTextModelWithProjection is needed",
    ),
    "a classifier": (
        lambda folder: (gone("model_index.json")(folder), (folder / "config.json").write_text("{}")),
        "has no model_index.json: it is not a text-to-image model",
    ),
    "no text": (config("model_index.json", text_encoder=[None, None]), "has no text_encoder by its"),
    "no autoencoder": (config("model_index.json", vae="gone"), "has no vae by its"),
    "another": (
        config("model_index.json", unet=["diffusers", "SD3Transformer2DModel"]),
        "has a SD3Transformer2DModel as unet",
    ),
    "no settings": (gone("vae", "config.json"), "has no vae/config.json"),
    "no schedule": (gone("scheduler", "scheduler_config.json"), "has no scheduler/scheduler_config.json"),
    "no tokenizer": (gone("tokenizer", "merges.txt"), "has no tokenizer: .*merges.txt"),
    "flow matching": (
        config("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "the noise of FlowMatchEulerDiscreteScheduler",
    ),
    "no weights": (gone("unet", "diffusion_pytorch_model.safetensors"), "for its unet, found none"),
    "inpainting": (config("unet/config.json", in_channels=13), "sees 13 channels, and latents have 6"),
    "wider": (config("unet/config.json", cross_attention_dim=99), "hears 99 numbers a word, and is told 24"),
    "oblong": (config("unet/config.json", sample_size=[8, 9]), r"works at size \[8, 9\]"),
    "told more": (config("unet/config.json", addition_embed_type="text_time"), "more than a text"),
    "other blocks": (
        config("unet/config.json", down_block_types=["AttnDownBlock2D"]),
        "has AttnDownBlock2D in it",
    ),
    "sample": (config("scheduler/scheduler_config.json", prediction_type="sample"), "found sample on"),
    "sigmoid": (
        config("scheduler/scheduler_config.json", beta_schedule="sigmoid"),
        "found epsilon on sigmoid",
    ),
    "own betas": (
        config("scheduler/scheduler_config.json", trained_betas=[0.1]),
        "found epsilon on trained_betas",
    ),
    "from nothing": (
        config("scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
        "begins at noise alone, and predicts noise",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_such_model_is_refused_by_its_rule(what, copy):
    spoil, found = BROKEN[what]
    spoil(copy)
    with pytest.raises(Refusal, match=found):
        open_base(str(copy))


XL = {
    "no second tokenizer": (gone("tokenizer_2", "merges.txt"), "has no tokenizer_2: .*merges.txt"),
    "no second tower": (
        config("model_index.json", text_encoder_2=[None, None]),
        "has no text_encoder_2 by its",
    ),
    "no sizes": (config("unet/config.json", addition_embed_type="gone"), r"is not told of sizes \(None\)"),
    "a refiner": (config("model_index.json", text_encoder=[None, None]), "has no text_encoder by its"),
    "wider": (config("text_encoder_2/config.json", hidden_size=8), "hears 40 numbers a word, and is told 32"),
    "more of a text": (
        config("text_encoder_2/config.json", projection_dim=8),
        "hears 60 numbers of a text and its sizes, and is told 56",
    ),
    "inpainting": (
        config("unet/config.json", in_channels=9),
        "StableDiffusionXLPipeline is needed, .*sees 9",
    ),
}
FLOW = {
    "no transformer": (config("model_index.json", transformer="gone"), "has no transformer by its"),
    "betas": (
        config("scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        "is a flow, and its .* of a DDIMScheduler",
    ),
    "karras": (
        config("scheduler/scheduler_config.json", use_karras_sigmas=True),
        "asks for use_karras_sigmas",
    ),
    "no third tokenizer": (gone("tokenizer_3", "tokenizer.json"), "has no tokenizer_3: .*spiece.model"),
    "narrower t5": (
        config("text_encoder_3/config.json", d_model=8),
        "hears 48 numbers a word, and is told 8",
    ),
    "clips": (
        config("text_encoder/config.json", projection_dim=8),
        "hears 24 numbers of a text, and is told 20",
    ),
}


@pytest.mark.parametrize(
    ("kind", "what"), [*(("sdxl", what) for what in XL), *(("sd3", what) for what in FLOW)]
)
def test_what_is_no_such_model_of_another_family_is_refused(kind, what, families, tmp_path):
    folder = Path(shutil.copytree(families[kind], tmp_path / "copy"))
    spoil, found = (XL if kind == "sdxl" else FLOW)[what]
    spoil(folder)
    with pytest.raises(Refusal, match=found):
        open_base(str(folder))


def test_what_is_told_of_other_families(families):
    xl, joint = open_base(str(families["sdxl"])), open_base(str(families["sd3"]))
    assert (xl.shape, xl.size, xl.schedule["kind"]) == ((4, 8, 8), 32, "eps")
    assert (joint.shape, joint.size) == ((4, 8, 8), 32)
    last = 3 * 0.001 / (1 + 2 * 0.001)
    assert joint.schedule == {"kind": "flow", "steps": 1000, "shift": 3.0, "last": pytest.approx(last)}
    assert xl.nets == ["unet", "vae", "text_encoder", "text_encoder_2"]
    named = {path.parent.name for path in joint.files()}
    assert {"transformer", "text_encoder_3", "tokenizer_3", "tokenizer_2"} <= named


def test_no_such_folder_and_no_such_name():
    with pytest.raises(Refusal, match=r"there is no text-to-image model './nowhere'"):
        open_base("./nowhere")
    with pytest.raises(Refusal, match="cannot be had from the hub"):
        open_base("nobody/has-this-model")


@pytest.mark.parametrize(
    ("part", "stem", "layer"),
    [
        ("unet", "diffusion_pytorch_model", "conv_in.bias"),
        ("vae", "diffusion_pytorch_model", "decoder.conv_in.bias"),
        ("text_encoder", "model", "final_layer_norm.bias"),
    ],
)
def test_a_network_that_lacks_weights_is_refused(part, stem, layer, copy):
    path = copy / part / f"{stem}.safetensors"
    weights = {name: value for name, value in load_file(path).items() if not name.endswith(layer)}
    save_file(weights, path, {"format": "pt"})
    base = open_base(str(copy))
    with pytest.raises(Refusal, match=f"its {part} has no weights for 1 of its layers, the first .*{layer}"):
        _ = [base.unet(), base.autoencoder, base.reader()]


class Evil:
    def __reduce__(self):
        return (os.mkdir, (f"{os.environ['EVIL']}",))


@pytest.mark.parametrize(
    ("part", "safe", "pickle", "layer"),
    [
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model", "conv_in.bias"),
        ("text_encoder", "model", "pytorch_model", "text_model.final_layer_norm.bias"),
    ],
)
def test_pickle_is_opened_only_when_it_is_allowed_and_runs_no_code(
    part, safe, pickle, layer, copy, tmp_path, monkeypatch
):
    def net():
        base = open_base(str(copy), allow_pickle=True)
        return base.unet() if part == "unet" else base.reader().tower

    expected, path = net().state_dict(), copy / part / f"{safe}.safetensors"
    weights, bad = load_file(path), path.with_name(f"{pickle}.bin")
    path.unlink()
    torch.save(weights, bad)
    with pytest.raises(Refusal, match=rf"for its {part}, found {pickle}.bin.*--allow-pickle"):
        open_base(str(copy))
    opened = net().state_dict()
    assert all(torch.equal(opened[name], value) for name, value in expected.items())
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    torch.save(weights | {layer: Evil()}, bad)
    with pytest.raises(Refusal, match=f"its {part} cannot be opened"):
        net()
    assert not (tmp_path / "ran").exists()


def test_from_the_hub_only_what_is_needed_is_fetched(tiny, monkeypatch):
    asked = []

    def download(name, revision, patterns):
        asked.append((name, revision, patterns))
        return tiny

    monkeypatch.setattr(folders, "download", download)
    base = open_base("hf:somebody/tiny", "v2")
    assert open_base("hf:somebody/tiny", "v2") is base
    ((name, revision, patterns),) = asked  # once
    assert (name, revision) == ("somebody/tiny", "v2")
    assert not any("bin" in pattern or "safety" in pattern or pattern.endswith("*") for pattern in patterns)
    assert "unet/diffusion_pytorch_model.safetensors" in patterns
    assert "text_encoder/model.safetensors" in patterns


def test_prompts_are_told_apart_by_what_is_read_of_them(tiny):
    reader = open_base(str(tiny)).reader()
    tokens = reader.tokens(["a fox 🦊", "", "{a} <|startoftext|>"]).input_ids
    assert tokens.shape == (3, text_to_image.LENGTH)
    assert reader.encoded(tokens).words.shape == (3, text_to_image.LENGTH, 24)
    with pytest.warns(UserWarning, match="2 texts are longer"), pytest.raises(Refusal, match="alike"):
        reader.tokens(["x" * 50 + "a", "x" * 50 + "b"])


def test_words_of_our_own_are_kept_whole_and_begin_as_what_they_mean(tiny):
    base = open_base(str(tiny))
    reader = base.reader()
    plain, first = reader.tokens(["a photo of it"]).input_ids, reader.tokens.known
    reader.tokens.add(["<class0-0>", "<class0-1>"])
    assert first == 514
    assert (reader.tokens(["a <class0-1> <class0-0> x"]).input_ids >= first).sum() == 2
    assert torch.equal(reader.tokens(["a photo of it"]).input_ids, plain)
    embedding = reader.tower.vocabularies[0].weight
    ids = reader.tokens.tokenizer("fox", add_special_tokens=False).input_ids
    torch.testing.assert_close(reader.meaning("fox"), embedding[ids].mean(0))
    with pytest.raises(Refusal, match="words of this package's"):
        reader.tokens.add(["<class0-0>"])


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")  # theirs
def test_a_folder_that_their_pipeline_saved_is_read_alike(tiny, tmp_path):
    text_to_image.theirs(tiny).save_pretrained(tmp_path / "saved")
    ours, theirs = open_base(str(tiny)), open_base(str(tmp_path / "saved"))
    assert ours.schedule == theirs.schedule
    texts = ["a photo of an oak tree", "", "日本 {x} 🦊"]
    tokens = ours.reader().tokens(texts).input_ids
    assert torch.equal(theirs.reader().tokens(texts).input_ids, tokens)
    torch.testing.assert_close(theirs.reader().encoded(tokens).words, ours.reader().encoded(tokens).words)


def test_the_miniature_is_a_model_like_any_other():
    try:
        base = open_base("miniature")
    except Refusal as missing:
        pytest.skip(f"the miniature is not trained yet: {missing}")
    assert base.size == 32
    assert np.prod(base.shape) < 32 * 32 * 3
