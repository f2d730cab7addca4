"""On random weights: what is computed is what diffusers computes, and what must stand still does."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import text_to_image
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.checkpoints import Folder
from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.feedback import Feedback
from counterpoise.diffusion.guides import CFG, AutoGuidance
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.ladder import cut, discrete
from counterpoise.diffusion.losses import ClassBalancing, denoising_loss
from counterpoise.diffusion.samplers import ddim
from counterpoise.diffusion.start import from_noise, from_source
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.diffusing import opened
from counterpoise.generators.generator import Context, Failed, Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.prompted import Inverted
from counterpoise.spaces import latents
from counterpoise.spaces.preview import SmallDecoder
from counterpoise.types import Refusal, describe, load

CLASSES = ["oak_tree", "red {fox} 🦊", "日本の犬"]


def photos(n: int = 12, size: int = 32, channels: int = 3, classes: list[str] = CLASSES) -> Lesson:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 4, 4, channels), dtype=np.uint8)
    rows = coarse.repeat(size // 4, 1).repeat(size // 4, 2)
    return Lesson(Rows.of(rows), np.arange(n) % len(classes), None, classes)


def asked(n: int = 6, strength: float = 1.0) -> list[dict]:
    return [
        {"label": i % len(CLASSES), "seed": 10**12 + i, "strength": strength, "source_id": str(i)}
        for i in range(n)
    ]


def context(lesson: Lesson) -> Context:
    return Context(lambda ids: np.stack([lesson.rows.raw(np.array([int(i)]))[0] for i in ids]))


@pytest.fixture(autouse=True)
def quick_previews(request, monkeypatch):
    if "whole_preview" not in request.fixturenames:
        monkeypatch.setattr(latents, "PREVIEW", SmallDecoder(steps=20))


@pytest.fixture
def whole_preview():
    """It learns for as long as it does for users."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_to_image.save(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return StableDiffusion(base=str(folder), steps=4, schooling=Schooling(steps=4, batch=4, bf16=False))


@pytest.fixture(scope="module")
def fitted(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted")
    model.fit(photos(), out, seed=1)
    return model, out


PREDICTIONS = {
    "eps": {},
    "eps-linear": {"beta_schedule": "linear", "beta_end": 0.02},
    "v": {"prediction_type": "v_prediction"},
    "v-cosine": {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    "v-zero": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_our_chain_is_that_of_their_pipeline(kind, strength, tmp_path):
    folder = text_to_image.save(tmp_path / "base", **PREDICTIONS[kind])
    steps, scale, prompts = (
        8,
        3.0,
        ["a photo of an oak tree", "a photo of a red {fox} 🦊", "a photo of a 日本の犬"],
    )
    ours = StableDiffusion(base=str(folder), steps=steps)
    config = ours.config(photos())
    read, net = ours.objective.parametrisation, ours.network_for(config, seed=0)
    seeds = [5, 6, 7]
    rungs = cut(discrete(read.schedule, steps), strength)
    space = ours.space(config, {})
    if strength < 1:
        source = space.into(photos().rows.raw(np.arange(3)), np.empty(0))
        x = from_source(rungs, source, seeds)
    else:
        x = from_noise(rungs, seeds, space.shape)
    given = x / (1 + rungs[0] ** 2).sqrt().float()  # in their units
    with torch.no_grad():
        denoise = CFG(scale)(read.denoiser(net), GuideContext())
        found = ddim(denoise, x, rungs, Cond(torch.arange(3)), seeds)

    pipe = text_to_image.theirs(folder, img2img=strength < 1)
    told = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "latent"}
    if strength < 1:
        pipe.prepare_latents = lambda *_, **__: given  # their start, from our noise
        blank = torch.zeros(3, 3, 32, 32)
        expected = pipe(prompts, image=blank, strength=strength, **told).images
        times = pipe.scheduler.timesteps[-len(rungs) + 1 :][:1].expand(3)
        noise = (x - source) / rungs[0].float()
        torch.testing.assert_close(
            pipe.scheduler.add_noise(source, noise, times), given, atol=1e-4, rtol=1e-4
        )
    else:
        expected = pipe(prompts, latents=given, height=32, width=32, **told).images
    assert found.std() > 0.2
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    pictures = pipe.vae.decode(expected / pipe.vae.config.scaling_factor).sample
    shown = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).detach().numpy()
    assert np.abs(np.stack(space.back(found, np.empty(0))) - shown).max() <= 1


def test_samples_are_rows_of_the_study_and_depend_on_their_own_row_alone(fitted):
    model, out = fitted
    sample = model.load(out, context(photos()))
    for strength in (1.0, 0.5):
        rows = asked(7, strength)
        first = np.stack(sample(rows)).astype(int)
        assert first.shape == (7, 32, 32, 3)
        order = [3, 0, 6, 2, 5, 1, 4]
        shuffled = np.stack(sample([rows[i] for i in order])).astype(int)
        assert np.abs(shuffled - first[order]).max() <= 1
        assert np.abs(sample(rows[3:4])[0].astype(int) - first[3]).max() <= 1
        assert np.abs(first[0] - first[3]).max() > 20  # one class, two seeds


def test_the_prompt_and_its_guidance_make_a_difference(fitted):
    model, out = fitted
    made = {}
    for scale in (0.0, 1.0, 4.0):
        sample = dataclasses.replace(model, guides=(CFG(scale),)).load(out, context(photos()))
        made[scale] = np.stack(sample([row | {"seed": 1} for row in asked(3)])).astype(int)
    assert np.abs(made[0.0][0] - made[0.0][1]).max() <= 1  # told nothing, classes are one
    assert 0 < np.abs(made[1.0][0] - made[1.0][1]).mean() < np.abs(made[4.0][0] - made[4.0][1]).mean()


def test_strength_goes_from_what_the_autoencoder_makes_of_the_source_to_noise(fitted):
    model, out = fitted
    sample = model.load(out, context(photos()))
    space = model.space(model.config(photos()), {})
    # One behind the other in memory, as the sampler has them: else convolutions round otherwise, and a grey level differs.
    source = space.into(photos().rows.raw(np.arange(6)), np.empty(0)).contiguous()
    again = np.stack(space.back(source, np.empty(0)))
    away = [np.abs(np.stack(sample(asked(6, s))).astype(int) - again).mean() for s in (0.0, 0.25, 0.5, 1.0)]
    assert away[0] == 0
    assert away == sorted(away)
    assert len(set(away)) == 4


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (64, 3)])
def test_rows_of_other_sizes_and_of_no_colour(model, size, channels, tmp_path):
    lesson = photos(6, size, channels)
    model.fit(lesson, tmp_path, seed=1)
    sample = model.load(tmp_path, context(lesson))
    for strength in (1.0, 0.5):
        assert {x.shape for x in sample(asked(3, strength))} == {(size, size, channels)}


