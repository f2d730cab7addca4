"""Losses against the card's golden numbers, and the properties every loss must have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from counterpoise.classifiers import losses
from counterpoise.classifiers.losses import (
    CE,
    LDAM,
    VS,
    BalancedSoftmax,
    ClassBalanced,
    Deferred,
    Focal,
    LogitAdjusted,
    Loss,
    Weighted,
)
from counterpoise.types import Refusal, build, describe, load

N = torch.tensor([100.0, 10.0, 1.0], dtype=torch.float64)
Z = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
COSINES = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
HARD = torch.eye(3, dtype=torch.float64)

LOSSES: list[Loss] = [
    CE(),
    Focal(0.5),
    Focal(2.0),
    LDAM(),
    BalancedSoftmax(),
    LogitAdjusted(1.5),
    VS(),
    Weighted(),
    Weighted(power=0.5, loss=Focal()),
    ClassBalanced(),
    ClassBalanced(beta=0.99, loss=LDAM()),
    Deferred(),
    Deferred(CE(), ClassBalanced(), after=0.5),
]
contract = pytest.mark.parametrize("loss", LOSSES, ids=repr)
STAGES = (0.0, 0.9)  # before and after a deferred switch


def problem(seed: int, *shape: int, spread: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, soft targets and row counts; the last dimension of the shape is the classes."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=rng, dtype=torch.float64) * spread
    targets = torch.rand(shape, generator=rng, dtype=torch.float64) ** 3
    prior = torch.randint(1, 500, (*shape[:-2], shape[-1]), generator=rng).double()
    return logits, targets / targets.sum(-1, keepdim=True), prior


@pytest.mark.parametrize(
    ("loss", "logits", "golden"),
    [
        (CE(), Z, [0.464369, 1.464369, 1.964369]),
        (BalancedSoftmax(), Z, [0.038277, 3.340862, 6.143447]),
        (LogitAdjusted(), Z, [0.038277, 3.340862, 6.143447]),
        (Focal(2.0), Z, [0.064078, 0.865466, 1.452022]),
        (VS(0.2, 1.2), Z, [0.016568, 4.148713, 7.343718]),
        (LDAM(), COSINES, [0.014106, 17.43512, 30.000123]),
        # weights around a focal loss: p stays the softmax of the logits, so this is a plain product
        (ClassBalanced(0.99, Focal(2.0)), Z, [0.042237 * 0.064078, 0.280044 * 0.865466, 2.677719 * 1.452022]),
        (Weighted(loss=Focal(2.0)), Z, [0.027027 * 0.064078, 0.270270 * 0.865466, 2.702703 * 1.452022]),
    ],
    ids=repr,
)
def test_golden_losses(loss: Loss, logits: Tensor, golden: list[float]) -> None:
    found = loss(logits.expand(3, 3), HARD, N)
    # the card has six decimals
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=1e-6, atol=1.5e-6)


@pytest.mark.parametrize(
    ("part", "golden"),
    [
        (ClassBalanced(0.99), [0.042237, 0.280044, 2.677719]),
        (ClassBalanced(0.9999), [0.027159, 0.270369, 2.702472]),
        (Weighted(1.0), [0.027027, 0.270270, 2.702703]),
        (Weighted(0.5), [0.211830, 0.669866, 2.118303]),
    ],
    ids=repr,
)
def test_golden_weights(part: Weighted | ClassBalanced, golden: list[float]) -> None:
    torch.testing.assert_close(
        part.weights(N), torch.tensor(golden, dtype=torch.float64), rtol=1e-6, atol=6e-7
    )
    torch.testing.assert_close(part.weights(N).sum(), torch.tensor(3.0, dtype=torch.float64))


def test_golden_margins_and_post_hoc_logits() -> None:
    margins = torch.tensor([0.158114, 0.281171, 0.5], dtype=torch.float64)
    torch.testing.assert_close(LDAM().margins(N), margins, rtol=1e-6, atol=6e-7)
    adjusted = torch.tensor([2.10436, 3.406945, 5.20953], dtype=torch.float64)
    torch.testing.assert_close(Z - losses.log_prior(N), adjusted, rtol=1e-6, atol=6e-7)


def test_deferred_is_exactly_one_loss_and_then_the_other() -> None:
    logits, targets, prior = problem(1, 8, 5)
    deferred = Deferred(LDAM(), ClassBalanced(loss=LDAM()), after=0.8)
    early, late = (deferred(logits, targets, prior, at) for at in (0.79, 0.8))
    torch.testing.assert_close(early, LDAM()(logits, targets, prior))
    torch.testing.assert_close(late, ClassBalanced(loss=LDAM())(logits, targets, prior))
    assert not torch.allclose(early, late)


@contract
@pytest.mark.parametrize("progress", STAGES)
def test_contract_soft_one_hot_is_the_hard_label(loss: Loss, progress: float) -> None:
    logits, _, prior = problem(2, 40, 5)
    labels = torch.arange(40) % 5
    targets = torch.nn.functional.one_hot(labels, 5).double()
    found = loss(logits, targets, prior, progress)
    alone = torch.stack([loss(logits[i : i + 1], targets[i : i + 1], prior, progress)[0] for i in range(40)])
    assert found.shape == (40,)
    assert (found >= 0).all()
    torch.testing.assert_close(found, alone)  # a sample's loss does not depend on its batch
    if isinstance(loss, CE):
        torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


@contract
@pytest.mark.parametrize("progress", STAGES)
def test_contract_trials_at_once_equal_trials_one_by_one(loss: Loss, progress: float) -> None:
    logits, targets, priors = problem(3, 4, 16, 5)
    together = loss(logits, targets, priors, progress)
    for trial in range(4):
        torch.testing.assert_close(
            together[trial], loss(logits[trial], targets[trial], priors[trial], progress)
        )
    shared = loss(logits, targets, priors[0], progress)  # one prior for all trials
    torch.testing.assert_close(shared[2], loss(logits[2], targets[2], priors[0], progress))


@contract
@pytest.mark.parametrize("progress", STAGES)
def test_contract_the_order_of_classes_does_not_matter(loss: Loss, progress: float) -> None:
    logits, targets, prior = problem(4, 16, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        loss(logits, targets, prior, progress),
        loss(logits[:, order], targets[:, order], prior[order], progress),
    )


@contract
def test_contract_an_even_prior_changes_nothing_between_classes(loss: Loss) -> None:
    """With equal masses no class is preferred: swapping the roles of two classes leaves the loss as it was."""
    logits, targets, _ = problem(5, 16, 4)
    even, swap = torch.full((4,), 25.0), torch.tensor([1, 0, 2, 3])
    torch.testing.assert_close(
        loss(logits, targets, even, 0.9), loss(logits[:, swap], targets[:, swap], even, 0.9)
    )


@contract
@pytest.mark.parametrize("progress", STAGES)
@pytest.mark.parametrize("spread", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dead", [0, 2])
def test_contract_gradients_are_finite(loss: Loss, progress: float, spread: float, dead: int) -> None:
    """At extreme logits, in single precision, with classes nobody carries."""
    logits, targets, prior = problem(6, 3, 32, 6, spread=spread)
    prior[..., :dead] = 0
    targets[..., :dead] = 0
    logits = logits.float().requires_grad_()
    found = loss(logits, (targets / targets.sum(-1, keepdim=True)).float(), prior.float(), progress)
    found.mean().backward()
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@contract
def test_contract_half_precision_logits_are_computed_in_single(loss: Loss) -> None:
    logits, targets, prior = problem(7, 16, 5)
    low = logits.bfloat16()
    found = loss(low, targets.float(), prior, 0.9)
    torch.testing.assert_close(found, loss(low.float(), targets.float(), prior, 0.9), rtol=1e-4, atol=1e-4)


@contract
def test_contract_the_gradient_lowers_the_loss(loss: Loss) -> None:
    logits, targets, prior = problem(8, 64, 5, spread=0.3)
    logits.requires_grad_()
    before = loss(logits, targets, prior, 0.9).sum()
    (slope,) = torch.autograd.grad(before, logits)
    after = loss(logits - 1e-4 * slope, targets, prior, 0.9).sum()
    assert after < before


@contract
def test_contract_is_described_and_loaded_back(loss: Loss) -> None:
    assert load(describe(loss)) == loss


@pytest.mark.parametrize("loss", [CE(), Focal(2.0), BalancedSoftmax(), LogitAdjusted(0.5), VS()], ids=repr)
def test_unweighted_losses_are_linear_in_the_label(loss: Loss) -> None:
    """The loss of a mixed label is the mixed loss: what CutMix and soft synthetic labels rely on."""
    logits, a, prior = problem(9, 32, 5)
    b = a.flip(-1)
    mixed = loss(logits, 0.3 * a + 0.7 * b, prior)
    torch.testing.assert_close(mixed, 0.3 * loss(logits, a, prior) + 0.7 * loss(logits, b, prior))


def test_known_identities() -> None:
    logits, targets, prior = problem(10, 64, 6)
    same = torch.testing.assert_close
    same(BalancedSoftmax()(logits, targets, prior), LogitAdjusted(1.0)(logits, targets, prior))
    same(VS(0.0, 1.7)(logits, targets, prior), LogitAdjusted(1.7)(logits, targets, prior))
    cdt = logits / (prior.max() / prior) ** 0.3
    same(VS(0.3, 0.0)(logits, targets, prior), CE()(cdt, targets, prior))
    same(Focal(0.0)(logits, targets, prior), CE()(logits, targets, prior))
    same(LogitAdjusted(0.0)(logits, targets, prior), CE()(logits, targets, prior))
    same(LDAM(margin=0.0, scale=1.0)(logits, targets, prior), CE()(logits, targets, prior))
    same(ClassBalanced(1 - 1e-12).weights(prior), Weighted(1.0).weights(prior), rtol=1e-6, atol=1e-6)
    same(ClassBalanced(1e-9).weights(prior), torch.ones(6, dtype=torch.float64))
    same(Weighted(0.0)(logits, targets, prior), CE()(logits, targets, prior))


def test_only_proportions_of_the_prior_matter() -> None:
    logits, targets, prior = problem(11, 16, 5)
    for loss in LOSSES:
        if "ClassBalanced" not in repr(loss):
            torch.testing.assert_close(
                loss(logits, targets, prior), loss(logits, targets, prior / prior.sum())
            )


def test_soft_labels_by_the_definitions_written_out() -> None:
    logits, targets, prior = problem(12, 16, 5)
    weights = Weighted(1.0).weights(prior)
    expected = (targets * weights).sum(-1) * torch.nn.functional.cross_entropy(
        logits, targets, reduction="none"
    )
    torch.testing.assert_close(Weighted(1.0)(logits, targets, prior), expected)
    shifted = 30 * (logits - targets * (0.5 * (prior.min() / prior) ** 0.25))
    torch.testing.assert_close(
        LDAM()(logits, targets, prior), torch.nn.functional.cross_entropy(shifted, targets, reduction="none")
    )


def test_a_dead_class_changes_no_weight_and_is_still_pushed_down() -> None:
    logits, targets, _ = problem(13, 16, 4)
    prior = torch.tensor([50.0, 5.0, 20.0, 0.0])
    targets[:, 3] = 0
    for part in (Weighted(1.0), ClassBalanced()):
        torch.testing.assert_close(part.weights(prior)[:3], part.weights(prior[:3]))
        assert part.weights(prior)[3] == 0
    logits.requires_grad_()
    BalancedSoftmax()(logits, targets / targets.sum(-1, keepdim=True), prior).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, 3] > 1e-4).all()


def test_cosine_says_what_the_network_must_give() -> None:
    assert LDAM().cosine
    assert Weighted(loss=LDAM()).cosine
    assert Deferred().cosine
    assert not any(loss.cosine for loss in LOSSES if "LDAM" not in repr(loss))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(Refusal, match="cosine"):
        Deferred(CE(), LDAM())
    for cls, bad in [
        (ClassBalanced, {"beta": 1.0}),
        (Focal, {"gamma": -1}),
        (Deferred, {"after": 2}),
        (VS, {"x": 1}),
    ]:
        with pytest.raises(Refusal, match=cls.__name__):
            build(cls, bad)
    with pytest.raises(Refusal, match=r"Weighted\.loss"):
        build(Weighted, {"loss": 3})
