"""Trials are paired: the arms of one trial differ in what the arm is, and in nothing else."""

import numpy as np
import torch

from counterpoise.pupils import Pupil
from counterpoise.study import Study
from counterpoise.trialfiles import TrialFile, build_network, file_of


def test_arms_of_a_trial_share_initialisation_order_and_split(finished):
    study = Study.open(finished.path)
    ce, bs, copies = (study.recipe.fit(name) for name in ("ce", "balanced_softmax", "copies"))
    nets = [build_network(study, fit, study.seed("trial", 1)) for fit in (ce, bs, copies)]
    for net in nets[1:]:
        assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), net.parameters(), strict=True))
    one, two = Pupil.of(study, ce, 1), Pupil.of(study, bs, 1)
    assert np.array_equal(one.stream(5, 8, 3), two.stream(5, 8, 3))
    assert np.array_equal(Pupil.of(study, copies, 1).rows.order[: len(one.labels)], one.rows.order)


def test_arms_that_share_a_fit_share_its_network_and_differ_in_the_head(finished):
    study = Study.open(finished.path)
    plain, crt = file_of(study, "ce", 0), file_of(study, "crt", 0)
    assert plain.unit == crt.unit
    assert not np.array_equal(plain.head(0, "ce").weight, crt.head(0, "crt").weight)
    assert plain.notes["seconds"] > 0
    assert {"0/logit_adjustment", "0/tau_norm"} <= set(plain.notes["chosen"])


def test_synthetic_rows_stand_behind_real_ones_and_are_marked(finished):
    study = Study.open(finished.path)
    pupil = Pupil.of(study, study.recipe.fit("smote"), 0)
    real = len(study.draw_rows(0))
    assert not pupil.synthetic[:real].any()
    assert pupil.synthetic[real:].all()
    kept, selection = study.kept(study.lots()[-2] if study.lots()[-1].draw else study.lots()[-1])
    assert len(kept) == selection.num_rows


def test_stored_logits_are_those_of_the_stored_network(finished):
    study = Study.open(finished.path)
    from counterpoise.classifiers.training import features_of
    from counterpoise.data.pixels import Rows

    unit = study.trial_units(study.recipe.fit("ldam_drw"))[0]
    file = TrialFile(study.run, unit)
    features = features_of(file.network(study, 0), Rows.of(study.vectors("val"))).numpy()
    assert np.allclose(file.head(0, "ldam_drw").logits(features), file.val_logits(0, "ldam_drw"), atol=1e-3)