def test_without_adapting_nothing_is_learnt_but_the_preview(fitted):
    model, out = fitted
    weights = load_file(out / "weights.safetensors")
    assert weights
    assert all(name.startswith("space.") for name in weights)
    config = json.loads((out / "config.json").read_text())
    assert config["classes"] == CLASSES
    assert len(config["content"]) == 32
    assert load(config["generator"]) == model
    before = (out / "weights.safetensors").stat().st_mtime_ns
    model.fit(photos(), out, seed=1)  # is there already
    assert (out / "weights.safetensors").stat().st_mtime_ns == before


def test_another_base_is_refused_at_load(tmp_path):
    folder = text_to_image.save(tmp_path / "base")
    model = StableDiffusion(base=str(folder))
    model.fit(photos(3), tmp_path / "fit", seed=1)
    model.load(tmp_path / "fit", context(photos(3)))  # and stays open
    from safetensors.torch import save_file

    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    weights["conv_in.bias"] += 1e-3
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(Refusal, match=r"is not the model that this generator was fitted with .* --redo fit"):
        model.load(tmp_path / "fit", context(photos(3)))


def test_what_is_not_finite_or_black_fails_alone(fitted, monkeypatch):
    model, out = fitted
    decode = type(model._base.autoencoder).decode

    def broken(self, z):
        made = decode(self, z).clone()
        made[0], made[1] = float("nan"), -1.0
        return made

    monkeypatch.setattr(type(model._base.autoencoder), "decode", broken)
    nan, black, fine = model.load(out, context(photos()))(asked(3))
    assert isinstance(nan, Failed)
    assert str(nan) == "not finite"
    assert str(black) == "black"
    assert fine.shape == (32, 32, 3)


