"""Pictures beside the text: unCLIP and IP-Adapter chains are those of their own pipelines, and what is left out is."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import text_to_image
import torch
from scipy.stats import binom
from studies import fill, small

from counterpoise import run
from counterpoise.data.pixels import Rows
from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.samplers import ddim
from counterpoise.diffusion.start import from_noise
from counterpoise.diffusion.training import Schooling
from counterpoise.generators import exemplars
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.exemplars import Exemplars
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.lots import Lot
from counterpoise.nets.image_adapters import ImageAdapter
from counterpoise.proposals.pairings import SameClass
from counterpoise.spaces import latents
from counterpoise.spaces.preview import SmallDecoder
from counterpoise.study import Study
from counterpoise.types import Refusal

CLASSES = ["oak_tree", "red {fox}", "dog"]
PROMPTS = ["a photo of an oak tree", "a photo of a red {fox}", "a photo of a dog"]
KINDS = {
    "unclip": ("unclip", {"prediction_type": "v_prediction"}),
    "unclip eps": ("unclip", {}),
    "adapter": ("sd", {}),
    "adapter of xl": ("sdxl", {}),
}
TWO = pytest.mark.parametrize("seeing", ["unclip", "adapter"], indirect=True)
STEPS, SCALE, LOUD = 5, 3.0, 0.7


def photos(n=12):
    rng = np.random.default_rng(0)
    colours, grain = rng.integers(0, 200, (n, 1, 1, 3)), rng.integers(0, 56, (n, 32, 32, 3))
    return Lesson(Rows.of((colours + grain).astype(np.uint8)), np.arange(n) % len(CLASSES), None, CLASSES)


def real(ids):
    return photos().rows.raw(np.array([int(name[1:]) for name in ids]))


def asked(n, **more):
    return [
        {"label": i % 3, "seed": 100 + i, "strength": 1.0, "source_id": f"r{i % 12}"} | more for i in range(n)
    ]


@pytest.fixture(autouse=True)
def quick_previews(monkeypatch, tmp_path):
    monkeypatch.setattr(latents, "PREVIEW", SmallDecoder(steps=2))
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=KINDS)
def seeing(request, tmp_path_factory):
    """A model that sees pictures: its folder, and the adapter if it needs one."""
    kind, schedule = KINDS[request.param]
    root = tmp_path_factory.mktemp("seeing")
    folder = text_to_image.save(root / "base", kind=kind, **schedule)
    if kind == "unclip":
        return folder, None
    file, encoder = text_to_image.image_adapter(root / "adapter", folder)
    return folder, ImageAdapter(str(file), str(encoder), LOUD)


def model(seeing, noise=0, adapt=None, **images):
    folder, adapter = seeing
    school = Schooling(steps=3, batch=4, lr=1e-2, bf16=False)
    told = Exemplars(adapter=adapter, noise=0 if adapter else noise, **images)
    return StableDiffusion(base=str(folder), images=told, steps=STEPS, adapt=adapt, schooling=school)


def ours(settings, scale):
    config = settings.config(photos())
    read, net = settings.objective.parametrisation, settings.network_for(config, 0)
    rungs, told = settings.ladder(), settings.seen(asked(3), Context(real))
    x = from_noise(rungs, [5, 6, 7], settings.shape(config))
    with torch.no_grad():
        denoise = CFG(scale)(read.denoiser(net), GuideContext())
        found = ddim(denoise, x, rungs, Cond(torch.arange(3), image=told), [5, 6, 7])
    return found, (x / (1 + rungs[0] ** 2).sqrt()).float(), told


def of_unclip(settings, folder, scale, given, noise):
    pipe, base = text_to_image.theirs(folder), settings._base
    known = exemplars._embedded(base, real(["r0", "r1", "r2"]))
    draws = exemplars._draws([100, 101, 102], known.shape[1], 0, 0)[2]
    adds = pipe.noise_image_embeddings
    pipe.noise_image_embeddings = lambda image_embeds, noise_level, **_: adds(
        image_embeds, noise_level, draws
    )
    told = {"guidance_scale": scale, "image_embeds": known, "noise_level": noise, "latents": given}
    return pipe(prompt=PROMPTS, num_inference_steps=STEPS, output_type="latent", **told).images


def of_adapter(settings, folder, scale, given, told):
    pipe, file = text_to_image.theirs(folder), settings.images.adapter.path
    pipe.load_ip_adapter(
        str(file.parent),
        subfolder=".",
        weight_name=file.name,
        image_encoder_folder=None,
        local_files_only=True,
    )
    pipe.set_ip_adapter_scale(LOUD)
    more = {"num_inference_steps": STEPS, "guidance_scale": scale, "height": 32, "width": 32}
    found = []
    for prompt, latent, image in zip(PROMPTS, given, told, strict=True):  # theirs shows all rows one picture
        both = image[None, None] if scale == 1 else torch.stack([torch.zeros_like(image), image])[:, None]
        shown = {"latents": latent[None], "ip_adapter_image_embeds": [both]}
        found.append(pipe(prompt, output_type="latent", **shown, **more).images)
    return torch.cat(found)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(("scale", "noise"), [(1.0, 0), (SCALE, 0), (SCALE, 300)])
def test_our_chain_is_that_of_their_pipeline(seeing, scale, noise):
    folder, adapter = seeing
    settings = model(seeing, noise)
    found, given, told = ours(settings, scale)
    if adapter is None:
        wanted = of_unclip(settings, folder, scale, given, noise)
    else:
        wanted = of_adapter(settings, folder, scale, given, told)
    assert found.std() > 0.2
    assert (found - wanted).abs().max() < 1e-4


@TWO
def test_a_row_is_its_own_and_hears_of_its_source(seeing, tmp_path):
    settings = model(seeing, noise=20, elements=0.3, whole=0.3)
    settings.fit(photos(), tmp_path / "fitted", seed=1)
    sample = settings.load(tmp_path / "fitted", Context(real))
    rows = asked(6)
    together, again = sample(rows), sample(rows)
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))
    for place in (0, 4):
        assert np.abs(sample([rows[place]])[0].astype(int) - together[place]).max() <= 1
    plain = model(seeing)
    sample = plain.load(tmp_path / "fitted", Context(real))  # only samples differ
    same = {"seed": 5, "label": 0}
    one, other, none = (
        sample([asked(1)[0] | same | {"source_id": source}])[0].astype(int) for source in ("r1", "r2", None)
    )
    assert np.abs(one - other).max() > 1
    assert np.abs(one - none).max() > 1


@TWO
def test_rows_that_hear_of_nothing_are_told_their_text_alone(seeing):
    ctx, nothing = Context(real), asked(4, source_id=None)
    without = model(seeing).seen(nothing, ctx)
    assert not without.any()
    assert torch.equal(model(seeing, noise=30, whole=1.0).seen(asked(4), ctx), without)
    mixed = model(seeing).seen([*asked(1), *nothing], ctx)
    assert mixed[0].any()
    assert not mixed[1:].any()
    assert torch.equal(model(seeing).seen([{**asked(1)[0], "source_id": None}], ctx)[0], without[0])
    cond = Cond(torch.zeros(5, dtype=torch.long), image=mixed)
    assert not cond.null().image.any()
    assert torch.equal(Cond.cat(cond, cond.null()).image[:5], mixed)


@TWO
def test_as_many_are_left_out_as_asked_for(seeing):
    rows, ctx = asked(1500), Context(real)
    width = model(seeing)._base.eye.dim
    everything = model(seeing).seen(rows, ctx)[:, :width]
    found = model(seeing, elements=0.3, whole=0.4).seen(rows, ctx)
    heard = found.any(1)
    assert (
        binom.interval(1 - 1e-6, len(rows), 0.6)[0]
        <= heard.sum()
        <= binom.interval(1 - 1e-6, len(rows), 0.6)[1]
    )
    kept = found[heard][:, :width] != 0
    low, high = binom.interval(1 - 1e-6, kept.numel(), 0.7)
    assert low <= kept.sum() <= high
    # each on its own: rows differ, and numbers do
    assert kept.float().mean(0).sub(0.7).abs().max() < 0.1
    assert kept.float().mean(1).std() == pytest.approx((0.3 * 0.7 / width) ** 0.5, rel=0.15)
    torch.testing.assert_close(found[heard][:, :width][kept], everything[heard][kept])
    alone = model(seeing, elements=0.3, whole=0.4).seen(rows[7:8], ctx)
    assert torch.equal(alone[0], found[7])
    another = model(seeing, elements=0.3, whole=0.4).seen([rows[7] | {"seed": 1}], ctx)
    assert not torch.equal(another[0], found[7])


@TWO
def test_it_learns_beside_the_pictures_of_its_rows(seeing, tmp_path, monkeypatch):
    settings = model(seeing, elements=0.2, whole=0.5, adapt=Adapt(rank=2))
    space = settings.space(settings.config(photos()), {})
    material = settings.material(photos(), space, settings.schooling)
    picked = np.arange(len(material.labels)).repeat(8)
    told = material.images(picked, torch.Generator().manual_seed(0))
    again = material.images(picked, torch.Generator().manual_seed(0))
    assert torch.equal(told, again)
    images = functools.partial(settings.images.of, settings._base, photos().rows)
    all_at_once = images()(np.arange(12), torch.Generator().manual_seed(0))
    monkeypatch.setattr(exemplars, "OPEN_AT_ONCE", 5)
    assert torch.equal(images()(np.arange(12), torch.Generator().manual_seed(0)), all_at_once)
    assert 0.3 < told.any(1).float().mean() < 0.7
    settings.fit(photos(), tmp_path, seed=1)
    sample = settings.load(tmp_path, Context(real))
    assert all(isinstance(x, np.ndarray) for x in sample(asked(3)))


def test_what_cannot_be_told_is_refused_before_anything_is_made(tmp_path):
    plain = text_to_image.save(tmp_path / "plain")
    unclip = text_to_image.save(tmp_path / "unclip", kind="unclip")
    flow = text_to_image.save(tmp_path / "sd3", kind="sd3 without t5")
    file, encoder = text_to_image.image_adapter(tmp_path / "adapter", plain)
    adapter, pickled = ImageAdapter(str(file), str(encoder)), file.with_suffix(".bin")
    pickled.write_bytes(b"")
    for base, images, why in [
        (plain, Exemplars(), "is told of no pictures"),
        (unclip, Exemplars(noise=1000), "up to step 999, found 1000"),
        (plain, Exemplars(noise=1, adapter=adapter), "up to step 0, found 1"),
        (unclip, Exemplars(adapter=adapter), "an IP-Adapter is for the U-Net"),
        (flow, Exemplars(adapter=adapter), "an IP-Adapter is for the U-Net"),
        (plain, Exemplars(adapter=ImageAdapter("no.safetensors", str(encoder))), "not there"),
        (plain, Exemplars(adapter=ImageAdapter(str(pickled), str(encoder))), "is none"),
    ]:
        with pytest.raises(Refusal, match=why):
            StableDiffusion(base=str(base), images=images).ready(CLASSES)
    StableDiffusion(base=str(unclip), images=Exemplars(noise=999)).ready(CLASSES)


def test_a_study_reaches_its_end_with_exemplars(tmp_path):
    folder = text_to_image.save(tmp_path / "unclip", kind="unclip", prediction_type="v_prediction")
    recipe = small(fill(tmp_path / "photos", {"apple": 14, "rose": 6}), trials=1)
    sees = StableDiffusion(base=str(folder), images=Exemplars(elements=0.5), steps=2, prompt="{name}")
    pairing = SameClass(strength=1.0, dropout=0.5)
    changed = [
        dataclasses.replace(item, generator=sees, pairing=pairing) if item.name == "oversample" else item
        for item in recipe.synthesis
    ]
    made = run(dataclasses.replace(recipe, synthesis=tuple(changed)), tmp_path / "run")
    opened = Study.open(made.path)
    plan = opened.run.table(Lot("oversample", 0).plan).to_pydict()
    assert set(plan["strength"]) == {1.0}
    assert any(plan["source_id"])
    assert not all(plan["source_id"])
    assert made.verdict["headline"]
