"""Every family of text-to-image models: our chain is that of its own pipeline, and it is learnt, opened and sampled."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import text_to_image
import torch
from safetensors.torch import load_file

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.guides import CFG, Interval
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.ladder import cut
from counterpoise.diffusion.losses import LogitNormal
from counterpoise.diffusion.min_snr import MinSNR
from counterpoise.diffusion.samplers import euler
from counterpoise.diffusion.start import from_noise, from_source
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt, spoken
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.lora import put_adapters
from counterpoise.nets.stable_diffusion import Autoencoder, open_base
from counterpoise.spaces import latents
from counterpoise.spaces.preview import SmallDecoder
from counterpoise.types import Refusal

CLASSES = ["oak_tree", "red {fox}", "dog"]
PROMPTS = ["a photo of an oak tree", "a photo of a red {fox}", "a photo of a dog"]
KINDS = {
    "sd": ("sd", {}),
    "sd2 v": ("sd", {"prediction_type": "v_prediction"}),
    "sdxl": ("sdxl", {}),
    "sd3": ("sd3", {}),
    "sd3 without t5": ("sd3 without t5", {}),
    "flux": ("flux", {}),
}
STEPS, SCALE = 5, 3.0


def photos(n=12):
    rows = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return Lesson(Rows.of(rows), np.arange(n) % len(CLASSES), None, CLASSES)


@pytest.fixture(autouse=True)
def quick_previews(monkeypatch):
    monkeypatch.setattr(latents, "PREVIEW", SmallDecoder(steps=20))


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    kind, schedule = KINDS[request.param]
    return text_to_image.save(tmp_path_factory.mktemp("bases") / "base", channels=4, kind=kind, **schedule)


def ours(folder, strength, scale):
    """Latents, and the start that both chains share, in their units."""
    model = StableDiffusion(base=str(folder), steps=STEPS, guides=())
    config = model.config(photos())
    read, net, space = model.objective.parametrisation, model.network_for(config, 0), model.space(config, {})
    rungs = cut(model.ladder(), strength)
    if strength < 1:
        x = from_source(rungs, space.into(photos().rows.raw(np.arange(3)), np.empty(0)), [5, 6, 7])
    else:
        x = from_noise(rungs, [5, 6, 7], space.shape)
    flow = model._base.schedule["kind"] == "flow"
    given = x / (1 + rungs[0]) if flow else x / (1 + rungs[0] ** 2).sqrt()
    with torch.no_grad():
        denoise = CFG(scale)(read.denoiser(net), GuideContext())
        return euler(denoise, x, rungs, Cond(torch.arange(3)), [5, 6, 7]), given.float()


def expected(folder, strength, scale, given):
    pipe = text_to_image.theirs(folder, img2img=strength < 1)
    flux, begins = hasattr(pipe, "_pack_latents"), pipe.prepare_latents
    told = {"num_inference_steps": STEPS, "guidance_scale": scale, "output_type": "latent"}
    if flux:
        told |= {"guidance_scale": 3.5, "true_cfg_scale": scale, "negative_prompt": [""] * 3}
        given = pipe._pack_latents(given, *given.shape)
    if flux or getattr(pipe, "text_encoder_3", None):
        told["max_sequence_length"] = text_to_image.T5_LENGTH
    if flux or strength == 1:
        told |= {"height": 32, "width": 32}
    if strength == 1:
        return unpacked(pipe, pipe(PROMPTS, latents=given, **told).images)
    pipe.prepare_latents = lambda *args, **more: (given, begins(*args, **more)[1]) if flux else given
    return unpacked(pipe, pipe(PROMPTS, image=torch.zeros(3, 3, 32, 32), strength=strength, **told).images)


def unpacked(pipe, found):
    return pipe._unpack_latents(found, 32, 32, pipe.vae_scale_factor) if found.ndim == 3 else found


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(
    ("strength", "scale"), [(1.0, 1.0), *((s, SCALE) for s in (1.0, 0.8, 0.6, 0.4, 0.2))]
)
def test_our_chain_is_that_of_their_pipeline(folder, strength, scale):
    found, given = ours(folder, strength, scale)
    assert found.std() > 0.2
    wanted = expected(folder, strength, scale, given)
    assert (found - wanted).abs().max() < 1e-4


def model(folder, **settings):
    school = Schooling(steps=3, batch=4, lr=1e-2, bf16=False)
    return StableDiffusion(base=str(folder), steps=3, schooling=school, **{"guides": ()} | settings)


def asked(n, strength=1.0):
    return [
        {"label": i % 3, "seed": 100 + i, "strength": strength, "source_id": f"r{i % 12}"} for i in range(n)
    ]


def test_adapters_and_words_are_learnt_kept_and_sampled(folder, tmp_path):
    learning, lesson = model(folder, adapt=Adapt(rank=2, words=2)), photos()
    learning.fit(lesson, tmp_path, seed=3)
    start = learning.network_for(learning.config(lesson), seed=3).state_dict()
    written = {
        name: v for name, v in load_file(tmp_path / "weights.safetensors").items() if "space." not in name
    }
    assert set(written) == set(start)
    still = {name for name, value in written.items() if torch.equal(value, start[name])}
    # In the last block of SD3 nobody hears what the words ask.
    assert all("transformer_blocks/1/attn/add_q_proj" in name for name in still)
    widths = [known.embedding_dim for known in learning._base.reader().tower.vocabularies]
    assert written["prompts.words"].shape == (2 * len(CLASSES), sum(widths))
    images = dict(zip([f"r{i}" for i in range(12)], lesson.rows.raw(np.arange(12)), strict=True))
    sample = learning.load(tmp_path, Context(real=lambda ids: np.stack([images[i] for i in ids])))
    for strength in (1.0, 0.67):
        rows = asked(5, strength)
        together, alone = sample(rows), sample(rows[3:4])[0]
        assert all(isinstance(x, np.ndarray) and x.shape == (32, 32, 3) for x in together)
        assert np.abs(together[3].astype(int) - alone).max() <= 1
        assert np.abs(together[3].astype(int) - together[0]).max() > 20  # one class, two seeds


def test_adapters_lie_beside_every_attention_of_the_network(folder):
    base = open_base(str(folder))
    layers = {name.split(".lora_")[0] for name in put_adapters(base.unet(), 1, ("attention",), seed=0)}
    linear = {
        n for n, m in base.frozen_unet.named_modules() if isinstance(m, torch.nn.Linear) and "attn" in n
    }
    assert linear - layers == set()


def test_words_that_begin_as_a_name_of_one_token_are_read_as_the_name(folder):
    """By CLIPs: no word of ours is taken for the end of a text. T5 has spaces that are tokens."""
    base, classes = open_base(str(folder)), ["x", "y"]
    spoken_ = spoken(base, "a photo of {name} there", classes)
    learnt = Adapt(words=1).network(base, "a photo of {name} there", classes, seed=0).prompts
    labels = torch.tensor([0, 1, -1])
    with torch.no_grad():
        found, wanted = learnt(labels), spoken_(labels)
    compared = wanted.tensors if len(base.towers) == 1 else {"whole": wanted.whole}
    if base.family.pipeline == "StableDiffusionXLPipeline":
        compared = wanted.tensors
        assert found.words[-1].abs().max() == found.whole[-1].abs().max() == 0  # told nothing
    for name, value in compared.items():
        torch.testing.assert_close(getattr(found, name), value, atol=1e-5, rtol=1e-5)
    assert (wanted.words[0] - wanted.words[1]).abs().max() > 0.01


def test_a_flow_has_its_own_weights(folder):
    learning = model(folder, adapt=Adapt(min_snr=5.0))
    if learning._base.family.flow:
        with pytest.raises(Refusal, match="Min-SNR weighs the steps of a schedule"):
            learning.ready(None)
        assert isinstance(dataclasses.replace(learning, adapt=Adapt()).objective, LogitNormal)
        with pytest.raises(Refusal, match="heun takes the mean of the slopes"):
            model(folder, sampler="heun").ready(None)
    else:
        assert isinstance(learning.objective, MinSNR)


def test_a_model_that_is_told_how_strongly_to_follow_a_text_is_not_guided_as_well(folder):
    told, guided = open_base(str(folder)).family.pipeline == "FluxPipeline", (Interval(CFG(3.0), 0, 5),)
    with (
        pytest.raises(Refusal, match="CFG at scale 3 would guide it a second time") if told else nullcontext()
    ):
        model(folder, guides=guided).ready(None)
    model(folder, guides=(CFG(1.0),)).ready(None)


def test_a_transformer_has_no_convolutions_to_adapt(folder):
    learning = model(folder, adapt=Adapt(places=("attention", "convolutions")))
    flow = learning._base.family.flow
    with pytest.raises(Refusal, match="has a transformer, which has none") if flow else nullcontext():
        learning.config(photos())


@pytest.mark.filterwarnings(
    "ignore:Mismatch dtype between input and weight"
)  # FLUX norms bf16 by float32, slower
def test_the_autoencoder_stays_in_float32_where_the_network_does_not(folder, tmp_path, monkeypatch):
    """SDXL's overflows in half precision."""
    learning = dataclasses.replace(model(folder), schooling=Schooling(bf16=True))
    learning.fit(photos(), tmp_path, seed=1)
    seen, decode = [], Autoencoder.decode

    def watched(self, latents):
        seen.append((latents.dtype, torch.is_autocast_enabled("cpu"), next(self.parameters()).dtype))
        return decode(self, latents)

    monkeypatch.setattr(Autoencoder, "decode", watched)
    learning.load(tmp_path, Context(real=None))(asked(2))
    assert set(seen) == {(torch.float32, False, torch.float32)}