def test_without_a_single_row_it_samples_by_names_and_learns_nothing(model, tmp_path):
    none = dataclasses.replace(
        photos(), rows=Rows.of(np.zeros((0, 24, 24, 3), np.uint8)), labels=np.zeros(0, int)
    )
    model.fit(none, tmp_path / "names", seed=1)
    made = model.load(tmp_path / "names", context(none))(asked(3))
    assert {x.shape for x in made} == {(24, 24, 3)}
    seen = photos(size=24)
    model.fit(seen, tmp_path / "rows", seed=1)
    assert np.array_equal(made, model.load(tmp_path / "rows", context(seen))(asked(3)))
    with pytest.raises(
        Refusal, match="learn the classes from real rows, and there are none: leave adapt out"
    ):
        dataclasses.replace(model, adapt=Adapt()).fit(none, tmp_path / "adapted", seed=1)


def test_names_that_read_the_same_and_empty_ones_are_refused(model, tmp_path):
    for classes, found in [
        (["red_fox", "Red Fox"], "'red_fox' and 'Red Fox' are said alike"),
        (["x", " _ "], "says nothing"),
        (["a" * 60 + "1", "a" * 60 + "2"], f"{text_to_image.LENGTH} tokens of a prompt"),
    ]:
        with pytest.raises(Refusal, match=found):
            model.fit(photos(4, classes=classes), tmp_path, seed=1)
    with pytest.raises(Refusal, match=r"says \{a\}"):
        StableDiffusion(prompt="a photo")
    with pytest.raises(Refusal, match="feature vectors of 5 numbers"):
        model.fit(
            dataclasses.replace(photos(), rows=Rows.of(np.zeros((12, 5), np.float32))), tmp_path, seed=1
        )
    with pytest.raises(Refusal, match="without adapt nothing is trained"):
        StableDiffusion(guides=(AutoGuidance(),))
    with pytest.raises(Refusal, match="balance says what training costs"):
        StableDiffusion(balance=ClassBalancing())
    with pytest.raises(Refusal, match="labelled rows only"):
        StableDiffusion(schooling=Schooling(pool_share=0.5))


def test_what_cannot_work_is_refused_before_anything_is_made(model, tmp_path):
    for classes in (None, CLASSES):
        model.ready(classes)
        dataclasses.replace(model, adapt=Adapt(words=2)).ready(classes)
    with pytest.raises(Refusal, match="no text-to-image model '/nope'"):
        StableDiffusion(base="/nope").ready(None)
    with pytest.raises(Refusal, match="said alike"):
        model.ready(["red_fox", "Red Fox"])
    with pytest.raises(Refusal, match=r"end of class 'x+'"):
        model.ready(["fox", "x" * 60])
    with pytest.raises(
        Refusal, match=r"40 tokens of a prompt, and up to the end of class 'oak_tree' there are"
    ):
        dataclasses.replace(model, adapt=Adapt(words=40)).ready(CLASSES)
    few = text_to_image.save(tmp_path / "few", num_train_timesteps=50)
    steep = StableDiffusion(base=str(few), steps=51)
    for early in (lambda: steep.ready(None), lambda: steep.config(photos())):
        with pytest.raises(Refusal, match="knows 50 noise levels, and 51 steps"):
            early()
    StableDiffusion(base=str(few), steps=50).config(photos())


def test_without_adapting_no_schooling_is_part_of_what_was_fitted(model, tmp_path):
    model.fit(photos(), tmp_path, seed=1)
    dataclasses.replace(model, schooling=Schooling(steps=9, batch=7)).fit(photos(), tmp_path, seed=1)
    with pytest.raises(Refusal, match="other settings"):
        model.fit(photos(), tmp_path, seed=2)


def test_a_look_at_latents_is_about_what_the_decoder_shows(model, whole_preview):
    lesson = photos(60)
    space = model.space(model.config(lesson), model.learn_space(lesson))
    x = space.into(lesson.rows.raw(np.arange(20)), np.empty(0)).requires_grad_()
    seen, shown = space.look(x, torch.zeros(20)), np.stack(space.back(x, np.empty(0))) / 255
    assert seen.shape == (20, 3, 32, 32)
    assert seen.min() >= 0
    assert seen.max() <= 1
    coarse = F.avg_pool2d(torch.from_numpy(shown).permute(0, 3, 1, 2), 4)  # random decoders are all grain
    assert (F.avg_pool2d(seen, 4) - coarse).std() < 0.5 * coarse.std()
    assert torch.autograd.grad(seen.sum(), x)[0].abs().sum() > 0


