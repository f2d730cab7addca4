"""Batched linear heads: alone or together they are the same, and a head survives saving and folding."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.heads import LinearHead, _begun, train_heads
from counterpoise.classifiers.losses import CE, LDAM, BalancedSoftmax, ClassBalanced, Deferred
from counterpoise.classifiers.robust import GroupDRO
from counterpoise.types import Refusal


def long_tail(dim=12, classes=4, head=300, factor=30, spread=0.8, seed=0):
    """Gaussian classes: (features, labels, counts), a balanced test set of the same kind."""
    rng = np.random.default_rng(seed)
    counts = (head * factor ** -(np.arange(classes) / (classes - 1))).astype(int)
    centres = rng.normal(size=(classes, dim)) * spread
    labels, balanced = np.repeat(np.arange(classes), counts), np.repeat(np.arange(classes), 200)
    draw = lambda y: (3 + 5 * (centres[y] + rng.normal(size=(len(y), dim)))).astype(np.float32)  # noqa: E731
    return draw(labels), labels, counts, draw(balanced), balanced


def job(labels, counts, loss, seed, steps=60, batch=32, stream=None, **more):
    rows = np.random.default_rng(seed if stream is None else stream).integers(0, len(labels), (steps, batch))
    return HeadJob(rows, labels, loss, counts, seed, **more)


def assert_same(one: LinearHead, other: LinearHead):
    np.testing.assert_allclose(one.weight, other.weight, atol=2e-4)
    np.testing.assert_allclose(one.bias, other.bias, atol=2e-4)
    assert one.normalise == other.normalise


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_job_does_not_depend_on_its_company(optimiser):
    features, labels, counts, _, _ = long_tail()
    soft = np.eye(4, dtype=np.float32)[labels] * 0.8 + 0.05
    groups = (features[:, 0] > 3).astype(np.int64)
    moving = lambda progress: torch.tensor([1.0, 1.0, 1.0, 1.0 + progress])  # noqa: E731
    jobs = [
        job(labels, counts, CE(), 0),
        job(labels, counts, BalancedSoftmax(), 0),
        job(labels, counts, Deferred(), 0),
        job(labels, counts, LDAM(), 0),
        job(labels, counts, CE(), 1),
        job(soft, counts, CE(), 1),
        job(labels, counts, CE(), 2, stream=1),
        job(labels, moving, BalancedSoftmax(), 2),
        job(labels[::-1].copy(), counts, ClassBalanced(), 3),
        job(labels, counts, CE(), 4, groups=groups, reduction=GroupDRO(step_size=0.5)),
        job(labels, counts, CE(), 5, groups=groups, reduction=GroupDRO(step_size=0.5)),
        job(labels, counts, CE(), 6, steps=40),
    ]
    lr = 1.0 if optimiser == "sgd" else 0.01
    together = train_heads(features, jobs, optimiser=optimiser, lr=lr)
    for at, alone in enumerate(jobs):
        assert_same(together[at], train_heads(features, [alone], optimiser=optimiser, lr=lr)[0])
    shuffled = np.random.default_rng(0).permutation(len(jobs))
    for at, head in zip(
        shuffled, train_heads(features, [jobs[i] for i in shuffled], optimiser=optimiser, lr=lr)
    ):
        assert_same(together[at], head)
    assert not np.allclose(together[0].weight, together[4].weight, atol=1e-3), "seeds and rows matter"
    assert not np.allclose(together[4].weight, together[5].weight, atol=1e-3), "targets matter"


@pytest.mark.parametrize("loss", [CE(), LDAM(scale=5.0)])
def test_the_written_gradient_is_the_one_of_autograd(loss):
    """Plain torch.optim.SGD on the same problem, linear and cosine."""
    features, labels, counts, _, _ = long_tail()
    one = job(labels, counts, loss, 0, steps=30)
    head = train_heads(features, [one], weight_decay=1e-3)[0]
    x = head.transform(torch.from_numpy(features))
    weight, bias = (value.requires_grad_() for value in _begun(one, 4, 12))
    rate = len(x) / float(x.norm() ** 2)
    parameters = [{"params": [weight], "weight_decay": 1e-3}, {"params": [bias] if not loss.cosine else []}]
    optimiser = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 30)
    for step, rows in enumerate(one.rows):
        optimiser.zero_grad()
        logits = x[rows] @ (F.normalize(weight, dim=1) if loss.cosine else weight).T + bias
        targets = F.one_hot(torch.from_numpy(labels)[rows], 4).float()
        loss(logits, targets, torch.from_numpy(counts), step / 30).mean().backward()
        optimiser.step()
        schedule.step()
    expected = 5.0 * F.normalize(weight, dim=1) if loss.cosine else weight
    np.testing.assert_allclose(head.weight, expected.detach(), atol=1e-4)
    np.testing.assert_allclose(head.bias, bias.detach(), atol=1e-4)


def test_it_learns_what_logistic_regression_learns():
    features, labels, counts, test, balanced = long_tail()
    head = train_heads(features, [job(labels, counts, CE(), 0, steps=600, batch=64)])[0]
    x = head.transform(torch.from_numpy(features)).numpy()
    known = LogisticRegression(C=1e3, max_iter=2000).fit(x, labels)
    ours = (head.logits(features).argmax(1) == labels).mean()
    assert ours >= known.score(x, labels) - 0.01
    assert (head.logits(test).argmax(1) == balanced).mean() > 0.6


@pytest.mark.parametrize("loss", [CE(), LDAM()], ids=["plain", "cosine"])
def test_a_head_goes_on_from_where_another_one_was(loss):
    features, labels, counts, *_ = long_tail()
    whole = train_heads(features, [job(labels, counts, loss, 0, steps=200)])[0]
    begun = train_heads(features, [job(labels, counts, loss, 0, steps=1, start=whole)], lr=1e-6)[0]
    fresh = train_heads(features, [job(labels, counts, loss, 0, steps=1)], lr=1e-6)[0]

    def agree(head):
        return (head.logits(features).argmax(1) == whole.logits(features).argmax(1)).mean()

    assert agree(begun) == 1.0
    assert agree(fresh) < 0.9


def test_balanced_softmax_lifts_the_tail():
    features, labels, counts, test, balanced = long_tail(spread=0.4)
    jobs = [job(labels, counts, loss, s, steps=200) for s in range(6) for loss in (CE(), BalancedSoftmax())]
    recall = [
        (head.logits(test).argmax(1) == 3)[balanced == 3].mean() for head in train_heads(features, jobs)
    ]
    assert (np.array(recall[1::2]) > np.array(recall[::2])).all()


def test_group_dro_lifts_the_worst_group():
    """Group 1 contradicts group 0 in the easy feature and is rare."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 2000), (rng.random(2000) < 0.05).astype(np.int64)
    sign = 2.0 * labels - 1
    features = np.stack([sign * (1 - 2 * groups) * 3, sign], 1) + rng.normal(size=(2000, 2))
    priors = np.bincount(labels)
    balanced = rng.choice(
        2000, (300, 64), p=np.where(groups == 1, 0.5 / groups.sum(), 0.5 / (1 - groups).sum())
    )
    plain = rng.integers(0, 2000, (300, 64))
    jobs = [
        HeadJob(plain, labels, CE(), priors, 0),
        HeadJob(balanced, labels, CE(), priors, 0, reduction=GroupDRO(step_size=0.1), groups=groups),
    ]
    erm, dro = (
        (head.logits(features).argmax(1) == labels)[groups == 1].mean()
        for head in train_heads(features, jobs)
    )
    assert dro > erm + 0.2


