"""What was learnt here, taken home: the pipeline of diffusers draws the same pictures with it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import text_to_image
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.guides import Context as GuideContext
from counterpoise.diffusion.samplers import ddim
from counterpoise.diffusion.start import from_noise
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.diffusing import opened
from counterpoise.generators.exemplars import Exemplars
from counterpoise.generators.generator import Lesson
from counterpoise.generators.lora_export import DIFFUSERS
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.image_adapters import ImageAdapter
from counterpoise.nets.lora_files import Adapter
from counterpoise.spaces import latents
from counterpoise.spaces.preview import SmallDecoder
from counterpoise.types import Refusal, describe, load

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{theirs}:FutureWarning")
    for theirs in ("The configuration file of this scheduler", "`upcast_vae` is deprecated")
]

CLASSES = ["oak_tree", "red {fox} 🦊"]
SEEDS, SCALE = [5, 6], 2.0


@pytest.fixture(autouse=True, scope="module")
def quick_previews():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "PREVIEW", SmallDecoder(steps=5))
        yield


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def photos() -> Lesson:
    rows = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    return Lesson(Rows.of(rows.repeat(8, 1).repeat(8, 2)), np.arange(8) % 2, None, CLASSES)


def learning(folder, **adapt) -> StableDiffusion:
    schooling = Schooling(steps=6, batch=4, lr=0.03, bf16=False)
    return StableDiffusion(base=str(folder), steps=4, schooling=schooling, adapt=Adapt(rank=2, **adapt))


def drawn(model: StableDiffusion, out) -> torch.Tensor:
    config = model.config(photos())
    net, _ = opened(model, out, config, torch.device("cpu"))
    rungs = model.ladder()
    x = from_noise(rungs, SEEDS, model.shape(config))
    with torch.no_grad():
        denoise = CFG(SCALE)(model.objective.parametrisation.denoiser(net), GuideContext())
        return ddim(denoise, x, rungs, Cond(torch.arange(2)), SEEDS)


def drawn_by(pipe, model: StableDiffusion, asked: list[str]) -> torch.Tensor:
    rungs = model.ladder()
    x = from_noise(rungs, SEEDS, (4, 8, 8)) / (1 + rungs[0] ** 2).sqrt().float()  # in their units
    told = {
        "num_inference_steps": 4,
        "guidance_scale": SCALE,
        "height": 32,
        "width": 32,
        "output_type": "latent",
    }
    return pipe(asked, latents=x, **told).images


def shown(pipe, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def as_the_readme_says(out, pipe, base: str) -> None:
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    lines = code.replace("THIS_FOLDER", str(out)).splitlines()
    place = lines.index(f"pipe = DiffusionPipeline.from_pretrained({base!r})")
    assert lines[-1].startswith("picture = pipe(")
    exec("\n".join([*lines[:place], *lines[place + 1 : -1]]), {"pipe": pipe})


@pytest.mark.parametrize(
    ("kind", "more"), [("sd", ("convolutions",)), ("sd", ("text",)), ("sdxl", ("convolutions", "text"))]
)
def test_with_what_is_exported_diffusers_draws_the_same_pictures(kind, more, tmp_path):
    folder = text_to_image.save(tmp_path / "base", kind=kind)
    model = learning(folder, places=("attention", *more), words=2)
    model.fit(photos(), tmp_path / "fit", seed=1)
    model.export_lora(tmp_path / "fit", tmp_path / "taken")
    ours = drawn(model, tmp_path / "fit")
    with safe_open(tmp_path / "taken" / DIFFUSERS, "pt") as file:
        told = json.loads(file.metadata()["counterpoise"])
    assert told["tokens"] == {
        "oak_tree": ["<class0-0>", "<class0-1>"],
        CLASSES[1]: ["<class1-0>", "<class1-1>"],
    }
    assert (told["rank"], told["steps"], told["content"]) == (2, 6, model.config(photos())["content"])
    asked = list(told["classes"].values())
    assert asked[0] == "a photo of a <class0-0> <class0-1>"

    pipe = text_to_image.theirs(folder)
    untouched = shown(pipe, drawn_by(pipe, model, asked))
    as_the_readme_says(tmp_path / "taken", pipe, model.base)
    pictures = shown(pipe, ours)
    assert (pictures - untouched).abs().max() > 0.05
    torch.testing.assert_close(shown(pipe, drawn_by(pipe, model, asked)), pictures, atol=1e-4, rtol=0)
    read = [key for key in load_file(tmp_path / "taken" / DIFFUSERS) if key.startswith("text_encoder")]
    assert bool(read) == ("text" in more)
    pipe.unload_lora_weights()
    assert (shown(pipe, drawn_by(pipe, model, asked)) - pictures).abs().max() > 0.01
    pipe.load_lora_weights(str(tmp_path / "taken"), weight_name="taken_kohya.safetensors")
    torch.testing.assert_close(shown(pipe, drawn_by(pipe, model, asked)), pictures, atol=1e-4, rtol=0)


def test_words_alone_are_exported_alone_and_adapters_without_words_too(tmp_path):
    folder = text_to_image.save(tmp_path / "base")
    words, names = learning(folder, kind="words"), learning(folder, words=0)
    for name, model, files in [
        ("words", words, {"README.md", "learned_embeds.safetensors"}),
        ("names", names, {"README.md", DIFFUSERS, "names_kohya.safetensors"}),
    ]:
        model.fit(photos(), tmp_path / name / "fit", seed=1)
        out = tmp_path / name / name
        model.export_lora(tmp_path / name / "fit", out)
        assert {path.name for path in out.iterdir()} == files
        pipe = text_to_image.theirs(folder)
        as_the_readme_says(out, pipe, model.base)
    asked = ["a photo of an oak tree", "a photo of a red {fox} 🦊"]
    ours = shown(pipe, drawn(names, tmp_path / "names" / "fit"))
    torch.testing.assert_close(shown(pipe, drawn_by(pipe, names, asked)), ours, atol=1e-4, rtol=0)


def test_adapters_of_others_are_below_what_is_learnt_and_belong_to_the_model(tmp_path):
    """What one generator exports is merged into the base of another."""
    folder = text_to_image.save(tmp_path / "base")
    first = learning(folder, words=0)
    first.fit(photos(), tmp_path / "first", seed=1)
    first.export_lora(tmp_path / "first", tmp_path / "taken")
    file = tmp_path / "taken" / "taken_kohya.safetensors"
    bare = StableDiffusion(base=str(folder), steps=4, schooling=first.schooling)
    model = dataclasses.replace(bare, adapters=(Adapter(str(file)),))
    assert load(describe(model)) == model
    model.ready(CLASSES)
    model.fit(photos(), tmp_path / "second", seed=1)
    torch.testing.assert_close(
        drawn(model, tmp_path / "second"), drawn(first, tmp_path / "first"), atol=1e-4, rtol=1e-4
    )
    half = dataclasses.replace(model, adapters=(Adapter(str(file), 0.5),))
    with pytest.raises(Refusal, match="is not the model that this generator was fitted with"):
        half.network_for(model.config(photos()), seed=0)
    with pytest.raises(Refusal, match="other settings"):
        half.fit(photos(), tmp_path / "second", seed=1)

    above = dataclasses.replace(model, adapt=Adapt(rank=2, kind="words"))
    above.fit(photos(), tmp_path / "third", seed=1)
    above.export_lora(tmp_path / "third", tmp_path / "again")
    assert f"{file}:1" in (tmp_path / "again" / "README.md").read_text()
    with pytest.raises(Refusal, match="is not there"):
        dataclasses.replace(bare, adapters=(Adapter("none.safetensors"),)).ready(CLASSES)


def test_what_has_nothing_to_take_home_says_so(tmp_path):
    folder = text_to_image.save(tmp_path / "base")
    model = learning(folder, kind="full", words=0)
    with pytest.raises(Refusal, match="adapters cannot say: they are in"):
        model.export_lora(tmp_path / "fit", tmp_path / "out")
    with pytest.raises(Refusal, match=r"nothing of .* is learnt by this generator"):
        dataclasses.replace(model, adapt=None).export_lora(tmp_path / "fit", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_see_pictures_are_asked_with_one(tmp_path):
    for kind in ("unclip", "sd"):
        folder = text_to_image.save(tmp_path / kind, kind=kind)
        model = learning(folder)
        if kind == "sd":
            file, encoder = text_to_image.image_adapter(tmp_path / "adapter", folder)
            model = dataclasses.replace(
                model, images=Exemplars(adapter=ImageAdapter(str(file), str(encoder), 0.7))
            )
        model.fit(photos(), tmp_path / f"fit {kind}", seed=1)
        model.export_lora(tmp_path / f"fit {kind}", tmp_path / f"out {kind}")
        text = (tmp_path / f"out {kind}" / "README.md").read_text()
        assert ("pipe(image=REAL_PICTURE, prompt='a photo of" in text) == (kind == "unclip")
        assert (f"{model.images.adapter.file}:0.7" if model.images else "from_pretrained") in text
