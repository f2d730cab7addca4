"""Several classifiers as one teacher, and the Gaussian judge of features."""

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.tutor import Cloud, Ensemble, Member

RNG = np.random.default_rng(0)
LABELS = np.arange(3000) % 3
ROWS = (
    RNG.normal(size=(3000, 4)) @ (np.eye(4) + RNG.uniform(-0.3, 0.3, (4, 4))) + 3 * np.eye(4)[LABELS]
).astype(np.float32)
CLOUD = Cloud.of(ROWS, LABELS, 4)  # of the fourth class there is no row


def heads(n):
    return [
        LinearHead.on_raw(*(RNG.normal(size=s).astype(np.float32) for s in ((4, 4), (4,)))) for _ in range(n)
    ]


def test_whitened_residuals_have_unit_covariance_whatever_the_class():
    teacher = Ensemble([Member(torch.Tensor.float, heads(1)[0], 1.0, CLOUD)], torch.device("cpu"))
    _, features = teacher(torch.from_numpy(ROWS), torch.from_numpy(LABELS))
    assert np.allclose(np.cov(features.numpy().T), np.eye(4), atol=0.1)
    assert np.allclose(features.numpy().mean(0), 0, atol=1e-4)


def test_an_ensemble_says_the_mean_of_its_calibrated_probabilities():
    two, temperatures = heads(2), (0.5, 2.0)
    members = [Member(torch.Tensor.float, head, t, CLOUD) for head, t in zip(two, temperatures, strict=True)]
    said, features = Ensemble(members, torch.device("cpu"))(torch.from_numpy(ROWS), torch.from_numpy(LABELS))
    alone = [softmax(head.logits(ROWS) / t, 1) for head, t in zip(two, temperatures, strict=True)]
    assert np.allclose(np.exp(said.numpy()), np.mean(alone, 0), atol=1e-5)
    one = Ensemble(members[:1], torch.device("cpu"))(torch.from_numpy(ROWS), torch.from_numpy(LABELS))
    assert torch.allclose(features.square().sum(1), one[1].square().sum(1), rtol=1e-4)  # not twice as far out


def test_features_that_nobody_looks_at_are_not_computed_and_a_cosine_head_is_heard_as_well():
    cosine = LinearHead(
        heads(1)[0].weight, np.zeros(4, np.float32), ROWS.mean(0), ROWS.std(0), normalise=True
    )
    said, features = Ensemble([Member(torch.Tensor.float, cosine, 2.0, CLOUD)], torch.device("cpu"))(
        torch.from_numpy(ROWS), None
    )
    assert features.shape == (3000, 0)
    expected = log_softmax(cosine.logits(ROWS) / 2.0, 1)
    assert np.allclose(said.log_softmax(1).numpy(), expected, atol=1e-5)


def test_the_judge_never_names_a_class_that_it_has_not_seen():
    judge = CLOUD.classifier(np.bincount(LABELS, minlength=4) > 0)
    said = softmax(judge.logits(ROWS).astype(np.float64) / 20, 1)
    assert said[:, 3].max() < 1e-6
    assert (judge.logits(ROWS).argmax(1) == LABELS).mean() > 0.7
