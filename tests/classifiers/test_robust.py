"""GroupDRO against the card's golden step, and what the reductions promise."""

from __future__ import annotations

import pytest
import torch

from counterpoise.classifiers.robust import GroupDRO, GroupWeights, Mean, Reduction, group_means
from counterpoise.types import Refusal, describe, load

COUNTS = torch.tensor([3498.0, 184.0, 56.0, 1057.0])
LOSSES = torch.tensor([0.1, 0.5, 1.0, 2.0])
EACH = torch.arange(4)
contract = pytest.mark.parametrize("reduction", [Mean(), GroupDRO(), GroupDRO(0.1, adjust=2.0)], ids=repr)


def test_golden_step() -> None:
    loss, q = GroupDRO(step_size=0.01).step(torch.full((4,), 0.25), LOSSES, EACH, COUNTS)
    torch.testing.assert_close(
        q, torch.tensor([0.248002, 0.248996, 0.250244, 0.252759]), rtol=1e-6, atol=6e-7
    )
    torch.testing.assert_close(loss, torch.tensor(0.905059), rtol=1e-6, atol=6e-7)


def test_the_worst_group_takes_over() -> None:
    reduction = GroupDRO()
    state = reduction.start(EACH)
    for _ in range(1000):
        loss, state = reduction(LOSSES, EACH, state)
    assert state.q[3] > 0.99
    assert loss == pytest.approx(2.0, abs=0.02)


def test_adjustment_favours_small_groups() -> None:
    _, q = GroupDRO(step_size=1.0, adjust=3.0).step(torch.full((4,), 0.25), torch.ones(4), EACH, COUNTS)
    assert q.argsort(descending=True).tolist() == [2, 1, 3, 0]


def test_start_counts_the_rows_and_leaves_empty_groups_out() -> None:
    state = GroupDRO().start(torch.tensor([0, 0, 3, 1, 1, 1]))
    assert state.counts.tolist() == [2, 3, 0, 1]
    torch.testing.assert_close(state.q, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]))
    with pytest.raises(Refusal, match="group"):
        GroupDRO().start(None)


def test_rows_without_a_group_are_one_group_more() -> None:
    losses, unknown = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0]), torch.tensor([0, 2, -1, -1, 2])
    renamed = torch.where(unknown < 0, 3, unknown)
    reduction = GroupDRO(0.1, adjust=1.0)
    state, other = reduction.start(unknown), reduction.start(renamed)
    assert state.counts.tolist() == [1, 0, 2, 2]
    for _ in range(3):
        (loss, state), (expected, other) = (
            reduction(losses, unknown, state),
            reduction(losses, renamed, other),
        )
        assert loss == expected
    assert reduction.start(torch.full((4,), -1)).q.tolist() == [1.0], "nobody has a group: the plain mean"


def test_trials_at_once_equal_trials_one_by_one() -> None:
    rng = torch.Generator().manual_seed(0)
    losses, groups = torch.rand(5, 64, generator=rng), torch.randint(0, 4, (5, 64), generator=rng)
    counts, q = torch.randint(1, 99, (5, 4), generator=rng).float(), torch.rand(5, 4, generator=rng)
    reduction = GroupDRO(0.1, adjust=2.0)
    loss, grown = reduction.step(q, losses, groups, counts)
    for trial in range(5):
        alone = reduction.step(q[trial], losses[trial], groups[trial], counts[trial])
        torch.testing.assert_close((loss[trial], grown[trial]), alone)
    shared, _ = reduction.step(q, losses, groups[0], counts)  # one order of groups for all
    torch.testing.assert_close(shared[0], loss[0])
    torch.testing.assert_close(Mean()(losses, None, None)[0], losses.mean(1))


@contract
def test_contract_gradients_stay_finite_and_reach_every_sample(reduction: Reduction) -> None:
    losses = torch.tensor([1e4, 2.0, 3.0], requires_grad=True)  # one loss exploded: q must not overflow
    groups = torch.tensor([0, 2, 2])
    loss, state = reduction(losses, groups, reduction.start(groups))
    loss.backward()
    assert losses.grad is not None
    assert losses.grad.isfinite().all()
    assert losses.grad[0] > 0
    if isinstance(state, GroupWeights):
        assert state.q[1] == 0
        assert state.q.sum() == pytest.approx(1)
        assert not state.q.requires_grad


@contract
def test_contract_described_and_loaded_back(reduction: Reduction) -> None:
    assert load(describe(reduction)) == reduction


def test_group_means_are_means() -> None:
    assert group_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2, 2, 0]), 4).tolist() == [
        5.0,
        0.0,
        2.0,
        0.0,
    ]
