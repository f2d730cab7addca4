"""The samplers are imbalanced-learn's in every respect, and nothing but the parts of the recipes behind it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
from imblearn.pipeline import Pipeline
from imblearn.utils._test_common.instance_generator import _get_expected_failed_checks
from imblearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks as parametrize_with_sklearns_checks

from counterpoise.generators.generator import Context, Lesson
from counterpoise.sklearn import (
    FeatureDiffusionSampler,
    LatentMixtureSampler,
    PixelDiffusionSampler,
    TranslationSampler,
)
from counterpoise.types import Refusal

QUICK = {"random_state": 0, "fit_steps": 5}
TRANSLATION = TranslationSampler(random_state=0)
DIFFUSION = FeatureDiffusionSampler(**QUICK, sampling_steps=3)
TRANSLATED = FeatureDiffusionSampler(**QUICK, sampling_steps=3, strength=0.5, balance=1.0)
MIXTURE = LatentMixtureSampler(**QUICK)
MOVED = LatentMixtureSampler(**QUICK, start="larger")
FEATURES = [TRANSLATION, DIFFUSION, TRANSLATED, MIXTURE]
PIXELS = PixelDiffusionSampler(**QUICK, sampling_steps=2)

features = pytest.mark.parametrize("sampler", FEATURES, ids=str)
everyone = pytest.mark.parametrize("sampler", [*FEATURES, PIXELS], ids=str)
# Some checks, and some of these tests, have nearly as many classes as rows.
pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")


def rows(counts=(40, 12, 5), dim=6, seed=0, dtype=np.float32):
    """Classes apart from one another, in an order of no kind."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return (rng.normal(size=(len(y), dim)) + 5 * y[:, None]).astype(dtype), y


def pictures(counts=(20, 6), size=8, channels=None, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    X = rng.integers(256, size=(len(y), size, size, *([channels] if channels else [])), dtype=np.uint8)
    return X if dtype == np.uint8 else (X / 255).astype(dtype), y


def data_for(sampler, **more):
    return pictures(**more) if isinstance(sampler, PixelDiffusionSampler) else rows(**more)


# --- imbalanced-learn's own contract -----------------------------------------------------------------------------


def listed(checks):
    """pytest wants a list of cases where both libraries give it a generator."""
    names, cases = checks.args
    return pytest.mark.parametrize(names, list(cases), **checks.kwargs)


@listed(parametrize_with_checks(FEATURES, expected_failed_checks=_get_expected_failed_checks))
def test_the_checks_of_imbalanced_learn(estimator, check):
    check(estimator)


@listed(parametrize_with_sklearns_checks(FEATURES, expected_failed_checks=_get_expected_failed_checks))
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@everyone
def test_bad_parameters_are_refused_by_name(sampler):
    check_param_validation(type(sampler).__name__, sampler)


@features
def test_columns_of_a_frame_are_known_by_name(sampler):
    check_dataframe_column_names_consistency(type(sampler).__name__, sampler)


# --- what comes back ---------------------------------------------------------------------------------------------


@everyone
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_rows_come_first_and_untouched(sampler, dtype):
    X, y = data_for(sampler, dtype=dtype)
    before = X.copy()
    X_made, y_made = clone(sampler).fit_resample(X, y)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(X_made[: len(X)], X)
    np.testing.assert_array_equal(y_made[: len(y)], y)
    assert X_made.dtype == dtype
    assert len(X_made) > len(X)
    assert np.isfinite(X_made).all()


@features
@pytest.mark.parametrize(
    ("strategy", "counts"),
    [
        ("auto", (40, 40, 40)),
        ("not majority", (40, 40, 40)),
        ("minority", (40, 12, 40)),
        ("not minority", (40, 40, 5)),
        ("all", (40, 40, 40)),
        ({2: 7}, (40, 12, 7)),
        (OrderedDict({0: 41, 1: 12}), (41, 12, 5)),
        (lambda y: {1: 13}, (40, 13, 5)),
    ],
)
def test_every_strategy_is_met_exactly(sampler, strategy, counts):
    X, y = rows()
    _, y_made = clone(sampler).set_params(sampling_strategy=strategy).fit_resample(X, y)
    assert np.bincount(y_made).tolist() == list(counts)


def test_a_ratio_for_two_classes():
    X, y = rows((40, 5))
    _, y_made = TranslationSampler(sampling_strategy=0.5).fit_resample(X, y)
    assert np.bincount(y_made).tolist() == [40, 20]


@everyone
def test_a_seed_decides_everything(sampler):
    X, y = data_for(sampler)

    def made(random_state):
        return clone(sampler).set_params(random_state=random_state).fit_resample(X, y)[0][len(X) :]

    state = np.random.RandomState(1)
    first, then = made(state), made(state)
    np.testing.assert_array_equal(first, made(1))
    assert not np.array_equal(first, then)
    assert not np.array_equal(first, made(None))


@features
def test_labels_may_be_words(sampler):
    X, y = rows()
    names = np.array(["mouse", "ant", "cat"])  # their order is not that of the numbers
    X_made, y_made = clone(sampler).fit_resample(X, names[y])
    assert Counter(y_made.tolist()) == {"mouse": 40, "ant": 40, "cat": 40}
    assert y_made.dtype == names.dtype
    if sampler is TRANSLATION:  # its classes have the means they had
        for label, name in enumerate(names):
            np.testing.assert_allclose(X_made[y_made == name].mean(), 5 * label, atol=1)


@features
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array])
def test_sparse_rows_come_back_as_they_came(sampler, kind):
    X, y = rows()
    X[X < 1] = 0
    made, _ = clone(sampler).fit_resample(kind(X), y)
    assert type(made) is kind
    assert made.dtype == X.dtype
    np.testing.assert_array_equal(made.toarray(), clone(sampler).fit_resample(X, y)[0])


