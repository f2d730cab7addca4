"""What --dry-run counts of generators that learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import text_to_image
from studies import fill, small

from counterpoise.estimate import _at_most, estimate
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.proposals.budgets import Fixed, Piloted
from counterpoise.spaces.features import Frozen


def test_weights_that_are_learnt_are_counted_once_for_each_draw(tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="the generative extra is not installed")
    base = str(text_to_image.save(tmp_path / "base"))
    recipe = small(fill(tmp_path / "photos", {"oak_tree": 12, "rose": 9}), trials=2)
    (item,) = (item for item in recipe.synthesis if item.name == "smote")
    monkeypatch.setattr(StableDiffusion, "seconds", lambda *_, **__: (0.0, 0.0))
    found = {}
    for kind in (None, "full"):
        generator = StableDiffusion(base=base, adapt=kind and Adapt(kind=kind, words=0))
        twice = tuple(replace(item, name=name, generator=generator) for name in ("smote", "other"))
        one = replace(
            recipe,
            trials=replace(recipe.trials, draws=2),
            synthesis=tuple(other for other in recipe.synthesis if other.name != "smote") + twice,
        )
        found[kind] = estimate(one)["bytes"]
    weights = sum(weight.nbytes for weight in StableDiffusion(base=base)._base.unet().parameters())
    assert found["full"] - found[None] == 2 * weights


def test_a_pilot_and_the_others_are_counted_once(tmp_path):
    recipe = small(fill(tmp_path / "photos", {"oak_tree": 12, "rose": 9}), trials=2)
    item = replace(recipe.synthesis[0], budget=Piloted(Fixed(200)))
    assert _at_most(item, np.array([90, 5])) == 400


def test_a_generator_of_pictures_is_timed_on_pictures_where_classifiers_see_features(tmp_path, monkeypatch):
    base, seen = str(text_to_image.save(tmp_path / "base")), []
    recipe = small(fill(tmp_path / "photos", {"oak_tree": 12, "rose": 9}), trials=2)
    (item,) = (item for item in recipe.synthesis if item.name == "smote")
    item = replace(item, generator=StableDiffusion(base=base))
    network = Frozen(backbone="never opened", components=5)
    monkeypatch.setattr(Frozen, "encode", lambda self, pixels: np.zeros((len(pixels), 7), np.float32))
    monkeypatch.setattr(StableDiffusion, "seconds", lambda self, *of, **_: seen.append(of) or (0.0, 0.0))
    others = tuple(other for other in recipe.synthesis if other.name != "smote")
    found = estimate(replace(recipe, network=network, synthesis=(*others, item)))
    assert seen == [(3, found["size"], 2)]