def test_what_it_costs(model, monkeypatch):
    fit, sample = model.seconds(3, 32, 5, batch=2)
    assert fit == 0
    assert sample > 0
    asked = []
    listen = Inverted.forward
    hear = lambda self, label, text: asked.append(label) or listen(self, label, text)  # noqa: E731
    monkeypatch.setattr(Inverted, "forward", hear)
    fit, _ = dataclasses.replace(model, adapt=Adapt()).seconds(1, 8, 5, batch=3)
    assert fit > 0
    assert {tuple(label.tolist()) for label in asked} == {(0, 1, 2)}  # a text is read for each


def test_what_it_stores(model, tmp_path):
    assert model.stored(3, 32, len(CLASSES)) == 0
    learning = dataclasses.replace(model, adapt=Adapt(rank=2), guides=(AutoGuidance(1.5),))
    learning.fit(photos(), tmp_path, seed=1)
    kept = [load_file(tmp_path / place / "weights.safetensors") for place in (".", "weak")]
    learnt = sum(v.nbytes for found in kept for k, v in found.items() if not k.startswith("space."))
    assert learning.stored(3, 32, len(CLASSES)) == learnt


# --- adapting ------------------------------------------------------------------------------------------------

ADAPTS = {
    "lora": Adapt(rank=2),
    "lora everywhere": Adapt(rank=2, places=("attention", "feedforward", "convolutions"), words=2, flip=True),
    "lora alone": Adapt(rank=2, words=0, min_snr=5.0),
    "words": Adapt(kind="words", words=2),
    "lora in the tower too": Adapt(rank=2, places=("attention", "text")),
    "lora in the tower": Adapt(rank=2, places=("text",), words=0, templates=("{a}!",)),
    "full": Adapt(kind="full", words=0),
}


@pytest.mark.parametrize("kind", ADAPTS)
def test_only_what_is_learnt_moves_and_is_written(kind, model, tmp_path):
    adapt = ADAPTS[kind]
    learning = dataclasses.replace(
        model, adapt=adapt, schooling=Schooling(steps=6, batch=4, lr=1e-2, bf16=False)
    )
    lesson = photos()
    config = learning.config(lesson)
    net = learning.network_for(config, seed=3)
    frozen = {"unet": net.frozen.net} | (
        {"tower": net.prompts.frozen.net} if adapt.words or adapt.reads else {}
    )
    before = {name: {k: v.clone() for k, v in module.state_dict().items()} for name, module in frozen.items()}
    made = net(torch.randn(4, 4, 8, 8), torch.full((4,), 300.0), Cond(torch.tensor([0, 1, 2, -1])))
    made.square().sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
    assert all(weight.grad is None for module in frozen.values() for weight in module.parameters())
    for name, module in frozen.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[name][key])
    learning.fit(lesson, tmp_path, seed=3)
    written = {
        k: v for k, v in load_file(tmp_path / "weights.safetensors").items() if not k.startswith("space.")
    }
    start = learning.network_for(config, seed=3).state_dict()
    assert set(written) == set(start)
    assert any("lora" in name for name in written) == (adapt.kind == "lora")
    if adapt.words:
        assert written["prompts.words"].shape == (len(CLASSES) * adapt.words, 24)
    moved = {name for name, value in written.items() if not torch.equal(value, start[name])}
    assert moved == set(written)
    made = learning.load(tmp_path, context(lesson))(asked(3))
    assert all(isinstance(x, np.ndarray) for x in made)
    assert load(describe(learning)) == learning


@pytest.mark.parametrize("kind", sorted(set(ADAPTS) - {"lora alone"}))
def test_fitted_ones_say_what_was_learnt_and_share_one_base(kind, model, tmp_path):
    school = Schooling(steps=6, batch=4, lr=1e-1, bf16=False)
    learning = dataclasses.replace(model, adapt=ADAPTS[kind], schooling=school)
    learning.fit(photos(), tmp_path, seed=3)
    config = learning.config(photos())
    slow, fast = learning.network_for(config, seed=0), opened(learning, tmp_path, config)[0]
    x, step, cond = torch.randn(4, 4, 8, 8), torch.full((4,), 300.0), Cond(torch.tensor([0, 1, 2, -1]))
    with torch.no_grad():
        start = slow(x, step, cond)
        state = load_file(tmp_path / "weights.safetensors")
        slow.load_state_dict({name: v for name, v in state.items() if not name.startswith("space.")})
        expected, found = slow(x, step, cond), fast(x, step, cond)
    assert (expected - start).abs().max() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert fast.frozen.net is learning._base.frozen_unet
    assert not any("lora" in name for name in fast.frozen.net.state_dict())


