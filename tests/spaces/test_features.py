"""What the settings of a feature space change: the features and their digest, or neither."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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
