"""Asking for the rows of a shard: each once in its place, fewer at a time when memory is short, again when luck was bad."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.generators.asking import ATTEMPTS, answers, broken, micro_batches, seed_of
from counterpoise.generators.generator import Failed
from counterpoise.types import Refusal

STRENGTHS = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]), max_size=80)
SIZES = st.integers(1, 20)


def rows_of(strengths):
    return [{"request_id": str(i), "strength": s, "seed": 1000 + i} for i, s in enumerate(strengths)]


def picture(row) -> np.ndarray:
    """What depends on a row alone."""
    return np.random.default_rng([row["seed"], int(10 * row["strength"])]).integers(
        0, 256, (2, 2, 3), np.uint8
    )


def sampler(rows):
    assert len({row["strength"] for row in rows}) == 1, "a batch has one noise ladder"
    return [picture(row) for row in rows]


@given(STRENGTHS, SIZES)
def test_batches_hold_every_row_once_and_one_strength_each(strengths, size):
    rows = rows_of(strengths)
    batches = list(micro_batches(rows, size))
    assert sorted(place for batch in batches for place in batch) == list(range(len(rows)))
    found = [{strengths[place] for place in batch} for batch in batches]
    assert all(len(one) == 1 for one in found)
    for strength in set(strengths):
        lengths = [len(batch) for batch, one in zip(batches, found, strict=True) if one == {strength}]
        assert all(length == size for length in lengths[:-1])
        assert 0 < lengths[-1] <= size
    assert all(a < b for batch in batches for a, b in pairwise(batch)), "in the order of the plan"


@given(STRENGTHS, SIZES, SIZES)
def test_answers_are_in_the_order_of_the_rows_whatever_the_batch(strengths, size, other):
    rows = rows_of(strengths)
    for n in (size, other):
        found = answers(sampler, rows, n)
        assert all(np.array_equal(a.x, picture(row)) for a, row in zip(found, rows, strict=True))
        assert all((a.reason, a.attempt) == (None, 0) for a in found)


def test_who_listens_is_told_how_much_is_done():
    heard = []
    answers(sampler, rows_of([0.5, 0.7] * 4), 3, heard.append)
    assert heard == sorted(heard)
    assert len(heard) == 4
    assert heard[-1] == 1


# --- luck ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, ATTEMPTS), min_size=1, max_size=30), SIZES)
def test_a_row_is_asked_for_again_until_it_is_made(unlucky, size):
    """Row i comes out as none `unlucky[i]` times."""
    rows, asked = rows_of([0.5] * len(unlucky)), []
    bad = {seed_of(row["seed"], k) for row, n in zip(rows, unlucky, strict=True) for k in range(n)}

    def sample(batch):
        asked.extend(row["seed"] for row in batch)
        return [Failed("black") if row["seed"] in bad else picture(row) for row in batch]

    found = answers(sample, rows, size)
    assert len(set(asked)) == len(asked), "never the same twice"
    # A third seed is tried where the first left some and the second helped one of them.
    tried = 1 if max(unlucky) == 0 else 3 if 1 in unlucky and max(unlucky) > 1 else 2
    for row, n, answer in zip(rows, unlucky, found, strict=True):
        if n < tried:
            assert (answer.reason, answer.attempt) == (None, n)
            assert np.array_equal(answer.x, picture(row | {"seed": seed_of(row["seed"], n)}))
        else:
            assert (answer.x is None, answer.reason, answer.attempt) == (True, "black", tried - 1)


def test_seeds_of_attempts_are_the_plans_and_then_fixed_others():
    assert seed_of(7, 0) == 7
    assert [seed_of(7, k) for k in (1, 2)] == [8754479992382840857, 2309087325968872640]
    assert len({seed_of(seed, k) for seed in range(50) for k in range(ATTEMPTS)}) == 50 * ATTEMPTS


def test_what_is_no_chance_is_not_asked_for_without_end():
    calls = []

    def sample(rows):
        calls.append(len(rows))
        return [Failed("nothing to interpolate with") for _ in rows]

    found = answers(sample, rows_of([0.0] * 5), 8)
    assert calls == [5, 5]
    assert {(a.reason, a.attempt) for a in found} == {("nothing to interpolate with", 1)}


def test_what_is_no_sample_at_all():
    assert broken(np.zeros((3, 3, 3), np.uint8)) == "blank image"
    assert broken(np.array([0.0, np.nan], np.float32)) == "not finite"
    assert broken(np.zeros(4, np.float32)) is None  # a feature may be anything
    assert broken(picture({"seed": 1, "strength": 1.0})) is None


# --- memory --------------------------------------------------------------------------------------------------

SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError("Unable to allocate 4.00 GiB for an array"),
]


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_a_batch_that_memory_does_not_hold_is_halved(error):
    rows, sizes = rows_of([0.3, 0.7] * 10), []

    def sample(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise error
        return sampler(batch)

    with pytest.warns(UserWarning, match="memory does not hold 8 rows") as told:
        found = answers(sample, rows, 8)
    assert all(np.array_equal(a.x, picture(row)) for a, row in zip(found, rows, strict=True))
    assert len(told) == 1
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) == 2, "once is enough"


def test_this_machines_own_words_are_known():
    def sample(batch):
        if len(batch) > 1:
            torch.empty(1 << 60, dtype=torch.uint8)
        return sampler(batch)

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        found = answers(sample, rows_of([0.5] * 3), 3)
    assert all(a.reason is None for a in found)


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_one_row_that_memory_does_not_hold_is_refused(error):
    def sample(batch):
        raise error

    with pytest.raises(Refusal, match=r"one sample alone .* fewer --workers, a smaller --size"):
        answers(sample, rows_of([0.5]), 8)


def test_other_errors_are_not_about_memory():
    def sample(batch):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        answers(sample, rows_of([0.5] * 4), 8)
