import numpy as np
import pytest

from counterpoise.generators.generator import Context, Failed
from counterpoise.generators.simple import Copies, Interpolate, Oversample

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
FEATURES = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)


def context(x):
    return Context(lambda ids: np.stack([x[int(i)] for i in ids]))


def rows(n=20):
    rng = np.random.default_rng(2)
    pairs = [rng.choice(6, 2, replace=False) for _ in range(n)]
    return [
        {"request_id": f"r{i}", "source_id": str(a), "partner_id": str(b), "label": 0, "seed": 1000 + i}
        for i, (a, b) in enumerate(pairs)
    ]


def flip():
    from counterpoise.data.augment import Crop, Flip

    return Oversample(augment=(Crop(), Flip(grey=True)))


@pytest.fixture(params=["copies", "oversample", "interpolate"])
def generator(request):
    return {"copies": Copies, "oversample": flip, "interpolate": Interpolate}[request.param]()


@pytest.mark.parametrize("real", [PIXELS, FEATURES], ids=["pixels", "features"])
def test_contract(generator, real, tmp_path):
    """Same row, same sample: whatever the order, the company or a second loading; shape and kind of the space."""
    if real.ndim == 2 and "features" not in generator.spaces:
        generator = Oversample()  # there is nothing to flip
    wanted = rows()
    made = generator.load(tmp_path, context(real))(wanted)
    first = {row["request_id"]: x for row, x in zip(wanted, made, strict=True)}
    again = generator.load(tmp_path, context(real))
    for row in reversed(wanted):
        (sample,) = again([row])
        assert sample.dtype == real.dtype
        assert sample.shape == real.shape[1:]
        assert np.array_equal(sample, first[row["request_id"]])


def test_copies_copy():
    row = rows(1)[0]
    assert np.array_equal(Copies().load(None, context(PIXELS))([row])[0], PIXELS[int(row["source_id"])])


def test_oversampled_images_differ_by_their_seed():
    sample = flip().load(None, context(PIXELS))
    row = rows(1)[0]
    made = {x.tobytes() for x in sample([row | {"seed": seed} for seed in range(10)])}
    assert len(made) > 3


def test_interpolation_is_what_imbalanced_learn_computes():
    """Same source, partner and gap: the same vector as SMOTE's own arithmetic."""
    from imblearn.over_sampling import SMOTE

    row = rows(1)[0]
    a, b = int(row["source_id"]), int(row["partner_id"])
    gap = np.random.default_rng(row["seed"]).random()
    near = np.full((6, 1), b)
    theirs = SMOTE()._generate_samples(
        FEATURES, FEATURES, near, np.array([a]), np.array([0]), np.array([[gap]])
    )[0]
    (ours,) = Interpolate().load(None, context(FEATURES))([row])
    assert np.allclose(ours, theirs, atol=1e-6)


def test_interpolation_lies_between_and_needs_two():
    sample = Interpolate().load(None, context(FEATURES))
    for row in rows():
        low = np.minimum(FEATURES[int(row["source_id"])], FEATURES[int(row["partner_id"])])
        high = np.maximum(FEATURES[int(row["source_id"])], FEATURES[int(row["partner_id"])])
        (made,) = sample([row])
        assert ((made >= low - 1e-6) & (made <= high + 1e-6)).all()
    alone, paired = sample([rows(1)[0] | {"partner_id": None}, rows(1)[0]])
    assert isinstance(alone, Failed)
    assert "one training image" in str(alone)
    assert isinstance(paired, np.ndarray)
