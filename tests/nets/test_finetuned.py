"""Whole backbones as trainable networks: the same features, gradients everywhere, no randomness of their own."""

import numpy as np
import pytest
import torch
from test_backbones import SIZE, pictures, saved

from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.losses import CE
from counterpoise.classifiers.robust import Mean
from counterpoise.classifiers.training import Lesson, Training, features_of, train_network
from counterpoise.data.pixels import Rows
from counterpoise.nets.backbones import open_backbone
from counterpoise.nets.export import put_folder
from counterpoise.nets.finetuned import Finetuned
from counterpoise.spaces.features import Frozen
from counterpoise.types import describe, load

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
KINDS = ["mobilenet", "vit", "resnet", "convnext", "clip-vision"]


def lesson(count=24, steps=12, channels=3):
    """Two classes, one bright and one dark."""
    labels = np.arange(count) % 2
    pixels = np.clip(
        pictures(count, SIZE, channels).numpy() * 0.3 + 140 * labels[:, None, None, None], 0, 255
    )
    stream = np.random.default_rng(0).integers(0, count, (steps, 8))
    rows = Rows.of(pixels.astype(np.uint8))
    return Lesson(rows, torch.eye(2)[torch.from_numpy(labels)], None, stream, lambda _: torch.ones(2)), labels


def trained(network, steps=12, lr=0.02, **made):
    taught, labels = lesson(steps=steps)
    net = network(3, 2, SIZE, seed=1, **made)
    train_network(net, taught, CE(), Mean(), (), Training(steps=steps, batch=8, lr=lr), seed=4)
    return net, taught.rows, labels


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_with_the_features_of_the_frozen_backbone(tmp_path, kind):
    folder = str(saved(kind, tmp_path))
    net = Finetuned(folder)(3, 5, SIZE, seed=0)
    pixels = pictures(40)  # more than go through at once
    found = features_of(net, Rows.of(pixels.numpy()))
    np.testing.assert_allclose(found, open_backbone(folder)(pixels), atol=1e-5)
    net.train()
    x = pixels[:5].permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(net.features(x).detach(), found[:5], atol=1e-5)
    assert net(x).shape == (5, 5)
    torch.nn.functional.cross_entropy(net(x), torch.arange(5)).backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    first = next(name for name, p in net.named_parameters() if p.ndim == 4)
    assert grads[first].abs().sum() > 0, "the first convolution learns"
    assert sum(grad.abs().sum() > 0 for grad in grads.values()) > 0.8 * len(grads)


def test_grey_and_other_sizes(tmp_path):
    folder = str(saved("resnet", tmp_path))
    net = Finetuned(folder)(1, 2, 20, seed=0).eval()
    grey = torch.rand(3, 1, 20, 20)
    assert torch.equal(net(grey), net(grey.expand(-1, 3, -1, -1)))
    bigger = Finetuned(folder, size=48)(3, 2, 20, seed=0)
    assert bigger.backbone.size == (48, 48)


def test_the_seed_is_the_head_and_leaves_global_randomness_alone(tmp_path):
    network = Finetuned(str(saved("mobilenet", tmp_path)))
    assert load(describe(network)) == network
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (network(3, 2, SIZE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)
    assert all(
        torch.equal(p, q) for p, q in zip(a.backbone.parameters(), c.backbone.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", ["mobilenet", "resnet", "vit"])
def test_training_learns_repeats_and_leaves_statistics_alone(tmp_path, kind):
    """MobileNetV2 drops 80 % of its features when it is in training mode: that may not happen here."""
    network, steps = Finetuned(str(saved(kind, tmp_path))), 3 if kind == "mobilenet" else 30
    given = network(3, 2, SIZE, seed=1).state_dict()
    net, rows, labels = trained(network, steps=steps)
    torch.manual_seed(99)
    again, _, _ = trained(network, steps=steps)
    state = net.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    moved = {name for name, value in state.items() if not torch.equal(value, given[name])}
    assert moved
    assert not [name for name in moved if "running_" in name or "num_batches" in name]
    assert len([name for name in moved if name.startswith("backbone")]) > 5
    if kind == "mobilenet":
        return  # without any pretraining its 52 layers take far longer to learn
    with torch.no_grad():
        said = net(rows.batch(np.arange(len(rows))).float() / 255).argmax(1).numpy()
    assert (said == labels).mean() > 0.9


def test_cosine_logits_are_cosines(tmp_path):
    net, rows, _ = trained(Finetuned(str(saved("resnet", tmp_path))), cosine=True)
    logits = net(rows.batch(np.arange(9)).float() / 255)
    assert logits.abs().max() <= 1 + 1e-6
    assert net.head.bias is None


def head(classes: int, dim: int, normalise=False) -> LinearHead:
    rng = np.random.default_rng(1)
    arrays = (rng.normal(size=shape).astype(np.float32) for shape in ((classes, dim), classes, dim))
    return LinearHead(*arrays, np.full(dim, 0.5, np.float32), normalise)


def test_the_trained_network_is_exported_with_any_affine_head(tmp_path):
    network = Finetuned(str(saved("resnet", tmp_path / "in")), size=40)
    net, rows, _ = trained(network)
    mine, out = head(2, net.backbone.dim), tmp_path / "out"
    assert not network.export(head(2, net.backbone.dim, normalise=True), ["a", "b"], out, net)
    assert not out.exists()
    assert network.export(mine, ["a", "b"], out, net)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    features = features_of(net, rows).numpy()
    x = torch.nn.functional.interpolate(
        rows.batch(np.arange(len(rows))).float() / 255, (40, 40), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        np.testing.assert_allclose(
            theirs(pixel_values=(x - 0.5) / 0.25).logits, mine.logits(features), atol=2e-3
        )
    np.testing.assert_allclose(Frozen(str(out)).encode(rows.raw(np.arange(len(rows)))), features, atol=1e-4)
    assert theirs.config.id2label == {0: "a", 1: "b"}


def test_a_frozen_folder_that_changes_is_read_anew(tmp_path):
    space = Frozen(str(saved("resnet", tmp_path)))
    pixels, before = pictures().numpy(), space.digest()
    first = space.encode(pixels)
    net, _, _ = trained(Finetuned(space.backbone))
    assert space.export(head(2, net.backbone.dim), ["a", "b"], tmp_path / "same")
    assert Finetuned(space.backbone).export(head(2, net.backbone.dim), ["a", "b"], tmp_path / "out", net)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "out" / name).replace(tmp_path / name)
    assert space.digest() != before
    assert np.abs(space.encode(pixels) - first).max() > 0
    np.testing.assert_allclose(Frozen(str(tmp_path / "same")).encode(pixels), first, atol=1e-5)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    out = tmp_path / "transformers"
    killed = tmp_path / ".transformers.0badc0de.tmp"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(b"half")

    def fails(to):
        (to / "model.safetensors").write_bytes(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        put_folder(out, fails)
    assert [path.name for path in tmp_path.iterdir()] == [killed.name]
    put_folder(out, lambda to: (to / "config.json").write_text("first"))
    assert [path.name for path in tmp_path.iterdir()] == ["transformers"], (
        "what a killed process left is gone"
    )
    put_folder(out, fails)  # done already: not asked again
    assert (out / "config.json").read_text() == "first"


def test_another_process_may_be_first(tmp_path):
    out = tmp_path / "transformers"

    def late(to):
        (to / "config.json").write_text("second")
        put_folder(out, lambda other: (other / "config.json").write_text("first"))

    put_folder(out, late)
    assert (out / "config.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["transformers"]
