import math

import pytest
import torch

from counterpoise.diffusion.criteria import Entropy, Hardness, Loss, Margin
from counterpoise.types import describe, load

RNG = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(6, 4, generator=RNG, dtype=torch.float64)
FEATURES = torch.randn(6, 3, generator=RNG, dtype=torch.float64)
LABEL = torch.tensor([3, 0, 3, 1, 1, 2])
P = LOGITS.softmax(1)
OF_LABEL = P[torch.arange(6), LABEL]
PARTS = [Loss(), Loss(cap=1.0), Entropy(), Entropy(on_label=0.5), Hardness(), Margin()]


def slopes(criterion, logits=LOGITS, features=FEATURES, label=LABEL):
    logits, features = logits.clone().requires_grad_(), features.clone().requires_grad_()
    found = criterion(logits, features, label).sum()
    return torch.autograd.grad(found, [logits, features], allow_unused=True, materialize_grads=True)


def test_values_are_those_of_the_formulas():
    entropy = -(P * P.log()).sum(1)
    ordered = P.sort(1, descending=True).values
    for criterion, wanted in {
        Loss(): -OF_LABEL.log(),
        Loss(cap=1.0): torch.minimum(-OF_LABEL.log(), torch.tensor(1.0)),
        Entropy(): entropy,
        Entropy(on_label=0.5): entropy + 0.5 * OF_LABEL.log(),
        Hardness(): torch.stack([h @ h / 2 for h in FEATURES]),
        Margin(): ordered[:, 1] - ordered[:, 0],
    }.items():
        torch.testing.assert_close(criterion(LOGITS, FEATURES, LABEL), wanted)


def test_values_at_the_extremes():
    even, sure = torch.zeros(1, 4), torch.tensor([[500.0, 0, 0, 0]])
    none, first, second = torch.zeros(1, 3), torch.tensor([0]), torch.tensor([1])
    assert Entropy()(even, none, first).item() == pytest.approx(math.log(4))
    assert Margin()(even, none, first) == 0
    assert Entropy()(sure, none, first) == 0
    assert Margin()(sure, none, first) == -1
    assert Loss()(sure, none, first) == 0
    assert Loss()(sure, none, second) == 500
    assert Loss(cap=2.5)(sure, none, second) == 2.5
    assert Hardness()(even, none, first) == 0  # at the mean of its class


@pytest.mark.parametrize("criterion", PARTS, ids=repr)
def test_gradients_are_those_of_the_values(criterion):
    """By central differences in every direction."""
    step = 1e-6
    for which, slope in enumerate(slopes(criterion)):
        at = [LOGITS, FEATURES]
        for column in range(at[which].shape[1]):
            away = torch.zeros_like(at[which])
            away[:, column] = step
            up, down = ([x + sign * away if i == which else x for i, x in enumerate(at)] for sign in (1, -1))
            measured = (criterion(*up, LABEL) - criterion(*down, LABEL)) / (2 * step)
            torch.testing.assert_close(slope[:, column], measured, atol=1e-7, rtol=1e-5)


def test_the_gradient_of_the_entropy_passes_both_factors():
    """dH / dlogits = -p (log p + H): cross-entropy with a frozen target would give another."""
    entropy = -(P * P.log()).sum(1, keepdim=True)
    torch.testing.assert_close(slopes(Entropy())[0], -P * (P.log() + entropy))


def test_above_its_cap_the_loss_pulls_no_more():
    capped, free = slopes(Loss(cap=1.0))[0], slopes(Loss())[0]
    above = math.exp(-1) > OF_LABEL
    assert above.any()
    assert not above.all()
    assert (capped[above] == 0).all()
    assert torch.equal(capped[~above], free[~above])


def test_the_label_keeps_entropy_in_its_class():
    """Between two classes alone, H + c log p(y) is highest on the side of y, and plain H in the middle."""
    lead = torch.linspace(-6, 6, 241, dtype=torch.float64)
    logits, none = torch.stack([lead, torch.zeros_like(lead)], 1), torch.zeros(241, 1)
    label = torch.zeros(241, dtype=torch.long)
    best = [lead[Entropy(c)(logits, none, label).argmax()].item() for c in (0.0, 0.3, 1.0)]
    assert best[0] == pytest.approx(0)
    assert 0 < best[1] < best[2]


@pytest.mark.parametrize("criterion", PARTS, ids=repr)
def test_rows_are_independent_and_one_more_logit_for_all_changes_nothing(criterion):
    found = criterion(LOGITS, FEATURES, LABEL)
    assert found.shape == (6,)
    for row in range(6):
        one = slice(row, row + 1)
        torch.testing.assert_close(criterion(LOGITS[one], FEATURES[one], LABEL[one]), found[one])
    torch.testing.assert_close(criterion(LOGITS + 3, FEATURES, LABEL), found)


@pytest.mark.parametrize("criterion", PARTS, ids=repr)
def test_nothing_is_lost_in_a_description(criterion):
    assert load(describe(criterion)) == criterion
