import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from counterpoise.diffusion.criteria import Entropy, Hardness, Loss, Margin
from counterpoise.scores.batch import Batch
from counterpoise.scores.feedback import Fidelity, Usefulness
from counterpoise.types import Refusal, describe, load

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(40, 6)).astype(np.float32), RNG.integers(0, 4, 40)
EYES = {name: RNG.normal(size=(6, 4 + 5)).astype(np.float32) for name in ("teacher", "judge")}


def says(name, x):
    """A linear classifier of four classes with five features."""
    seen = x @ EYES[name]
    return 3 * seen[:, :4], seen[:, 4:]


def batch(x=X, labels=LABELS, who=("teacher", "judge")):
    real = X[:3]
    heard = {name: lambda name=name: says(name, x) for name in who}
    return Batch(x, labels, real, np.array(["a", "b", "c"]), np.zeros(3, int), **heard)


def value(score, **given):
    return score(batch(**given), score.calibrate(X))[0]


def test_usefulness_is_what_the_teacher_says_in_the_units_of_its_criterion():
    logits, features = says("teacher", X)
    log = log_softmax(logits.astype(float), axis=1)
    assert value(Usefulness(Entropy())) == pytest.approx(entropy(np.exp(log), axis=1), abs=1e-5)
    assert value(Usefulness(Loss())) == pytest.approx(-log[np.arange(40), LABELS], rel=1e-4, abs=1e-5)
    assert value(Usefulness(Loss(cap=2.0))).max() == 2
    assert value(Usefulness(Hardness())) == pytest.approx((features**2).sum(1) / 2, rel=1e-5)
    assert value(Usefulness(Margin())).min() >= -1


def test_fidelity_is_the_judges_log_probability_of_the_class_asked_for():
    log = log_softmax(says("judge", X)[0].astype(float), axis=1)
    assert value(Fidelity()) == pytest.approx(log[np.arange(40), LABELS], rel=1e-4, abs=1e-5)
    assert value(Fidelity(), labels=log.argmax(1)).mean() > value(Fidelity()).mean()


@pytest.mark.parametrize(
    "score", [Usefulness(), Usefulness(Loss()), Usefulness(Hardness()), Fidelity()], ids=repr
)
def test_a_sample_is_scored_alike_in_any_company_and_next_to_no_real_row(score):
    whole, nearest = score(batch(), 0.0)
    alone = np.concatenate([value(score, x=X[i : i + 3], labels=LABELS[i : i + 3]) for i in range(0, 40, 3)])
    assert np.allclose(whole, alone, atol=1e-5)
    assert whole.shape == nearest.shape == (40,)
    assert set(nearest) == {""}
    assert load(describe(score)) == score


def test_each_score_asks_its_own_classifier_and_says_whom_it_lacks():
    assert np.array_equal(value(Usefulness(), who=("teacher",)), value(Usefulness()))
    assert np.array_equal(value(Fidelity(), who=("judge",)), value(Fidelity()))
    with pytest.raises(Refusal, match=r"Usefulness asks a teacher.*tutor"):
        value(Usefulness(), who=("judge",))
    with pytest.raises(Refusal, match=r"Fidelity asks a judge.*tutor"):
        value(Fidelity(), who=("teacher",))