def test_standardisation_looks_at_the_real_rows_only():
    features, labels, counts, _, _ = long_tail()
    wild = np.concatenate([features, features[:50] * 100])
    twice = np.concatenate([labels, labels[:50]])
    real = np.arange(len(labels))
    assert_same(
        train_heads(features, [job(labels, counts, CE(), 0)])[0],
        train_heads(wild, [HeadJob(job(labels, counts, CE(), 0).rows, twice, CE(), counts, 0)], real=real)[0],
    )
    constant = np.concatenate([features, np.full((len(features), 1), 7.0, np.float32)], 1)
    assert train_heads(constant, [job(labels, counts, CE(), 0)])[0].scale[-1] == 1


def test_divergence_is_refused_and_names_the_rate():
    features, labels, counts, _, _ = long_tail()
    with pytest.raises(Refusal, match="lower the learning rate"):
        train_heads(features, [job(labels, counts, CE(), 0)], lr=1e38)


@pytest.mark.parametrize("loss", [CE(), LDAM()])
def test_a_head_saves_bit_equal(tmp_path, loss):
    features, labels, counts, test, _ = long_tail()
    head = train_heads(features, [job(labels, counts, loss, 0)])[0]
    save_file(head.save(), tmp_path / "head.safetensors")
    back = LinearHead.load(load_file(tmp_path / "head.safetensors"))
    assert back.normalise == head.normalise == loss.cosine
    assert (back.logits(test) == head.logits(test)).all()
    assert (head.logits(torch.from_numpy(test)).numpy() == head.logits(test)).all()


def test_folding_gives_equal_logits_or_says_that_it_cannot():
    features, labels, counts, test, _ = long_tail()
    linear, cosine = train_heads(features, [job(labels, counts, loss, 0) for loss in (CE(), LDAM())])
    weight, bias = linear.plain()
    np.testing.assert_allclose(test @ weight.T + bias, linear.logits(test), atol=1e-3)
    assert cosine.plain() is None
    assert np.allclose(np.linalg.norm(cosine.weight, axis=1), 30, atol=1e-3), "s * cos, as in training"
    assert np.abs(cosine.logits(test)).max() <= 30.001
