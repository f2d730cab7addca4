"""Learning before the real rows: the loss as it is published, what is looked at, and what is left of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.classifiers.pretraining import Pretraining, Projected, nt_xent
from counterpoise.classifiers.training import Training, features_of
from counterpoise.data.augment import CMO, Crop
from counterpoise.data.pixels import Rows
from counterpoise.data.views import Tint, Zoom
from counterpoise.nets.finetuned import Finetuned
from counterpoise.nets.resnet import SmallResNet
from counterpoise.types import Refusal

COUNT, SIZE = 30, 8
LABELS = np.arange(COUNT) % 2
SHORT = Training(steps=30, batch=12)


def pictures(channels=3):
    """One class is bright on the left; within it every picture has a pattern of its own."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 90, (COUNT, SIZE, SIZE, channels))
    bright = 120 * LABELS[:, None, None, None] * (np.arange(SIZE) < SIZE // 2)[:, None]
    return Rows.of((pixels + bright).astype(np.uint8))


def network(seed=0):
    return SmallResNet(width=4)(3, 2, SIZE, seed=seed)


def learnt(start, seed=3, labels=LABELS, net=None, loss=CE(), hear=None):
    net = network() if net is None else net
    start(net, pictures(), labels, 2, loss, seed, hear)
    return net


def body(net):
    return {name: value for name, value in net.state_dict().items() if not name.startswith("head.")}


def same(a, b):
    return all(torch.equal(value, body(b)[name]) for name, value in body(a).items())


# --- the loss ----------------------------------------------------------------------------------------------


def written_out(z, places, temperature):
    """Equation 1, term by term."""
    half, found = len(z) // 2, []
    for i in range(len(z)):
        j = (i + half) % len(z)

        def s(k, i=i):
            return math.exp(float(F.cosine_similarity(z[i], z[k], dim=0)) / temperature)

        others = [k for k in range(len(z)) if places[k] != places[i]]
        found.append(-math.log(s(j) / (s(j) + sum(map(s, others)))))
    return torch.tensor(found)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6), st.sampled_from([0.1, 0.5, 2.0]), st.integers(0, 99)
)
def test_it_is_the_published_loss_and_further_views_of_a_picture_count_as_neither(drawn, temperature, seed):
    places = torch.tensor(drawn * 2, dtype=torch.float32)[:, None]
    z = torch.randn(len(places), 5, generator=torch.Generator().manual_seed(seed))
    found = nt_xent(z, places, temperature)
    assert torch.allclose(found, written_out(z, places[:, 0], temperature), atol=1e-4)
    assert torch.allclose(nt_xent(z * 7.0, places, temperature), found, atol=1e-5), "lengths do not count"


def test_two_pictures_that_are_told_apart():
    z = torch.eye(2).repeat(2, 1)
    places = torch.tensor([0.0, 1, 0, 1])[:, None]
    assert nt_xent(z, places, 0.5) == pytest.approx(math.log(math.exp(2) + 2) - 2)
    assert nt_xent(torch.ones(4, 2), places, 0.5) == pytest.approx(math.log(3))


def test_one_picture_alone_teaches_nothing_and_breaks_nothing():
    z = torch.randn(4, 3, requires_grad=True)
    nt_xent(z, torch.zeros(4, 1), 0.5).sum().backward()
    assert z.grad.abs().max() < 1e-6


# --- what is learnt ------------------------------------------------------------------------------------------


def known_again(net):
    """How often the nearest of all second views is that of the same picture."""
    views = [
        Zoom(0.5)(pictures().batch(np.arange(COUNT)), None, torch.Generator().manual_seed(k))[0]
        for k in (8, 9)
    ]
    with torch.no_grad():
        one, two = (F.normalize(f - f.mean(0)) for f in (net.eval().features(x) for x in views))
    return float(((one @ two.T).argmax(1) == torch.arange(COUNT)).float().mean())


def test_contrastive_learns_to_know_pictures_again_and_looks_at_no_label():
    start = Pretraining("contrastive", Training(steps=60, batch=15), (Zoom(0.5),))
    net = learnt(start)
    assert known_again(net) > known_again(network()) + 0.15
    assert same(net, learnt(start, labels=np.full(COUNT, -1)))
    assert start.views == 2 * 60 * 15


def test_supervised_learns_the_labels_with_the_prior_of_its_rows():
    seen = []

    class Listening(BalancedSoftmax):
        def __call__(self, logits, targets, prior, progress=0.0):
            seen.append(prior)
            return super().__call__(logits, targets, prior, progress)

    uneven = (np.arange(COUNT) < 6).astype(np.int64)
    start = Pretraining("supervised", SHORT, (Crop(),))
    learnt(start, labels=uneven, loss=Listening())
    assert torch.allclose(torch.stack(seen), torch.tensor([24.0, 6.0]))
    net = learnt(start)
    with torch.no_grad():
        said = net(pictures().batch(np.arange(COUNT)).float() / 255).argmax(1).numpy()
    assert (said == LABELS).mean() > 0.9
    assert start.views == SHORT.steps * SHORT.batch


@pytest.mark.parametrize("method", ["supervised", "contrastive"])
def test_seeds_decide_and_global_randomness_is_left_alone(method):
    start = Pretraining(method, Training(steps=4, batch=8), (Zoom(), Tint()))
    torch.manual_seed(5)
    before, shares = torch.get_rng_state(), []
    nets = [learnt(start, seed, hear=shares.append) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert not nets[0].training


def test_small_sets_are_in_a_batch_more_than_once():
    net = network()
    Pretraining("contrastive", Training(steps=3, batch=16), (Zoom(),))(
        net, Rows.of(pictures().arrays[0][:3]), LABELS[:3], 2, CE(), 0
    )
    assert all(torch.isfinite(value).all() for value in body(net).values())


def test_two_networks_of_one_seed_are_compared_in_the_same_place():
    a, b, c = (Projected(network(), seed) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.project.parameters(), b.project.parameters(), strict=True))
    assert not torch.equal(a.project[0].weight, c.project[0].weight)
    assert a(torch.rand(2, 3, SIZE, SIZE)).shape == (2, 128)


def test_views_that_are_no_views_and_patches_of_another_batch_are_refused():
    with pytest.raises(Refusal, match="without augment they are one"):
        Pretraining("contrastive")
    with pytest.raises(Refusal, match="CMO pastes"):
        Pretraining("supervised", SHORT, (Crop(), CMO()))


@pytest.mark.parametrize("method", ["supervised", "contrastive"])
def test_given_weights_go_the_same_way(tmp_path, method):
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 16, "width": 16}}')
    given_, net = (Finetuned(str(tmp_path))(3, 2, SIZE, seed=0) for _ in range(2))
    learnt(Pretraining(method, Training(steps=3, batch=8, lr=0.01), (Zoom(),)), net=net)
    moved = {name for name, value in body(net).items() if not torch.equal(value, body(given_)[name])}
    assert len(moved) > 5
    assert not [name for name in moved if "running_" in name], "statistics stay those that were given"
    assert np.isfinite(features_of(net, pictures()).numpy()).all()