def test_whole_numbers_are_rounded_not_cut():
    X, y = rows((30, 5))
    whole = np.rint(X * 10).astype(np.int64)
    made, _ = TRANSLATION.fit_resample(whole, y)
    as_floats, _ = TRANSLATION.fit_resample(whole.astype(np.float64), y)
    assert made.dtype == np.int64
    np.testing.assert_array_equal(made, np.rint(as_floats))


@everyone
def test_nothing_is_said_and_nothing_is_left(sampler, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - nobody's, and left alone
    clone(sampler).fit_resample(*data_for(sampler))
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# --- the parts behind it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "start"),
    [
        (TRANSLATION, "larger"),
        (DIFFUSION, None),
        (TRANSLATED, "larger"),
        (MIXTURE, "own"),
        (MOVED, "larger"),
        (clone(MIXTURE).set_params(start="component"), None),
        (PIXELS, None),
    ],
    ids=str,
)
def test_samples_know_the_row_they_started_from(sampler, start):
    X, y = data_for(sampler)
    sampler = clone(sampler)
    _, y_made = sampler.fit_resample(X, y)
    old, new = np.split(sampler.source_indices_, [len(X)])
    np.testing.assert_array_equal(old, np.arange(len(X)))
    assert len(new) == len(y_made) - len(y)
    counts, wanted = np.bincount(y), y_made[len(y) :]
    if start is None:
        assert (new == -1).all()
    elif start == "own":
        np.testing.assert_array_equal(y[new], wanted)
    else:
        assert (counts[y[new]] > counts[wanted]).all()


@pytest.mark.parametrize(
    "sampler",
    [
        TRANSLATION,
        clone(DIFFUSION).set_params(fit_steps=40, sampling_steps=10),
        clone(TRANSLATED).set_params(fit_steps=40, sampling_steps=10, balance=0.0),
        clone(MIXTURE).set_params(fit_steps=200),
        clone(MOVED).set_params(fit_steps=200),
    ],
    ids=str,
)
def test_samples_are_of_the_class_asked_for(sampler):
    X, y = rows((60, 30, 12))
    made, y_made = clone(sampler).fit_resample(X, y)
    means = np.stack([X[y == label].mean(0) for label in range(3)])
    nearest = np.linalg.norm(made[len(X) :, None] - means, axis=2).argmin(1)
    assert (nearest == y_made[len(X) :]).mean() > 0.9


def test_translation_keeps_what_a_row_has_of_its_own():
    X, y = rows(dtype=np.float64)
    sampler = TranslationSampler(random_state=0, energy=None)
    made, y_made = sampler.fit_resample(X, y)
    means = np.stack([X[y == label].mean(0) for label in range(3)])
    source = sampler.source_indices_[len(y) :]
    np.testing.assert_allclose(
        made[len(y) :], X[source] - means[y[source]] + means[y_made[len(y) :]], rtol=1e-5, atol=1e-5
    )


