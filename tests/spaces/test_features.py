"""What the settings of a feature space change: the features and their digest, or neither."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pairs import saved_pair

from counterpoise.spaces.features import Frozen
from counterpoise.types import Refusal, build

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    folder = tmp_path_factory.mktemp("tiny")
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def test_maps_are_another_space_and_pool_to_the_vectors(folder):
    vectors = Frozen(str(folder), size=32)
    maps = replace(vectors, maps=True)
    found = maps.encode(PIXELS)
    assert (found.shape, found.dtype) == ((40, 16 * 4 * 4), np.float32)
    np.testing.assert_allclose(found.reshape(40, 16, 16).mean(2), vectors.encode(PIXELS), atol=1e-5)
    assert maps.digest() != vectors.digest()
    assert maps.encode(PIXELS[:0]).shape == (0, 256)


def test_components_change_what_is_done_with_features_not_the_features(folder):
    all_of_them = Frozen(str(folder), size=32)
    few = replace(all_of_them, components=3)
    assert few.digest() == all_of_them.digest()
    assert (few.encode(PIXELS) == all_of_them.encode(PIXELS)).all()
    with pytest.raises(Refusal, match=r"Frozen\.components"):
        build(Frozen, {"backbone": "hf:x", "components": 0})


def test_a_head_on_maps_is_no_transformers_classifier(folder, tmp_path):
    assert not Frozen(str(folder), maps=True).export(None, ["a", "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- class names in the same space -------------------------------------------------------------------------------------

NAMES, TEMPLATES = ["apple", "oak_tree"], ["a photo of {a}", "the {name}"]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_class_names_are_said_by_the_network_that_sees(tmp_path, kind):
    from counterpoise.nets.clip import open_clip_pair

    space = Frozen(str(saved_pair(tmp_path, kind)))
    space.hears(TEMPLATES, NAMES)
    rows, scale = space.said(TEMPLATES, NAMES)
    pair = open_clip_pair(str(tmp_path))
    assert pair.backbone.digest == space.digest()
    assert (rows == pair.classes(TEMPLATES, NAMES).numpy()).all()
    assert scale == pair.scale
    assert rows.shape[1] == space.encode(PIXELS[:2]).shape[1]
    rows[:] = 0
    assert (space.said(TEMPLATES, NAMES)[0] != 0).any(), "what is remembered is nobody's to change"
    smaller = replace(space, size=16)
    assert (smaller.said(TEMPLATES, NAMES)[0] == space.said(TEMPLATES, NAMES)[0]).all()


def test_other_weights_say_other_things(tmp_path):
    space = Frozen(str(saved_pair(tmp_path)))
    before, _ = space.said(TEMPLATES, NAMES)
    saved_pair(tmp_path, seed=1)
    assert not np.allclose(space.said(TEMPLATES, NAMES)[0], before, atol=1e-3)


def test_what_reads_no_names_is_refused(folder, tmp_path):
    pair = Frozen(str(saved_pair(tmp_path)))
    for space, why in {
        Frozen(str(folder)): "is a resnet model",
        Frozen("timm:resnet18"): "no text network|transformers only",
        replace(pair, maps=True): "see feature maps",
        replace(pair, components=3): "see 3 principal components",
    }.items():
        with pytest.raises(Refusal, match=why):
            space.hears(TEMPLATES, None)
    with pytest.raises(Refusal, match="are said alike"):
        pair.hears(TEMPLATES, ["a_b", "A b"])


def test_towers_that_end_in_different_spaces_are_refused(tmp_path):
    folder = saved_pair(tmp_path, "siglip")
    text = transformers.SiglipModel.from_pretrained(folder).config.text_config
    config = transformers.SiglipConfig.from_pretrained(folder)
    config.text_config = type(text)(**text.to_dict() | {"projection_size": 7})
    transformers.SiglipModel(config).save_pretrained(folder)
    with pytest.raises(Refusal, match="its texts have 7 numbers and its pictures 24"):
        Frozen(str(folder)).hears(TEMPLATES, NAMES)
