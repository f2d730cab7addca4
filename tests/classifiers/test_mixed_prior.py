"""Label mass from the plan to the loss: replaced views, mixed labels, CutMix and Mixup on top of them, and prior-based losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from counterpoise.classifiers.claims import ByStrength, Measured, Origins, claimed
from counterpoise.classifiers.losses import LDAM, VS, BalancedSoftmax, LogitAdjusted
from counterpoise.classifiers.mixing import Instance, Replace
from counterpoise.classifiers.robust import Mean
from counterpoise.classifiers.training import Training, train_network
from counterpoise.data.augment import CutMix, Mixup
from counterpoise.data.pixels import Rows
from counterpoise.pupils import Pupil
from counterpoise.recipe import Fit

N = np.array([100, 10, 1])
EACH = 30  # samples of each class
P = 0.3
LOSSES = [BalancedSoftmax(), LogitAdjusted(), LDAM(), VS()]


class Net(nn.Module):
    """Looks at colours only, so that many steps take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.head(x.mean((2, 3))))


def pupil(loss, augment=(), rare=False, claims=ByStrength(gamma=0.5)) -> Pupil:
    """Three classes of real rows, and as many samples of each, which started in any class."""
    rng = np.random.default_rng(0)
    real, wanted = np.repeat(np.arange(3), N), np.repeat(np.arange(3), EACH)
    source, strength, turned = (
        rng.integers(0, 3, 3 * EACH),
        rng.choice([0.3, 0.7], 3 * EACH),
        rng.random(3 * EACH),
    )
    origins = Origins(wanted, source, strength, {"turned": turned}.__getitem__)
    labels = claimed(np.concatenate([real, wanted]), origins, claims, 3)
    fit = Fit("mixed", loss, Instance(), augment, synthesis="s", mix=Replace(p=P, rare=rare, claims=claims))
    pixels = rng.integers(0, 255, (len(labels), 6, 6, 3), dtype=np.uint8)
    synthetic = np.arange(len(labels)) >= len(real)
    return Pupil(fit, 3, Rows.of(pixels), labels, None, synthetic, wanted=wanted)


def told(taught: Pupil, steps: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """What a loss is given in a training: all targets (views, 3), and the prior in proportions."""
    targets, priors = [], []

    def loss(logits, labels, prior, progress):
        targets.append(labels)
        priors.append(prior / prior.sum())
        return taught.fit.loss(logits, labels, prior, progress)

    training = Training(steps=steps, batch=100)
    lesson = taught.lesson(training, seed=1, patches_seed=2)
    train_network(Net(), lesson, loss, Mean(), taught.fit.augment, training, seed=1)
    assert all(torch.equal(prior, priors[0]) for prior in priors)
    return torch.cat(targets).numpy(), priors[0].numpy()


@pytest.mark.parametrize("rare", [False, True], ids=["evenly", "rarest first"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_are_given_the_prior_of_replaced_views(loss, rare):
    """(1 - p) pi_real + p pi_synthetic, whatever the loss, and it is how often classes really come."""
    taught = pupil(loss, rare=rare)
    mass = taught.targets[111:].reshape(3, EACH, 3).mean(1)  # of the samples wanted of each class
    share = (1 / (N + 1)) / (1 / (N + 1)).sum() if rare else np.full(3, 1 / 3)
    expected = (1 - P) * N / N.sum() + P * share @ mass
    seen, prior = told(taught)
    assert prior == pytest.approx(expected, abs=1e-6)
    deviation = seen.std(0) / np.sqrt(len(seen))
    assert (np.abs(seen.mean(0) - prior) < 5 * deviation).all()
    assert np.abs(seen.mean(0) - N / N.sum()).max() > 20 * deviation.max(), "the real counts would be wrong"


@pytest.mark.parametrize("claims", [ByStrength(gamma=0.5), Measured()], ids=repr)
@pytest.mark.parametrize("change", [CutMix(p=1.0), Mixup(), CutMix(p=0.1)], ids=repr)
def test_mixing_mixed_labels_keeps_their_mass_and_the_prior(change, claims):
    seen, prior = told(pupil(BalancedSoftmax(), (change,), claims=claims))
    assert np.abs(seen.sum(1) - 1).max() < 1e-5
    assert seen.min() >= 0
    assert (seen > 0).sum(1).max() == 3, "two classes of one row, two of another"
    deviation = seen.std(0) / np.sqrt(len(seen))
    assert (np.abs(seen.mean(0) - prior) < 7 * deviation).all()  # rows of a batch are mixed among themselves
    plain, same = told(pupil(BalancedSoftmax(), claims=claims))
    assert prior == pytest.approx(same)
    assert not np.allclose(seen, plain)
