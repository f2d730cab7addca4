"""A few pictures of each class, and more drawn from them: the twin of the recipe, end to end."""

import numpy as np
import pytest
from studies import fill

from counterpoise import Data, Holdout, Trials, open_source, run
from counterpoise.data.cuts import FewShot
from counterpoise.data.folders import Loose
from counterpoise.data.pooled import WithPool
from counterpoise.recipes.real_guided import real_guided
from counterpoise.study import Study

pytest.importorskip("transformers", reason="the hf extra is not installed")
pytest.importorskip("diffusers", reason="the generative extra is not installed")

CLASSES = {"dolphin": 14, "rose": 12, "wolf": 10}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    fill(root / "photos", CLASSES, size=32)
    fill(root / "unsorted", {"some": 9}, size=32)
    source = WithPool(open_source(str(root / "photos")), Loose(str(root / "unsorted")))
    data = Data(source, size=32, cut=FewShot(2), holdout=Holdout(val=2, test=3))
    ways = ("real_guided", "text_only", "learnt")
    recipe = real_guided(
        data,
        Trials(2),
        base="miniature",
        accept="apart",
        ways=ways,
        orders=("mix", "real_first"),
        fit_steps=2,
        smoke=True,
    )
    return run(recipe, root / "run")


def plan_of(study, name):
    (lot,) = [lot for lot in study.first_lots() if lot.synthesis == name]
    return study.run.table(lot.plan).to_pylist()


def test_guided_samples_start_from_their_own_class_at_one_noise(made):
    """Two pictures of each class: 2.6 dB, whatever the schedule."""
    study = Study.open(made.path)
    plan, generator = plan_of(study, "real_guided"), study.synthesis("real_guided").generator
    assert all(row["source_label"] == row["label"] for row in plan)
    np.testing.assert_allclose([row["strength"] for row in plan], generator.strength_at(2.6), atol=1e-6)
    assert {row["source_id"] for row in plan_of(study, "text_only")} == {None}


def test_every_opponent_is_there_and_every_order(made):
    study = Study.open(made.path)
    roles = {arm.name: arm.role for arm in study.recipe.arms}
    assert {"zero_shot", "tuned", "ncm", "balanced_softmax"} <= {
        n for n, role in roles.items() if role == "baseline"
    }
    assert {"augmented", "rand_augmented", "retrieved", "retrieved_alike"} == {
        n for n, role in roles.items() if role == "control"
    }
    candidates = {"real_guided", "text_only", "learnt"}
    assert candidates | {f"{name}_real_first" for name in candidates} == {
        n for n, r in roles.items() if r == "candidate"
    }
    chosen = made.json("metrics.json")["arms"]
    assert {"lr", "weight_decay", "weights", "alpha"} <= set(chosen["real_guided"]["chosen"][0])
    assert {"lr", "weight_decay", "alpha"} <= set(chosen["tuned"]["chosen"][0])


def test_the_real_only_arm_tries_as_many_settings(made):
    study = Study.open(made.path)
    settings = {}
    for name in ("tuned", "real_guided"):
        tuning = study.recipe.fit(name).tuning
        settings[name] = len(tuning.rates) * len(tuning.decays) * len(tuning.weights)
    assert settings["tuned"] == settings["real_guided"]


def test_of_the_pool_real_pictures_are_found_and_none_twice(made):
    study = Study.open(made.path)
    (lot,) = [lot for lot in study.first_lots() if lot.synthesis == "retrieved"]
    kept, _ = study.kept_of(lot)
    pool = {row.tobytes() for row in np.asarray(study.pixels("pool"))}
    assert 0 < len(kept) <= 9
    assert len({row.tobytes() for row in kept}) == len(kept)
    assert {row.tobytes() for row in kept} <= pool