def test_neighbours_are_those_asked_for():
    X, y = rows((40, 30, 20, 5))  # class means lie in a line
    sources = {}
    for neighbours in (1, None):
        sampler = TranslationSampler(sampling_strategy="minority", random_state=0, neighbours=neighbours)
        sampler.fit_resample(X, y)
        sources[neighbours] = set(y[sampler.source_indices_[len(y) :]].tolist())
    assert sources == {1: {2}, None: {0, 1, 2}}


@pytest.mark.parametrize("sampler", [*FEATURES, MOVED], ids=str)
def test_samples_are_those_of_the_generator_itself(sampler, tmp_path):
    """Fitted and asked once more by hand, one row at a time instead of in batches."""
    X, y = rows()
    fitted = []

    class Watched(type(sampler)):
        def _generator(self):
            generator = super()._generator()

            class Spy:
                def __getattr__(self, name):
                    return getattr(generator, name)

                def fit(self, lesson, out, seed):
                    fitted.append((generator, lesson, seed))
                    generator.fit(lesson, out, seed)

                def load(self, out, ctx):
                    asked = generator.load(out, ctx)
                    return lambda batch: fitted.append(batch) or asked(batch)

            return Spy()

    made, _ = Watched(**sampler.get_params()).fit_resample(X, y)
    (generator, lesson, seed), plan = fitted
    assert isinstance(lesson, Lesson)
    generator.fit(lesson, tmp_path, seed)
    sample = generator.load(tmp_path, Context(lambda ids: X[np.array(ids, int)]))
    again = np.stack([sample([row])[0] for row in plan])
    if generator.own_space:
        again = generator.decoder(tmp_path)(again)
    np.testing.assert_allclose(made[len(X) :], again, rtol=1e-4, atol=1e-4)


# --- in company --------------------------------------------------------------------------------------------------


@features
def test_in_a_pipeline_and_a_grid(sampler):
    X, y = make_classification(120, weights=[0.8], random_state=0)
    pipeline = Pipeline([("sampler", sampler), ("classifier", LogisticRegression(max_iter=500))])
    grid = GridSearchCV(pipeline, {"sampler__sampling_strategy": ["auto", 0.6]}, cv=2, error_score="raise")
    grid.fit(X, y)
    assert grid.predict(X).shape == y.shape
    assert grid.best_params_["sampler__sampling_strategy"] in ("auto", 0.6)


def test_pictures_in_a_pipeline_and_a_grid():
    X, y = pictures((20, 8))
    flatten = FunctionTransformer(lambda x: x.reshape(len(x), -1) / 255)
    pipeline = Pipeline([("sampler", PIXELS), ("flat", flatten), ("classifier", LogisticRegression())])
    grid = GridSearchCV(pipeline, {"sampler__fit_steps": [1, 2]}, cv=2, error_score="raise").fit(X, y)
    assert grid.predict(X).shape == y.shape


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_pictures_come_back_as_they_came(channels, dtype):
    X, y = pictures(channels=channels, dtype=dtype)
    sampler = clone(PIXELS)
    made, y_made = sampler.fit_resample(X, y)
    assert np.bincount(y_made).tolist() == [20, 20]
    assert made.shape == (40, *X.shape[1:])
    assert made.dtype == X.dtype
    assert made.max() <= (255 if dtype == np.uint8 else 1)
    np.testing.assert_array_equal(made[: len(X)], X)
    assert (sampler.source_indices_[len(X) :] == -1).all()


def test_bytes_and_floats_are_the_same_pictures():
    X, y = pictures()
    as_bytes, _ = PIXELS.fit_resample(X, y)
    as_floats, _ = PIXELS.fit_resample((X / 255).astype(np.float32), y)
    np.testing.assert_array_equal(as_bytes, np.rint(as_floats * 255))


@pytest.mark.parametrize(
    ("X", "said"),
    [
        (np.zeros((4, 64)), "reshape"),
        (np.zeros((4, 8, 9)), "square"),
        (np.full((4, 8, 8), 16.0), "divide"),
        (np.zeros((4, 8, 8), np.int64), "bytes or floats"),
        (np.zeros((4, 4, 4)), "8 to 64"),
    ],
)
def test_what_is_no_picture_is_refused(X, said):
    with pytest.raises(Refusal, match=said):
        PIXELS.fit_resample(X, [0, 0, 0, 1])


# --- bad input ---------------------------------------------------------------------------------------------------


@everyone
def test_a_class_with_one_example(sampler):
    X, y = data_for(sampler, counts=(12, 4, 1))
    made, y_made = clone(sampler).fit_resample(X, y)
    assert np.bincount(y_made).tolist() == [12, 12, 12]
    assert np.isfinite(made).all()


