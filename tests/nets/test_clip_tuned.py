"""Adapters beside the towers of small CLIPs: nothing changes before training, the pair never does, and states hold what is learnt."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pairs import SIZE, saved_pair

from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.losses import CE, LDAM
from counterpoise.classifiers.robust import Mean
from counterpoise.classifiers.training import Lesson, Training, features_of, train_network
from counterpoise.data.pixels import Rows
from counterpoise.nets import clip_tuned
from counterpoise.nets.clip import open_clip_pair
from counterpoise.nets.clip_tuned import Adapted
from counterpoise.nets.precision import has_bf16
from counterpoise.trialfiles import network_of
from counterpoise.types import Refusal, describe, load

pytest.importorskip("transformers", reason="the hf extra is not installed")
NAMES = ["oak_tree", "rose", "pickup truck"]
TEMPLATES = ("a photo of {a}", "a blurry photo of the {name}")
KINDS = pytest.mark.parametrize("kind", ["clip", "siglip"])
HEADS = pytest.mark.parametrize("text", [True, False], ids=["text", "image"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    return {kind: str(saved_pair(root / kind, kind)) for kind in ("clip", "siglip")}


def pictures(count=40, channels=3, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


def opened(folder, text=True, seed=1, **more):
    made = {"cosine": False, "names": NAMES} | more
    return Adapted(folder, rank=3, text=text, templates=TEMPLATES)(3, len(NAMES), SIZE, seed, **made)


def lesson(steps, batch=8):
    """Three classes by their brightness."""
    labels = np.arange(24) % 3
    pixels = np.clip(pictures(24) * 0.2 + 90 * labels[:, None, None, None], 0, 255).astype(np.uint8)
    stream = np.random.default_rng(1).integers(0, 24, (steps, batch))
    targets = torch.eye(3)[torch.from_numpy(labels)]
    return Lesson(Rows.of(pixels), targets, None, stream, lambda _: torch.ones(3)), labels


def train(net, steps=4, lr=0.05, loss=None):
    taught, labels = lesson(steps)
    training = Training(steps=steps, batch=8, lr=lr)
    return train_network(net, taught, loss or CE(), Mean(), (), training, seed=4), taught.rows, labels


def logits(net, rows):
    """As trials have them: a linear head on features."""
    bias = torch.zeros(len(NAMES)) if net.head.bias is None else net.head.bias.detach()
    head = LinearHead.on_raw(net.head.weight.detach().numpy(), bias.numpy())
    return head.logits(features_of(net, rows).numpy())


@KINDS
@HEADS
def test_before_training_it_says_what_the_pair_says_zero_shot(folders, kind, text):
    net, pair, pixels = opened(folders[kind], text), open_clip_pair(folders[kind]), pictures()
    expected = pair.scale * pair.pictures(pixels) @ pair.classes(TEMPLATES, NAMES).T
    found = logits(net, Rows.of(pixels))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1).numpy())
    assert len(set(found.argmax(1))) > 1
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        np.testing.assert_allclose(net(x), found, atol=1e-4)
        rough = net.train()(x)  # in bf16 where the chip computes in it
    np.testing.assert_allclose(rough / pair.scale, found / pair.scale, atol=0.05)
    assert torch.equal(rough, net.eval()(x)) != has_bf16(rough.device)


@HEADS
def test_features_are_of_unit_length_and_logits_with_cosines_are_cosines(folders, text):
    net = opened(folders["clip"], text, cosine=True)
    features = features_of(net, Rows.of(pictures()))
    np.testing.assert_allclose(features.norm(dim=1), 1, atol=1e-5)
    assert features.shape[1] == net.head.in_features == net.head.weight.shape[1]
    assert net.head.bias is None
    train(net, loss=LDAM())
    with torch.no_grad():
        said = net(torch.rand(5, 3, SIZE, SIZE))
    assert said.abs().max() <= 1 + 1e-5
    assert said.std() > 0


@KINDS
@HEADS
def test_training_learns_repeats_and_moves_what_a_state_holds_and_nothing_else(folders, kind, text):
    net = opened(folders[kind], text)
    given = copy.deepcopy(net.tower.frozen.net.state_dict())
    first = {name: value.clone() for name, value in net.state_dict().items()}
    before = logits(net, lesson(1)[0].rows)
    net, rows, labels = train(net, steps=25)
    torch.manual_seed(99)
    again, _, _ = train(opened(folders[kind], text), steps=25)
    state = net.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    moved = {name for name, value in state.items() if not torch.equal(value, first[name])}
    assert moved == set(state) - {"_extra_state"}
    assert {name.split(".")[0] for name in state} == {"tower", "head", "_extra_state"}
    frozen = net.tower.frozen.net.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in frozen.items())
    right = (logits(net, rows).argmax(1) == labels).mean()
    assert right > max(0.9, (before.argmax(1) == labels).mean())


@KINDS
@HEADS
def test_a_state_is_small_and_all_there_is_to_know(folders, kind, text):
    net, rows, _ = train(opened(folders[kind], text))
    arrays = {name: value.numpy() for name, value in net.state_dict().items()}
    all_of_it = sum(value.numel() for value in net.tower.frozen.net.parameters())
    assert sum(array.size for array in arrays.values()) < all_of_it / 5
    other = opened(folders[kind], text, seed=7)
    assert np.abs(logits(other, rows) - logits(net, rows)).max() > 0.1
    other.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    np.testing.assert_array_equal(logits(other, rows), logits(net, rows))


def test_a_state_is_refused_beside_other_weights(folders, tmp_path):
    state = opened(folders["clip"]).state_dict()
    opened(str(saved_pair(tmp_path / "same"))).load_state_dict(state)
    other = opened(str(saved_pair(tmp_path / "other", seed=1)))
    with pytest.raises(Refusal, match=r"the weights of .*other are not those"):
        other.load_state_dict(state)


def test_the_text_tower_learns_with_text_and_the_rows_with_it(folders):
    net = opened(folders["clip"])
    first, given = net.head.weight.detach().clone(), open_clip_pair(folders["clip"])
    np.testing.assert_allclose(first.norm(dim=1), given.scale, rtol=1e-5)
    train(net)
    assert (net.head.weight - first).abs().max() > 0.01
    np.testing.assert_allclose(net.head.weight.detach().norm(dim=1), given.scale, rtol=1e-5)
    plain = opened(folders["clip"], text=False)
    assert not [name for name in plain.state_dict() if name.startswith("head.tower")]
    assert torch.equal(plain.head.bias, torch.zeros(3))


def test_free_rows_take_steps_as_long_as_logits_are(folders):
    """A step on them is one on the weights, `scale` times as long."""
    net = opened(folders["clip"], text=False)
    before, x = net.head.weight.detach().clone(), F.normalize(torch.rand(4, net.head.in_features))
    weight = before.clone().requires_grad_()
    (plain,) = torch.autograd.grad(F.cross_entropy(x @ weight.T, torch.tensor([0, 1, 2, 0])), weight)
    loss = F.cross_entropy(net.head(x), torch.tensor([0, 1, 2, 0]))
    (slope,) = torch.autograd.grad(loss, net.head.rows)
    with torch.no_grad():
        net.head.rows -= 0.1 * slope
    torch.testing.assert_close(net.head.weight - before, -0.1 * net.head.scale * plain, atol=1e-5, rtol=1e-3)


@KINDS
def test_a_text_is_heard_to_its_end_and_clip_hears_nothing_behind_it(folders, kind):
    head = opened(folders[kind]).head
    length = head.input_ids.shape[1]
    longest = head.attention_mask.sum(1).max()
    assert length == (longest if kind == "clip" else 32)
    assert longest < 32


def test_adapters_lie_beside_attention_of_all_layers_and_where_slopes_reach(folders):
    for kind in ("clip", "siglip"):
        net = opened(folders[kind])
        slopes = torch.autograd.grad(net(torch.rand(2, 3, SIZE, SIZE))[:, 0].sum(), list(net.parameters()))
        names = [name for name, _ in net.named_parameters()]
        assert len(names) == 2 * 4 * 2 * 2, "two towers of two layers, four projections, two factors each"
        for name, slope in zip(names, slopes, strict=True):
            assert (slope.abs().sum() > 0) == ("lora_B" in name), "while B is zero nothing reaches A"


def test_the_seed_is_what_adapters_begin_with_and_leaves_global_randomness_alone(folders):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for text in (True, False):
        a, b, c = (opened(folders["clip"], text, seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(value, b[name]) for name, value in a.items())
        assert any(not torch.equal(value, c[name]) for name, value in a.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_grey_pictures_other_sizes_and_none(folders):
    net = opened(folders["clip"]).eval()
    grey = torch.rand(3, 1, 20, 20)
    with torch.no_grad():
        assert torch.equal(net(grey), net(grey.expand(-1, 3, -1, -1)))
    assert features_of(net, Rows.of(pictures(0))).shape == (0, net.head.in_features)


def test_a_picture_does_not_depend_on_its_company(folders):
    net, rows = opened(folders["clip"]), Rows.of(pictures())
    alone = torch.cat([features_of(net, Rows.of(pictures()[i : i + 1])) for i in range(40)])
    np.testing.assert_allclose(features_of(net, rows), alone, atol=1e-5)


@HEADS
def test_it_takes_the_pair_along_to_another_device(folders, text, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    net = opened(folders["clip"], text).to("meta", memory_format=torch.channels_last)
    assert net(torch.rand(2, 3, 20, 20, device="meta")).device.type == "meta"
    assert net.head.weight.device.type == "meta"


def test_only_networks_that_read_are_told_names(folders):
    shape = {"channels": 3, "size": SIZE}
    network = Adapted(folders["clip"], rank=2)
    assert load(describe(network)) == network
    net = network_of(network, shape, NAMES, seed=0)
    expected = open_clip_pair(folders["clip"]).classes(("a photo of {a}",), NAMES)
    np.testing.assert_allclose(F.normalize(net.head.weight.detach()), expected, atol=1e-5)


def test_a_pair_with_other_layers_is_refused(folders, monkeypatch):
    monkeypatch.setattr(clip_tuned, "LAYERS", r"\.resblocks\.\d+")
    for text, tower in ((True, "text_model"), (False, "vision_model")):
        with pytest.raises(Refusal, match=f"this pair's {tower} has none"):
            opened(folders["clip"], text)


def test_what_cannot_be_read_is_refused_before_anything_is_trained(folders, tmp_path):
    network = Adapted(folders["clip"])
    network.ready(None)
    network.ready(NAMES)
    with pytest.raises(Refusal, match="said alike"):
        network.ready(["Rose", "rose"])
    with pytest.raises(Refusal, match="a template says"):
        Adapted(templates=("a photo",))
    with pytest.raises(Refusal, match="there is no text-image pair"):
        Adapted(str(tmp_path / "nothing")).ready(None)
