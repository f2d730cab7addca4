"""Three classes of pictures, and a backbone small enough for tests: what twins of recipes on features start from."""

import json

import pytest
import torch
from studies import fill

CLASSES = {"cat": 40, "dog": 16, "owl": 6}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("three") / "photos", CLASSES)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 24, "width": 24}}))
    return folder
