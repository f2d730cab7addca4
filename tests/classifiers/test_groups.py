"""DFR on a planted shortcut: an easy feature that agrees with the label in most rows."""

import numpy as np
import pytest

from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.decoupling import Rows
from counterpoise.classifiers.groups import DFR, balanced_subset, cells, worst_cell
from counterpoise.classifiers.heads import train_heads
from counterpoise.classifiers.losses import CE
from counterpoise.types import Refusal

FIELDS = ("features", "labels", "groups")


def shortcut(rows: int, against: float, seed: int, classes: int = 2) -> Rows:
    """Group 1 has the easy feature of another class; `against` is its share."""
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, classes, rows), (rng.random(rows) < against).astype(np.int64)
    easy, hard = np.eye(classes)[(labels + groups) % classes] * 4, np.eye(classes)[labels] * 2.5
    noise = rng.normal(size=(rows, 2 * classes + 4))
    noise[:, :classes] += easy
    noise[:, classes : 2 * classes] += hard
    return Rows((5 + 2 * noise).astype(np.float32), labels, groups)


@pytest.fixture(scope="module", params=[2, 3])
def study(request):
    classes = request.param
    fit, val, test = (
        shortcut(n, p, s, classes) for n, p, s in ((1500, 0.04, 0), (300, 0.3, 1), (2000, 0.5, 2))
    )
    stream = np.random.default_rng(0).integers(0, 1500, (300, 64))
    prior = np.bincount(fit.labels, minlength=classes)
    (erm,) = train_heads(fit.features, [HeadJob(stream, fit.labels, CE(), prior, 0)])
    return erm, fit, val, test, prior


def worst(head, rows):
    return worst_cell(head.logits(rows.features).argmax(1) == rows.labels, cells(rows))


@pytest.mark.parametrize("on", ["val", "train"])
def test_dfr_beats_erm_in_the_worst_group(study, on):
    erm, fit, val, test, prior = study
    head, chosen = DFR(on=on)(erm, fit, val, prior, 0)
    assert worst(head, test) > worst(erm, test) + 0.1
    assert chosen["C"] in DFR().grid
    again, _ = DFR(on=on)(erm, fit, val, prior, 0)
    assert (again.weight == head.weight).all()
    assert head.weight.shape == erm.weight.shape
    weight, bias = head.plain()
    np.testing.assert_allclose(test.features @ weight.T + bias, head.logits(test.features), atol=1e-3)


def test_a_balanced_subset_has_equal_cells():
    rows = shortcut(500, 0.1, 0)
    cell = cells(rows)
    picked = balanced_subset(cell, np.random.default_rng(0))
    sizes = np.bincount(cell[picked])
    assert (sizes == np.bincount(cell).min()).all()
    assert len(np.unique(picked)) == len(picked)


def test_what_dfr_refuses(study):
    erm, fit, val, _, prior = study
    with pytest.raises(Refusal, match="group column"):
        DFR()(erm, fit, Rows(val.features, val.labels), prior, 0)
    lonely = val.groups.copy()
    lonely[0] = 9
    with pytest.raises(Refusal, match="has 1 row"):
        DFR()(erm, fit, Rows(val.features, val.labels, lonely), prior, 0)


def test_rows_without_a_group_are_left_out(study):
    erm, fit, val, _, prior = study
    strangers = Rows(np.full((3, val.features.shape[1]), 99, np.float32), val.labels[:3], np.full(3, -1))
    more = Rows(*(np.concatenate([getattr(of, name) for of in (val, strangers)]) for name in FIELDS))
    few = DFR(grid=(0.1,), refits=2)
    head, _ = few(erm, fit, val, prior, 0)
    again, _ = few(erm, fit, more, prior, 0)
    np.testing.assert_array_equal(head.weight, again.weight)
    with pytest.raises(Refusal, match="balances groups"):
        few(erm, fit, strangers, prior, 0)
