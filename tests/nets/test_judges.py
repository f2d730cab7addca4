"""Judges on random weights of the right shapes, and on the real CIFAR ResNets where they are there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from counterpoise.nets import judges
from counterpoise.nets.inception import Inception
from counterpoise.nets.judges import CifarResNet, open_judge, reference
from counterpoise.types import Refusal

SHARED = Path(__file__).parents[3] / "shared"
RESNET32 = SHARED / "models/cifar10_resnet32.safetensors"
TEST = SHARED / "data/cifar10_lt100/test.parquet"


def pictures(n: int = 5, size: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), np.uint8)


@pytest.fixture(name="small")
def _small(tmp_path: Path) -> Path:
    """A ResNet-8 for four classes, with batch norms that have something to say."""
    torch.manual_seed(0)
    net = CifarResNet(1, 4)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    save_file(net.state_dict(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_features_do_not_depend_on_the_batch_and_logits_are_the_networks_own(small):
    judge, x = open_judge(f"cifar-resnet:{small}"), pictures()
    features = judge(x)
    assert (features.shape, features.dtype) == ((5, 64), np.float32)
    np.testing.assert_allclose(judge(x, batch=2), features, atol=1e-5)
    linear = load_file(small)["linear.weight"], load_file(small)["linear.bias"]
    np.testing.assert_allclose(
        judge.logits(features), torch.nn.functional.linear(torch.from_numpy(features), *linear), atol=1e-5
    )
    assert judge(x[:0]).shape == (0, 64)


def test_grey_pictures_and_other_sizes_are_taken(small):
    judge = open_judge(f"cifar-resnet:{small}")
    grey = pictures(channels=1)
    np.testing.assert_allclose(judge(grey), judge(grey.repeat(3, axis=3)), atol=1e-6)
    assert judge(pictures(size=20)).shape == (5, 64)


def test_the_digest_is_that_of_the_weights(small, tmp_path):
    again = tmp_path / "again.safetensors"
    again.write_bytes(small.read_bytes())
    first, same = open_judge(f"cifar-resnet:{small}"), open_judge(f"cifar-resnet:{again}")
    weights = load_file(small)
    save_file(weights | {"linear.bias": weights["linear.bias"] + 1}, again)
    assert first.digest == same.digest != open_judge(f"cifar-resnet:{again}").digest


@pytest.mark.parametrize("kind", ["cifar-resnet", "inception"])
def test_what_is_not_weights_of_that_network_is_refused_in_words(kind, small, tmp_path):
    with pytest.raises(Refusal, match="there is no file"):
        open_judge(f"{kind}:{tmp_path / 'nowhere.safetensors'}")
    (tmp_path / "x.pth").write_bytes(b"pickle")
    with pytest.raises(Refusal, match=r"may run code.*save_file\(torch.load\(FILE, weights_only=True\)"):
        open_judge(f"{kind}:{tmp_path / 'x.pth'}")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(Refusal, match="is no safetensors file"):
        open_judge(f"{kind}:{tmp_path / 'broken.safetensors'}")
    weights = load_file(small)
    del weights["bn1.weight"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(Refusal, match=r"not the weights of that network: .* missing"):
        open_judge(f"{kind}:{tmp_path / 'less.safetensors'}")


def test_weights_that_are_left_over_are_refused(small, tmp_path):
    save_file(load_file(small) | {"more": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(Refusal, match=r"more \(2,\), expected no such"):
        open_judge(f"cifar-resnet:{tmp_path / 'more.safetensors'}")


def test_any_other_name_is_a_backbone(monkeypatch):
    class Backbone(torch.nn.Module):
        digest = "abc"

        def forward(self, pixels):
            return pixels.float().mean((1, 2))

    asked = []
    monkeypatch.setattr(judges, "open_backbone", lambda name: asked.append(name) or Backbone())
    judge = open_judge("timm:convnext_tiny")
    assert (asked, judge.digest) == (["timm:convnext_tiny"], "abc")
    np.testing.assert_allclose(judge(pictures()), pictures().mean((1, 2)), rtol=1e-5)
    with pytest.raises(Refusal, match="has no classifier"):
        judge.logits(judge(pictures()))


def test_reference_features_are_computed_once_per_judge_and_data(small, tmp_path):
    judge, x, cache = open_judge(f"cifar-resnet:{small}"), pictures(), tmp_path / "cache"
    first = reference(judge, x, cache)
    np.testing.assert_array_equal(first, judge(x))
    (kept,) = cache.rglob("*.safetensors")
    stamp = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(reference(judge, x.copy(), cache), first)
    assert kept.stat().st_mtime_ns == stamp
    changed = x.copy()
    changed[0, 0, 0, 0] ^= 1
    reference(judge, changed, cache)
    assert len(list(cache.rglob("*.safetensors"))) == 2


def test_inception_has_the_published_shape_and_reads_its_own_weights(tmp_path):
    torch.manual_seed(0)
    net = Inception()
    # The published 23,834,568 parameters without the auxiliary classifier, with 1,008 classes for 1,000.
    assert sum(weight.numel() for weight in net.parameters()) == 23_834_568 + 8 * 2049
    weights = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    named = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7dbl_5.conv.weight": (192, 128, 1, 7),
        "Mixed_6c.branch7x7_2.conv.weight": (160, 160, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.bn.running_var": (192,),
        "fc.weight": (1008, 2048),
    }
    assert {key: tuple(weights[key].shape) for key in named} == named
    save_file(weights, tmp_path / "w.safetensors")
    judge = open_judge(f"inception:{tmp_path / 'w.safetensors'}")
    features = judge(pictures(2))
    assert features.shape == (2, 2048)
    assert features.std() > 0
    np.testing.assert_allclose(judge.logits(features), features @ weights["fc.weight"].numpy().T, atol=1e-4)


def test_inception_pools_as_the_tensorflow_graph_does():
    from counterpoise.nets.inception import average, largest

    x = torch.ones(1, 1, 4, 4)
    assert (average(x) == 1).all(), "the border is no part of an average"
    assert largest(torch.arange(16.0).view(1, 1, 4, 4))[0, 0, 0, 0] == 5
    net = Inception()
    assert [net.get_submodule(f"Mixed_7{k}").pool for k in "bc"] == [average, largest]


@pytest.mark.skipif(
    not (RESNET32.exists() and TEST.exists()), reason=f"no real weights and images in {SHARED}"
)
def test_the_real_resnet_reaches_its_accuracy():
    rows = pq.read_table(TEST).slice(0, 400).to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows])
    judge = open_judge(f"cifar-resnet:{RESNET32}")
    said = judge.logits(judge(pixels)).argmax(1)
    hits = np.mean(said == [row["label"] for row in rows])
    assert abs(hits - 0.9263) < 3 * np.sqrt(0.9263 * 0.0737 / len(rows))
