"""Heads that begin as class names: what synthetic rows are taught as, and the numbers of plain AdamW for every job."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.classifiers.tuning import BOTH, ONE, ORDERS, Taught, Tuning, from_names, half_believed
from counterpoise.types import Refusal, build, describe, load

CLASSES, DIM, ROWS, REAL = 4, 6, 60, 20
RNG = np.random.default_rng(0)
FEATURES = (3 * RNG.normal(size=(ROWS, DIM)) + 1).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, ROWS)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]
START = from_names(
    F.normalize(torch.from_numpy(RNG.normal(size=(CLASSES, DIM)).astype(np.float32))).numpy(), 20.0
)
AIMS = half_believed(ONE_HOT, START.logits(FEATURES), 0.5, 2.0)
SHORT = Tuning(steps=12, batch=5, synthetic_batch=9, rates=(0.05,))


def taught(tuning, seed=0, loss=CE(), kinds=("real", "synthetic")):
    """The first rows are real."""
    rng, prior = np.random.default_rng(seed), np.arange(1.0, CLASSES + 1)
    real = rng.integers(0, REAL, (tuning.steps, tuning.batch))
    made = rng.integers(REAL, ROWS, (tuning.steps, tuning.synthetic_batch))
    jobs = {
        "real": HeadJob(real, LABELS, loss, prior, seed),
        "synthetic": HeadJob(made, AIMS, loss, prior[::-1].copy(), seed),
    }
    return Taught(*(jobs[kind] if kind in kinds else None for kind in ("real", "synthetic")))


# --- V1: the loss of synthetic rows ----------------------------------------------------------------------------------


def random_logits(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(8, CLASSES)) * 3)


def loss_of(z, aims):
    return CE()(z, torch.as_tensor(aims, dtype=z.dtype), torch.ones(CLASSES))


def test_the_aim_is_the_published_loss():
    """L = (1 - sl) CE + sl SCE with SCE = -sum softmax(z_teacher / T) log softmax(z): no T on z, no T^2 in front."""
    z, teacher, labels = random_logits(1), random_logits(2), ONE_HOT[:8]
    aims = half_believed(labels, teacher.numpy(), 0.3, 2.0)
    log_p = torch.log_softmax(z, 1)
    ce = -(torch.from_numpy(labels) * log_p).sum(1)
    sce = -(torch.softmax(teacher / 2, 1) * log_p).sum(1)
    torch.testing.assert_close(loss_of(z, aims), 0.7 * ce + 0.3 * sce, atol=1e-5, rtol=1e-5)
    assert np.array_equal(half_believed(labels, teacher.numpy(), 0.0, 2.0), labels), (
        "sl = 0 is plain cross-entropy"
    )


def test_a_teacher_that_is_the_student_costs_its_own_entropy_and_pulls_nowhere():
    z = random_logits(3).requires_grad_()
    q = torch.softmax(z.detach(), 1)
    loss = loss_of(z, half_believed(ONE_HOT[:8], z.detach().numpy(), 1.0, 1.0))
    torch.testing.assert_close(loss.detach(), -(q * q.log()).sum(1), atol=1e-5, rtol=1e-5)
    (slope,) = torch.autograd.grad(loss.sum(), z)
    assert slope.abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_its_gradient_is_what_is_said_less_what_is_taught(temperature):
    z, teacher = random_logits(4).requires_grad_(), random_logits(5)
    loss = loss_of(z, half_believed(ONE_HOT[:8], teacher.numpy(), 1.0, temperature))
    (slope,) = torch.autograd.grad(loss.sum(), z)
    expected = torch.softmax(z.detach(), 1) - torch.softmax(teacher / temperature, 1)
    torch.testing.assert_close(slope, expected, atol=1e-6, rtol=1e-5)


# --- V5: updates, rates and batches are what was asked ----------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """Cross-entropy that remembers what it was asked."""

    asked: list = field(default_factory=list)
    cosine: ClassVar[bool] = False

    def __call__(self, logits, targets, prior, progress=0.0):
        self.asked.append((logits.shape[-2], progress))
        return CE()(logits, targets, prior, progress)


@pytest.mark.parametrize("order", ORDERS)
def test_every_phase_has_all_its_steps_and_batches_of_their_own_size(order):
    tuning, loss = replace(SHORT, order=order), Counted()
    tuning(FEATURES, [taught(tuning, loss=loss)], START)
    steps = [step / 12 for step in range(12)]
    together = [(size, at) for at in steps for size in (5, 9)]
    apart = {"synthetic_first": (9, 5), "real_first": (5, 9)}.get(order, ())
    assert loss.asked == ([(size, at) for size in apart for at in steps] or together)


@pytest.mark.parametrize("steps", [1, 2, 7, 480])
def test_the_rate_falls_by_a_cosine_to_nothing_at_the_last_step(steps):
    rates = [Tuning(steps=steps).rate(step) for step in range(steps)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert steps == 1 or rates[-1] == 0.0
    assert np.mean(rates) == pytest.approx(0.5 if steps > 1 else 1.0)


def test_the_rate_is_the_published_one_unless_others_are_tried():
    def lr(tuning, **more):
        return [choice["lr"] for choice, _ in tuning(FEATURES, [taught(tuning, **more)], START)]

    usual = replace(SHORT, steps=2, rates=())
    assert lr(usual) == [BOTH]
    assert lr(usual, kinds=("real",)) == lr(usual, kinds=("synthetic",)) == [ONE]
    assert lr(replace(usual, order="real_first")) == [ONE]
    assert lr(replace(usual, rates=(0.1, 0.2))) == [0.1, 0.2]


# --- the descent -------------------------------------------------------------------------------------------------------


def by_hand(tuning, job, decay, weights, rate):
    """torch.optim.AdamW on one job; towards the names, what is decayed is the way from them."""
    x = F.normalize(torch.from_numpy(FEATURES))
    begin = [torch.from_numpy(START.weight), torch.from_numpy(START.bias)]
    moved = tuning.towards == "names"
    theta = [(torch.zeros_like(one) if moved else one.clone()).requires_grad_() for one in begin]
    for kinds in tuning.phases(job):
        optimiser = torch.optim.AdamW(theta, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
        for step in range(tuning.steps):
            optimiser.param_groups[0]["lr"] = rate * tuning.rate(step)
            optimiser.zero_grad()
            weight, bias = (a + b for a, b in zip(theta, begin, strict=True)) if moved else theta
            total = 0.0
            for kind in kinds:
                one = getattr(job, kind)
                rows, soft = one.rows[step], one.targets if one.targets.ndim == 2 else ONE_HOT
                losses = one.loss(
                    x[rows] @ weight.T + bias, torch.from_numpy(soft[rows]), torch.from_numpy(one.prior)
                )
                total = total + weights[kind == "synthetic"] * losses.mean()
            total.backward()
            torch.nn.utils.clip_grad_norm_(theta, 1.0)
            optimiser.step()
    return [(a + b if moved else a).detach() for a, b in zip(theta, begin, strict=True)]


@pytest.mark.parametrize("towards", ["zero", "names"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_job_is_plain_adamw_whatever_its_company(order, towards):
    """Rates, decays and weights that are tried at once, two trials, and gradients on both sides of the limit."""
    grid = {"rates": (0.05, 0.2), "decays": (0.0, 3.0), "weights": ((1.0, 1.0), (0.02, 0.01))}
    tuning = replace(SHORT, order=order, towards=towards, **grid)
    jobs = [taught(tuning, seed, BalancedSoftmax()) for seed in (1, 2)]
    tried = tuning(FEATURES, jobs, START)
    assert len(tried) == 8
    for choice, heads in tried:
        for job, head in zip(jobs, heads, strict=True):
            weight, bias = by_hand(tuning, job, choice["weight_decay"], choice["weights"], choice["lr"])
            np.testing.assert_allclose(head.weight, weight, atol=2e-4)
            np.testing.assert_allclose(head.bias, bias, atol=2e-4)
            assert head.normalise


def test_no_step_leaves_the_names_as_they_are():
    tuning = replace(SHORT, steps=0, decays=(0.1, 1.0))
    for _, (head, _) in tuning(FEATURES[:0], [Taught(None, None)] * 2, START):
        assert np.array_equal(head.weight, START.weight)
        assert np.array_equal(head.logits(FEATURES), START.logits(FEATURES))


def test_strong_decay_ends_where_it_is_told_to():
    for towards, end in {"zero": 0 * START.weight, "names": START.weight}.items():
        tuning = replace(SHORT, steps=300, decays=(19.0,), rates=(0.05,), towards=towards)
        ((_, (head,)),) = tuning(FEATURES, [taught(tuning)], START)
        assert np.abs(head.weight - end).max() < 0.2 < np.abs(START.weight).max()


def test_it_learns():
    """Rows lie around other centres than names say."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(CLASSES, DIM))
    labels = np.repeat(np.arange(CLASSES), 100)
    features = (centres[labels] + 0.3 * rng.normal(size=(400, DIM))).astype(np.float32)
    tuning = Tuning(steps=200, rates=(0.1,))
    job = HeadJob(rng.integers(0, 400, (200, 32)), labels, CE(), np.ones(CLASSES), 0)
    ((_, (head,)),) = tuning(features, [Taught(job, None)], START)
    right = lambda head: (head.logits(features).argmax(1) == labels).mean()  # noqa: E731
    assert right(START) < 0.5
    assert right(head) > 0.9


def test_settings_that_mean_nothing_are_refused():
    for bad in (
        {"weights": [[1.0, 0.0]]},
        {"decays": []},
        {"order": "both"},
        {"share": 1.1},
        {"templates": []},
    ):
        with pytest.raises(Refusal, match="Tuning"):
            build(Tuning, bad)
    with pytest.raises(Refusal, match=r"at most all of it, found 0\.1 x 30"):
        Tuning(rates=(1e-3, 0.1), decays=(0.1, 30.0))
    with pytest.raises(Refusal, match="a template says"):
        Tuning(templates=("a photo",))
    told = replace(SHORT, weights=((0.8, 0.2),))
    assert load(describe(told)) == told


def test_a_rate_that_is_too_high_is_refused():
    tuning = replace(SHORT, rates=(1e38,), decays=(0.0,))
    with pytest.raises(Refusal, match=r"lower tuning\.rates"):
        tuning(FEATURES, [taught(tuning)], START)