@features
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_features_stay_constant(sampler, dtype):
    X, y = rows(dtype=dtype)
    X[:, 2], X[:, 4] = 0.1, 0
    made, _ = clone(sampler).fit_resample(X, y)
    assert (made[:, 2] == X[0, 2]).all(), "to the last bit, or a classifier knows the samples by it"
    assert (made[:, 4] == 0).all()
    assert np.isfinite(made).all()
    assert len(np.unique(made[len(X) :, 3])) > 1


@everyone
def test_rows_without_any_variance(sampler):
    X, y = data_for(sampler)
    X[:] = X[0]
    made, y_made = clone(sampler).fit_resample(X, y)
    assert len(set(np.bincount(y_made))) == 1
    assert (made == X[0]).all()


@everyone
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_in_the_usual_words(sampler, value):
    X, y = data_for(sampler, dtype=np.float32)
    X[3, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clone(sampler).fit_resample(X, y)


@everyone
def test_as_many_classes_as_rows_change_nothing(sampler):
    X, y = data_for(sampler, counts=(1,) * 9)
    made, y_made = clone(sampler).fit_resample(X, y)
    np.testing.assert_array_equal(made, X)
    np.testing.assert_array_equal(y_made, y)


@everyone
def test_nearly_as_many_classes_as_rows(sampler):
    X, y = data_for(sampler, counts=(2,) + (1,) * 9)
    made, y_made = clone(sampler).fit_resample(X, y)
    assert np.bincount(y_made).tolist() == [2] * 10
    assert np.isfinite(made).all()


@everyone
def test_equal_classes_change_nothing_and_teach_nothing(sampler, monkeypatch):
    def fit(*_):
        raise AssertionError("there is nothing to make")

    monkeypatch.setattr(type(clone(sampler)._generator()), "fit", fit)
    X, y = data_for(sampler, counts=(7, 7, 7))
    made, y_made = clone(sampler).fit_resample(X, y)
    np.testing.assert_array_equal(made, X)
    np.testing.assert_array_equal(y_made, y)
    made[0] = 0
    assert X[0].any(), "what came back is a copy"


@everyone
def test_fewer_than_there_are_is_refused_in_the_usual_words(sampler):
    X, y = data_for(sampler)
    with pytest.raises(ValueError, match="Originally, there is"):
        clone(sampler).set_params(sampling_strategy={0: 3}).fit_resample(X, y)


@everyone
def test_one_class_is_refused_in_the_usual_words(sampler):
    X, y = data_for(sampler, counts=(12,))
    with pytest.raises(ValueError, match="more than 1 class"):
        clone(sampler).fit_resample(X, y)


# --- size --------------------------------------------------------------------------------------------------------

LARGE = """
import resource
import numpy as np
from counterpoise.sklearn import FeatureDiffusionSampler, LatentMixtureSampler, TranslationSampler

rng = np.random.default_rng(0)
X = rng.standard_normal((100_000, 2_048), dtype=np.float32)
y = np.minimum(np.arange(len(X)) // 10_400, 9)  # 6,400 are left for the last class
made, labels = {sampler}.fit_resample(X, y)
assert np.isfinite(made[len(X) :]).all()
print(len(made) - len(X), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        "TranslationSampler(sampling_strategy='minority', random_state=0)",
        "FeatureDiffusionSampler(sampling_strategy='minority', random_state=0, fit_steps=5)",
        "FeatureDiffusionSampler(sampling_strategy='minority', random_state=0, fit_steps=5, strength=0.5)",
        "LatentMixtureSampler(sampling_strategy='minority', random_state=0, fit_steps=5)",
    ],
)
def test_a_hundred_thousand_rows_of_2048_within_4_gib(sampler):
    done = subprocess.run(
        [sys.executable, "-c", LARGE.format(sampler=sampler)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    samples, gib = done.stdout.split()
    assert int(samples) == 4_000
    assert float(gib) < 4


def test_columns_far_from_zero_keep_what_varies():
    """As years, ids or times do: in float32 around 1.7e9 there are steps of 128."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [60, 12])
    X = 1.7e9 + rng.normal(size=(72, 3)) * 10 + 5 * y[:, None]
    made, _ = TranslationSampler(energy=None, random_state=0).fit_resample(X, y)
    assert made.dtype == np.float64
    new = made[72:]
    assert np.array_equal(made[:72], X)
    np.testing.assert_allclose(new.mean(0), X[y == 1].mean(0), atol=5)
    assert (new.std(0) > 5).all()