def test_a_classifier_is_listened_to_through_the_preview(model, whole_preview, tmp_path):
    lesson = photos()
    model.fit(lesson, tmp_path, seed=1)

    def tilt(pictures):  # how much more of the first colour there is on the left
        return pictures[:, 0, :, :16].mean((1, 2)) - pictures[:, 0, :, 16:].mean((1, 2))

    def teacher(seen, label):
        assert seen.shape[1:] == (3, 32, 32)
        return torch.stack([40 * tilt(seen), -40 * tilt(seen)], 1), torch.zeros(len(seen), 1)

    def tilted(model, ctx):
        rows = [row | {"label": 1} for row in asked(4)]
        made = np.stack(dataclasses.replace(model, steps=12, guides=(CFG(2.0),)).load(tmp_path, ctx)(rows))
        return tilt(torch.from_numpy(made).float().permute(0, 3, 1, 2))

    heard = dataclasses.replace(context(lesson), guides=(Feedback(scale=300.0),), teacher=teacher)
    assert (
        tilted(model, heard) - tilted(model, context(lesson))
    ).mean() > 0.05  # of 255; a random decoder hardly answers


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(model, tmp_path, monkeypatch):
    learning = dataclasses.replace(
        model,
        adapt=Adapt(rank=2, flip=True, balanced=0.5),
        schooling=Schooling(steps=6, batch=4, lr=1e-2, bf16=False),
    )
    learning.fit(photos(), tmp_path / "whole", seed=1)
    monkeypatch.setattr(Folder, "due", lambda self: True)

    def stop(self, step, net):
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "preview", stop)
        with pytest.raises(KeyboardInterrupt):
            learning.fit(photos(), tmp_path / "halves", seed=1)
    assert list((tmp_path / "halves").glob("state-*"))
    learning.fit(photos(), tmp_path / "halves", seed=1)
    whole, halves = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(halves[name], value) for name, value in whole.items())
    with pytest.raises(Refusal, match="was fitted with other settings"):
        dataclasses.replace(learning, adapt=Adapt(rank=3)).fit(photos(), tmp_path / "whole", seed=1)


@pytest.mark.parametrize("bf16", [False, True])
def test_adapting_learns(bf16, model, tmp_path):
    """On a frozen base of random weights adapters and words cannot do much, but they do it."""
    schooling = Schooling(steps=40, batch=8, lr=1e-2, ema=0.9, bf16=bf16, unlabelled=0.0)
    everywhere = ("attention", "feedforward", "convolutions")
    learning = dataclasses.replace(model, adapt=Adapt(rank=4, places=everywhere), schooling=schooling)
    lesson = photos()
    learning.fit(lesson, tmp_path, seed=1)
    config = learning.config(lesson)
    space, objective = learning.space(config, {}), learning.objective
    rng = torch.Generator().manual_seed(0)
    x0 = space.into(lesson.rows.raw(np.arange(12)), lesson.labels).repeat(8, 1, 1, 1)
    sigma, noise = objective.draw(96, rng), torch.randn(x0.shape, generator=rng)
    cond = Cond(torch.from_numpy(lesson.labels).repeat(8))

    @torch.no_grad()
    def error(net):
        denoise = objective.parametrisation.denoiser(net)
        return denoising_loss(denoise, objective, x0, sigma, noise, cond)[0].mean().item()

    assert error(opened(learning, tmp_path, config)[0]) < 0.8 * error(learning.network_for(config, seed=1))


def test_other_losses_and_guides_are_for_it_too_and_rows_are_encoded_once(model, tmp_path, monkeypatch):
    made = []
    for cls, method in ((StableDiffusion, "learn_space"), (StableDiffusion, "material")):
        work = getattr(cls, method)
        note = lambda *args, work=work, method=method: made.append(method) or work(*args)  # noqa: E731
        monkeypatch.setattr(cls, method, note)
    settings = {"balance": ClassBalancing(law="uniform"), "guides": (AutoGuidance(1.5), CFG(2.0))}
    learning = dataclasses.replace(model, adapt=Adapt(rank=2), **settings)
    learning.fit(photos(), tmp_path, seed=1)
    assert sorted(made) == ["learn_space", "material"]
    assert (tmp_path / "weak" / "weights.safetensors").stat().st_size < 300_000  # nothing of the base
    assert all(isinstance(x, np.ndarray) for x in learning.load(tmp_path, context(photos()))(asked(3)))
