"""Retrieval from the pool: which pictures, in which order, none twice, through shards, rounds, groups and features."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import ASSETS, saved_pair
from PIL import Image
from studies import fill, photo, small

from counterpoise import Refusal, parse_cut, run
from counterpoise.classifiers.mixing import Concatenate
from counterpoise.data.pixels import Rows
from counterpoise.data.pooled import WithPool, open_pool
from counterpoise.estimate import estimate
from counterpoise.gathering import samples_in
from counterpoise.generators import retrieval
from counterpoise.generators.generator import Context, Failed, Lesson
from counterpoise.generators.retrieval import Retrieved
from counterpoise.lots import Lot
from counterpoise.nets.backbones import Backbone
from counterpoise.nets.clip import open_clip_pair
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import FromNoise
from counterpoise.proposals.quotas import Quota
from counterpoise.recipe import Arm, Fit, Synthesis
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast
from counterpoise.study import Study
from counterpoise.types import describe, load

pytest.importorskip("transformers", reason="the hf extra is not installed")
RNG = np.random.default_rng(0)
POOL = RNG.integers(0, 256, (40, 16, 16, 3), np.uint8)
REAL, LABELS = RNG.integers(0, 256, (6, 16, 16, 3), np.uint8), np.arange(6) % 3
NAMES = ["oak_tree", "rose", "pickup_truck"]
CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar100"


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory) -> str:
    return str(saved_pair(tmp_path_factory.mktemp("pair") / "clip"))


def lesson(pool=POOL, real=REAL, labels=LABELS, names=NAMES) -> Lesson:
    return Lesson(Rows.of(real), labels, None, names, None if pool is None else Rows.of(pool))


def listed(generator: Retrieved, out: Path, pool=POOL, **given) -> list[list[int]]:
    """Places in the pool by class, as the sampler hands them out."""
    given = lesson(pool, **given)
    generator.fit(given, out, seed=1)
    place = {picture.tobytes(): at for at, picture in reversed(list(enumerate(pool)))}
    sample = generator.load(out, Context(_nothing, pool=given.pool))
    found = []
    for label in range(len(given.classes)):
        answers = sample([{"label": label, "ordinal": n} for n in range(len(pool) + 1)])
        made = [place[one.tobytes()] for one in answers if not isinstance(one, Failed)]
        assert [isinstance(one, Failed) for one in answers] == [n >= len(made) for n in range(len(pool) + 1)]
        found.append(made)
    return found


def _nothing(ids):
    raise AssertionError("it asks for no training rows")


def by_hand(model: str, pool=POOL, weight=0.0) -> list[list[int]]:
    pair = open_clip_pair(model)
    names = pair.texts(["a photo of an oak tree", "a photo of a rose", "a photo of a pickup truck"]).double()
    x, real = pair.pictures(pool).double(), pair.pictures(REAL).double()
    means = torch.stack([real[label == LABELS].mean(0) for label in range(3)])
    means = means / means.norm(dim=1, keepdim=True)
    cosines = (1 - weight) * x @ names.T + weight * x @ means.T
    p = torch.softmax(pair.scale * cosines, 1).numpy()
    order = np.argsort(-p.max(1), kind="stable")
    return [[at for at in order.tolist() if p[at].argmax() == label] for label in range(3)]


# --- the order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_pictures", [False, True])
def test_each_picture_is_of_the_class_it_resembles_most_and_the_surest_come_first(
    model, tmp_path, by_pictures
):
    found = listed(Retrieved(model, by_pictures=by_pictures), tmp_path)
    assert found == by_hand(model, weight=0.5 * by_pictures)
    assert sorted(chain(*found)) == list(range(40))
    assert sum(map(bool, found)) > 1, "else there is no order to be seen"


def test_names_and_pictures_are_two_orders(model):
    assert by_hand(model) != by_hand(model, weight=0.5)


def test_names_alone_count_where_a_class_has_no_picture(model, tmp_path):
    some = LABELS > 0
    given = {"real": REAL[some], "labels": LABELS[some]}
    found = listed(Retrieved(model, by_pictures=True), tmp_path, **given)
    assert found == by_hand(model)
    none = {"real": REAL[:0], "labels": LABELS[:0]}
    assert listed(Retrieved(model, by_pictures=True), tmp_path / "none", **none) == by_hand(model)


def test_copies_come_once_and_real_ones_not_at_all(model, tmp_path):
    pool = np.concatenate([POOL[:10], POOL[4:8], REAL[1:3], POOL[10:12]])
    found = listed(Retrieved(model), tmp_path, pool)
    assert sorted(chain(*found)) == [*range(10), 16, 17]


def test_no_more_of_the_pool_is_open_than_a_batch_and_how_much_does_not_matter(model, tmp_path, monkeypatch):
    whole, asked = listed(Retrieved(model), tmp_path / "whole"), []
    monkeypatch.setattr(retrieval, "OPEN_AT_ONCE", 7)

    class Watched(Rows):
        def raw(self, picked):
            asked.append(len(picked))
            return super().raw(picked)

    shares: list[float] = []
    given = replace(lesson(), pool=Watched.of(POOL), hear=shares.append)
    Retrieved(model).fit(given, tmp_path / "parts", seed=1)
    assert asked == [40, 7, 7, 7, 7, 7, 5], (
        "the first are those that tell one lesson from another, 64 at most"
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert listed(Retrieved(model), tmp_path / "parts") == whole


def test_what_a_machine_has_seen_it_does_not_look_at_again(model, tmp_path, monkeypatch):
    pool = RNG.integers(0, 256, (9, 16, 16, 3), np.uint8)
    first = listed(Retrieved(model), tmp_path / "one", pool)

    def looked(net, pixels):
        assert (len(pixels), pixels.max()) == (1, 0), "only to ask how wide features are"
        return torch.zeros(1, 12)

    monkeypatch.setattr(Backbone, "forward", looked)
    assert listed(Retrieved(model), tmp_path / "two", pool) == first


def test_grey_pictures_have_an_order_as_well(model, tmp_path):
    found = listed(Retrieved(model), tmp_path, POOL[..., :1], real=REAL[..., :1])
    assert sorted(chain(*found)) == list(range(40))


# --- as a generator ------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_row_alone(model, tmp_path):
    given = lesson()
    Retrieved(model).fit(given, tmp_path, seed=1)
    sample = Retrieved(model).load(tmp_path, Context(_nothing, pool=given.pool))
    label = int(np.argmax([len(mine) for mine in by_hand(model)]))
    rows = [{"label": label, "ordinal": n, "seed": n} for n in range(5)]
    first, again = sample(rows), sample([row | {"seed": 9} for row in rows[::-1]])
    assert np.array_equal(np.stack(first), np.stack(again[::-1]))
    assert first[0].dtype == np.uint8
    assert load(json.loads(json.dumps(describe(Retrieved(model))))) == Retrieved(model)


def test_an_exhausted_class_says_how_many_there_were(model, tmp_path):
    given = lesson()
    Retrieved(model).fit(given, tmp_path, seed=1)
    (found,) = Retrieved(model).load(tmp_path, Context(_nothing, pool=given.pool))(
        [{"label": 0, "ordinal": 40}]
    )
    assert str(found) == f"the pool holds {len(by_hand(model)[0])} pictures like an oak tree"


def test_a_finished_fit_is_left_alone_and_another_is_refused(model, tmp_path):
    Retrieved(model).fit(lesson(), tmp_path, seed=1)
    before = (tmp_path / "weights.safetensors").read_bytes()
    Retrieved(model).fit(lesson(), tmp_path, seed=2)
    assert (tmp_path / "weights.safetensors").read_bytes() == before
    others = [
        (Retrieved(model, by_pictures=True), lesson()),
        (Retrieved(model, template="{name}"), lesson()),
        (Retrieved(model), lesson(POOL[:39])),
        (Retrieved(model), lesson(names=["a", "b", "c"])),
        (Retrieved(str(saved_pair(tmp_path / "other", seed=1))), lesson()),
    ]
    for generator, other in others:
        with pytest.raises(Refusal, match="--redo fit"):
            generator.fit(other, tmp_path, seed=1)


def test_what_cannot_be_is_refused_with_what_to_do(model, tmp_path):
    with pytest.raises(Refusal, match=r"--pool DIR"):
        Retrieved(model).fit(lesson(None), tmp_path, seed=1)
    with pytest.raises(Refusal, match="a template says"):
        Retrieved(model, template="a photo")
    Retrieved(model).ready(None)
    Retrieved(model).ready(NAMES)
    with pytest.raises(Refusal, match="said alike"):
        Retrieved(model).ready(["oak_tree", "oak tree"])
    with pytest.raises(Refusal):
        Retrieved(str(tmp_path / "nowhere")).ready(None)


# --- in a study ----------------------------------------------------------------------------------------------


def retrieving(data: Path, pool: Path, generator: Retrieved, budget, **changes):
    base = small(data, cut="few:2", trials=1)
    base = replace(
        base, data=replace(base.data, size=32, source=WithPool(base.data.source, open_pool(str(pool))))
    )
    plain = base.fits[0]
    made = Synthesis("retrieved", generator, budget, FromNoise(), **changes)
    fits = (plain, Fit("retrieved", plain.loss, plain.sampler, plain.augment, "retrieved", Concatenate()))
    arms = (Arm(plain.name, plain.name), Arm("retrieved", "retrieved", role="control"))
    return replace(base, fits=fits, arms=arms, synthesis=(made,), rows_per_shard=8)


@pytest.fixture(name="photos", scope="module")
def _photos(tmp_path_factory) -> tuple[Path, Path]:
    """Two classes, and a pool of 30 other pictures like theirs in folders that say something else."""
    root = tmp_path_factory.mktemp("retrieval")
    fill(root / "photos", {"apple": 14, "trout": 12}, size=32)
    for index in range(30):
        (root / "pool" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        photo(index % 2, 100 + index, 32).save(root / "pool" / str(index % 2) / f"{index}.png")
    return root / "photos", root / "pool"


def taken(study: Study) -> list[bytes]:
    """All pictures that were handed out, kept or not, in all rounds."""
    return [
        x.tobytes()
        for lot in study.lots()
        for shard in study.shards(lot)
        for x in samples_in(study.run, lot.samples(shard))[0]
    ]


needs_miniature = pytest.mark.skipif(not (ASSETS / "clip").is_dir(), reason="the miniature CLIP is not there")


@needs_miniature
def test_a_study_of_two_pictures_a_class_and_a_pool_ends_with_a_verdict(photos, tmp_path):
    recipe = retrieving(*photos, Retrieved(), Fixed(20))
    assert estimate(recipe)["samples_at_most"] == 40
    study = Study.open(run(recipe, tmp_path / "run", until="evaluate").path)
    pool = {picture.tobytes() for picture in study.pixels("pool")}
    found = taken(study)
    assert len(found) == len(set(found))
    assert set(found) <= pool
    funnel = study.run.meta(Lot("retrieved", 0).selected)["funnel"]
    missing = 40 - len(found)
    assert missing >= 10, "there are 30"
    said = {reason: times for reason, times in funnel["dropped"].items() if "the pool holds" in reason}
    assert sum(said.values()) == missing
    arms = study.run.metrics["arms"]
    assert set(arms) == {"ce", "retrieved"}
    assert study.facts["notes"] == ["pool: its 2 folders ('0', '1') are not read as labels"]


def test_later_rounds_go_on_where_the_earlier_ones_ended(photos, model, tmp_path):
    """A filter drops all, and a quota asks for more until it gives up."""
    drops = {"scores": (("nearest_real", NearestReal()),), "select": AtLeast("nearest_real", 1e9)}
    generator, quota = Retrieved(model, by_pictures=True), Quota(Fixed(4), most=3)
    study = Study.open(
        run(retrieving(*photos, generator, quota, **drops), tmp_path / "run", until="select").path
    )
    assert [study.run.meta(lot.plan)["wanted"] for lot in study.lots()] == [[4, 4], [8, 8]]
    found, pool = taken(study), study.pixels("pool")
    lists = _lists(study.run / study.generator_of(study.lots()[0]))
    assert len(found) == 24
    assert set(found) == {pool[place].tobytes() for mine in lists for place in mine[:12]}


def _lists(folder: Path) -> list[list[int]]:
    from safetensors.numpy import load_file

    found = load_file(folder / "weights.safetensors")
    ends = found["starts"].tolist()
    return [found["places"][first:end].tolist() for first, end in pairwise(ends)]


@needs_miniature
def test_classifiers_of_features_learn_from_retrieved_pictures(photos, tmp_path):
    from counterpoise.spaces.features import Frozen

    recipe = retrieving(*photos, Retrieved(), Fixed(4))
    fits = tuple(replace(fit, augment=()) for fit in recipe.fits)
    recipe = replace(recipe, network=Frozen("miniature"), fits=fits)
    study = Study.open(run(recipe, tmp_path / "run", until="train").path)
    lot = Lot("retrieved", 0)
    assert study.pictured("retrieved")
    kept, _ = study.kept(lot)
    assert kept.shape == (8, 32, 32, 3)
    # The pool's own features, as `teach` wrote them down: the pair is the backbone here.
    place = {picture.tobytes(): at for at, picture in enumerate(study.pixels("pool"))}
    rows = study.vectors("pool")[[place[picture.tobytes()] for picture in kept]]
    np.testing.assert_allclose(study.kept_vectors(lot), rows, atol=1e-4)


def test_cells_are_retrieved_by_what_they_are_called(model, tmp_path):
    root = tmp_path / "grouped"
    (root / "pool").mkdir(parents=True)
    with open(root / "list.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group"])
        for number in range(48):
            photo(number % 2, number).save(root / f"{number}.png")
            table.writerow([f"{number}.png", ["cow", "camel"][number % 2], ["grass", "sand"][number // 24]])
    for number in range(20):
        photo(number % 2, 100 + number).save(root / "pool" / f"{number}.png")
    recipe = retrieving(root / "list.csv", root / "pool", Retrieved(model), Fixed(3), by_group=True)
    cut, glossary = parse_cut("few:4"), (("cow", "cattle"),)
    recipe = replace(recipe, data=replace(recipe.data, cut=cut, glossary=glossary))
    study = Study.open(run(recipe, tmp_path / "run", until="select").path)
    lot = Lot("retrieved", 0)
    folder = study.run / study.generator_of(lot)
    told = json.loads((folder / "config.json").read_text())["classes"]
    assert told == ["camel / grass", "camel / sand", "cattle / grass", "cattle / sand"]
    lists, pool = _lists(folder), study.pixels("pool")
    plan = study.run.table(lot.plan).to_pylist()
    (shard,) = {row["shard"] for row in plan if row["shard"] == 0}
    x, ids = samples_in(study.run, lot.samples(shard))
    cell = {row["request_id"]: 2 * row["label"] + row["group"] for row in plan}
    for picture, request in zip(x, ids, strict=True):
        assert picture.tobytes() in {pool[place].tobytes() for place in lists[cell[request]][:3]}


@pytest.mark.skipif(
    not ((ASSETS / "clip").is_dir() and CIFAR.is_dir()), reason="the miniature CLIP, or CIFAR, is not there"
)
def test_what_the_miniature_retrieves_is_mostly_what_was_asked_for(tmp_path):
    """Of 300 test pictures of a hundred classes, the best of each: by chance one in a hundred is right."""
    import pyarrow.parquet as pq

    table = pq.read_table(CIFAR / "test.parquet").slice(0, 300)
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    pool = np.stack([np.array(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()])
    none = {"real": pool[:0], "labels": np.arange(0), "names": names}
    found = listed(Retrieved(), tmp_path, pool, **none)
    labels = table["label"].to_numpy()
    right = [labels[at] == label for label, mine in enumerate(found) for at in mine[:1]]
    assert len(right) > 85
    assert np.mean(right) > 0.6
