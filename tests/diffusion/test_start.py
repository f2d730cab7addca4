import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from counterpoise.diffusion.ladder import cut, karras
from counterpoise.diffusion.start import from_noise, from_source, row_noise

SEEDS = st.integers(0, 2**63 - 1)
LADDER = karras(10, 0.002, 80.0)


@settings(max_examples=30)
@given(st.lists(SEEDS, min_size=1, max_size=6), st.integers(0, 1000), st.randoms())
def test_a_rows_noise_is_its_own(seeds, stream, shuffle):
    whole = row_noise(seeds, (3, 2), stream)
    assert whole.shape == (len(seeds), 3, 2)
    assert whole.dtype == torch.float32
    order = list(range(len(seeds)))
    shuffle.shuffle(order)
    assert torch.equal(row_noise([seeds[i] for i in order], (3, 2), stream), whole[order])
    for row, seed in zip(whole, seeds, strict=True):
        assert torch.equal(row_noise([seed], (3, 2), stream)[0], row)


@given(SEEDS, SEEDS, st.integers(0, 1000), st.integers(0, 1000))
def test_other_seeds_and_streams_are_other_noise(seed, other, stream, later):
    same = (seed, stream) == (other, later)
    assert torch.equal(row_noise([seed], (4,), stream), row_noise([other], (4,), later)) == same


def test_every_bit_of_a_seed_counts():
    found = row_noise([0, *(1 << bit for bit in range(63)), 2**63 - 1], (2,))
    assert len(set(map(tuple, found.tolist()))) == 65


def test_noise_is_standard_normal_and_streams_are_independent():
    one, two = (row_noise(range(100), (1000,), stream).numpy() for stream in (0, 1))
    for noise in (one, two):
        assert stats.kstest(noise.ravel()[:20_000], "norm").pvalue > 1e-3
    both = np.stack([one.ravel(), two.ravel()])
    assert abs(np.corrcoef(both)[0, 1]) < 5 / both.shape[1] ** 0.5
    rows = np.corrcoef(one)[~np.eye(100, dtype=bool)]
    assert abs(rows).max() < 6 / 1000**0.5


def test_noise_stays_what_it_was():
    """Golden: a sample must not change with a release."""
    golden = [0.7111456394195557, -1.1480998992919922, -1.1260769367218018]
    torch.testing.assert_close(row_noise([2**62 + 7], (3,), 2)[0], torch.tensor(golden), rtol=0, atol=1e-6)


def test_no_rows_no_noise():
    assert row_noise([], (3, 2)).shape == (0, 3, 2)


def test_starts():
    seeds = [5, 2**40]
    noise = row_noise(seeds, (3, 2))
    torch.testing.assert_close(from_noise(LADDER, seeds, (3, 2)), 80 * noise)
    source = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_source(LADDER, source, seeds), source + 80 * noise)
    half = cut(LADDER, 0.5)
    torch.testing.assert_close(from_source(half, source, seeds), source + float(half[0]) * noise)
    assert torch.equal(from_source(cut(LADDER, 0), source, seeds), source)
    assert from_source(half, source.double(), seeds).dtype == torch.float64
