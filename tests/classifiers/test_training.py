import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.classifiers.losses import CE, LDAM
from counterpoise.classifiers.mixing import Instance, stream
from counterpoise.classifiers.robust import GroupDRO, Mean
from counterpoise.classifiers.training import Descent, Lesson, Training, features_of, train_network
from counterpoise.data.augment import CMO, Crop
from counterpoise.data.pixels import Rows
from counterpoise.nets.resnet import SmallResNet
from counterpoise.recipe import Fit
from counterpoise.trials import head_of
from counterpoise.types import Refusal


def lesson(steps=40, groups=False, partners=False):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pixels = (
        rng.integers(0, 60, (60, 8, 8, 1))
        + 150 * labels[:, None, None, None] * (np.arange(8) < 4)[:, None, None]
    )
    views = stream(Instance(), labels, np.ones(60), steps, 16, seed=1)
    return Lesson(
        Rows.of(pixels.astype(np.uint8)),
        torch.eye(2)[torch.from_numpy(labels)],
        torch.arange(60) % 3 if groups else None,
        views,
        lambda progress: torch.tensor([30.0, 30.0]),
        views[::-1].copy() if partners else None,
    )


def train(given, loss=CE(), reduction=Mean(), augment=(), training=Training(steps=40, batch=16), seed=3):
    net = SmallResNet(width=4)(1, 2, 8, seed=0, cosine=loss.cosine)
    return train_network(net, given, loss, reduction, augment, training, seed)


def right(net, given):
    with torch.no_grad():
        said = net(given.rows.batch(np.arange(60)).float() / 255).argmax(1)
    return float((said == given.targets.argmax(1)).float().mean())


def test_it_learns_and_the_same_seeds_give_the_same_weights():
    given_ = lesson()
    a, b = (train(given_, augment=(Crop(),)) for _ in range(2))
    assert right(a, given_) > 0.95
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
    c = train(given_, augment=(Crop(),), seed=4)
    assert not torch.equal(a.stem.weight, c.stem.weight), "another seed augments otherwise"


def test_groups_and_patches_reach_their_parts():
    assert right(train(lesson(groups=True), reduction=GroupDRO()), lesson()) > 0.9
    assert right(train(lesson(partners=True), augment=(CMO(),)), lesson()) > 0.9


@pytest.mark.parametrize("loss", [CE(), LDAM()], ids=repr)
def test_the_linear_head_says_what_the_network_says(loss):
    given_ = lesson()
    net = train(given_, loss=loss)
    head = head_of(net, Fit("f", loss, Instance()))
    with torch.no_grad():
        logits = net(given_.rows.batch(np.arange(60)).float() / 255).numpy() * getattr(loss, "scale", 1.0)
    assert np.allclose(head.logits(features_of(net, given_.rows).numpy()), logits, atol=1e-3)


def test_a_loss_that_is_not_finite_stops_with_what_to_do():
    with pytest.raises(Refusal, match=r"the loss is .*Lower training\.lr"):
        train(lesson(), training=Training(steps=40, batch=16, lr=1e38))


@given(st.integers(1, 400), st.floats(0, 0.9))
def test_the_rate_warms_up_and_ends_near_zero(steps, warmup):
    training = Training(steps=steps, warmup=warmup)
    rates = [training.rate(step) for step in range(steps)]
    assert max(rates) <= training.lr + 1e-9
    assert all(rate >= 0 for rate in rates)
    assert rates.index(max(rates)) <= warmup * steps + 1


def test_descent_is_the_sgd_of_torch():
    training = Training(weight_decay=0.01, momentum=0.9)
    ours, theirs = (SmallResNet(width=4)(1, 3, 8, seed=0) for _ in range(2))
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    descent = Descent(list(ours.parameters()), training)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(20 * ours(x), y)  # steep enough to be clipped
        descent(torch.autograd.grad(loss, descent.weights), 0.1)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(20 * theirs(x), y).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 5.0)
        optimiser.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
