"""A source with a pool beside it: whose rows are whose, what of the pool gets through, and what is no pool."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from studies import fill, photo, small

from counterpoise import Holdout, Refusal, open_source, run, tables
from counterpoise.data.folders import Folder, Loose
from counterpoise.data.manifests import Manifest
from counterpoise.data.packed import Digits
from counterpoise.data.pooled import POOLED, WithPool, open_pool
from counterpoise.study import Study
from counterpoise.types import describe, load

WORDS = ("label", "group", "split", "caption")


def put(path: Path, data: bytes = b"picture") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture(name="photos")
def _photos(tmp_path) -> Path:
    """Labelled ones, with unlabelled ones of their own, a class that is called as the mark of the pool is, and a problem."""
    for name in ("cat/1.png", "dog/1.png", "pool:/1.png", "unlabelled/1.png", "astray.png"):
        put(tmp_path / "photos" / name, f"ours {name}".encode())
    return tmp_path / "photos"


@pytest.fixture(name="unsorted")
def _unsorted(tmp_path) -> Path:
    for name in ("1.png", "cat/1.png", "a/b/c/2.JPG", "notes.txt"):
        put(tmp_path / "unsorted" / name, f"theirs {name}".encode())
    put(tmp_path / "elsewhere.png")
    os.symlink(tmp_path / "elsewhere.png", tmp_path / "unsorted" / "link.png")
    return tmp_path / "unsorted"


def both(source, pool) -> WithPool:
    return WithPool(open_source(str(source)), open_pool(str(pool)))


def test_the_source_stays_what_it_was_and_the_pool_stands_behind_it(photos, unsorted):
    source = both(photos, unsorted)
    alone, listing = Folder(photos).listing(), source.listing()
    assert listing.schema.equals(tables.LISTING)
    assert listing.slice(0, len(alone)).to_pylist() == alone.to_pylist()
    pool = listing.slice(len(alone))
    assert pool["uri"].to_pylist() == [POOLED + name for name in ("1.png", "a/b/c/2.JPG", "cat/1.png")]
    assert pool["split"].to_pylist() == ["pool"] * 3
    assert len(set(listing["id"].to_pylist())) == len(listing)
    assert load(json.loads(json.dumps(describe(source)))) == source


def test_every_row_is_read_from_where_it_lies(photos, unsorted):
    source = both(photos, unsorted)
    listing = source.listing()
    read = dict(zip(listing["uri"].to_pylist(), source.read(listing), strict=True))
    assert read.pop("pool:/1.png") == b"ours pool:/1.png"
    for uri, found in read.items():
        owner = "theirs" if uri.startswith(POOLED) else "ours"
        assert found == f"{owner} {uri.removeprefix(POOLED)}".encode()
    mixed = listing.take([len(listing) - 1, 0, len(listing) - 2, 1])
    assert [item.split()[0] for item in source.read(mixed)] == [b"theirs", b"ours"] * 2
    assert list(source.read(listing.slice(0, 0))) == []


def test_problems_and_notes_of_both_are_kept_and_folders_of_the_pool_say_nothing(photos, unsorted):
    meta = tables.meta(both(photos, unsorted).listing())
    assert meta["classes"] == tables.meta(Folder(photos).listing())["classes"] == ["cat", "dog", "pool:"]
    problems = {bad["uri"]: bad["reason"] for bad in meta["problems"]}
    assert "outside every class folder" in problems["astray.png"]
    assert "lies outside the root" in problems[POOLED + "link.png"]
    assert meta["notes"] == [
        "pool: 1 files ignored, their suffix is no image's: .txt 1",
        "pool: its 2 folders ('a', 'cat') are not read as labels",
    ]


def test_nothing_that_another_source_says_of_its_rows_gets_through(photos, tmp_path):
    rows = ["path,label,group,split,caption", "1.png,cat,snow,test,a cat", "2.png,eel,sea,train,an eel"]
    put(tmp_path / "other" / "list.csv", "\n".join(rows).encode())
    for name in ("1.png", "2.png"):
        put(tmp_path / "other" / name)
    listing = both(photos, tmp_path / "other" / "list.csv").listing()
    pool = listing.filter(pc.starts_with(listing["uri"], POOLED))
    assert len(pool) == 2
    assert [set(pool[word].to_pylist()) for word in WORDS] == [{None}, {None}, {"pool"}, {None}]
    meta = tables.meta(listing)
    assert "eel" not in meta["classes"]
    assert meta["notes"] == ["pool: the labels of 2 of its 2 pictures are not read"]


def test_the_state_is_that_of_both(photos, unsorted):
    source = both(photos, unsorted)
    before = source.state()
    assert source.state() == before
    put(unsorted / "a" / "new.png")
    between = source.state()
    put(photos / "cat" / "new.png")
    assert len({before, between, source.state()}) == 3


# --- what a user may type ------------------------------------------------------------------------------------


def test_a_folder_is_all_its_pictures_whatever_lies_beside_them(tmp_path):
    put(tmp_path / "flat" / "1.png")
    put(tmp_path / "flat" / "metadata.csv", b"author,licence\nme,free")
    assert open_pool(str(tmp_path / "flat")) == Loose(tmp_path / "flat")
    assert len(open_pool(str(tmp_path / "flat")).listing()) == 1
    assert open_pool("digits") == Digits()
    put(tmp_path / "list.csv", b"path,label\nflat/1.png,x")
    assert open_pool(str(tmp_path / "list.csv")) == Manifest(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (None, "which is none of them: name one that is there"),
        ([], "no images under .*found nothing"),
        (["a.txt", "b/c.txt"], "no images under .*2 files ignored.*txt 2"),
    ],
)
def test_what_is_no_pool_is_refused(photos, tmp_path, there, said):
    folder = tmp_path / "pool"
    for name in there or []:
        put(folder / name)
    if there == []:
        folder.mkdir()
    with pytest.raises(Refusal, match=said):
        both(photos, folder).listing()


def test_a_pool_of_problems_only_says_the_first(photos, tmp_path):
    put(tmp_path / "list.csv", b"path,label\ngone.png,cat")
    with pytest.raises(Refusal, match=r"lists no picture.*missing file.*--pool"):
        both(photos, tmp_path / "list.csv").listing()


@pytest.mark.parametrize("pool", ["photos/cat", "photos", ".", "photos/unlabelled", "link"])
def test_no_picture_is_in_both(photos, pool):
    os.symlink(photos / "dog", photos.parent / "link")
    with pytest.raises(Refusal, match=r"both in the data and in the pool, the first .*1\.png.*--pool"):
        both(photos, photos.parent / pool).listing()


def test_a_pool_beside_the_rows_of_a_manifest_is_none_of_them(tmp_path):
    for name in ("known/1.png", "known/2.png", "unsorted/1.png"):
        put(tmp_path / name)
    put(tmp_path / "list.csv", b"path,label\nknown/1.png,a\nknown/2.png,b")
    assert len(both(tmp_path / "list.csv", tmp_path / "unsorted").listing()) == 3
    with pytest.raises(Refusal, match="2 pictures are both"):
        both(tmp_path / "list.csv", tmp_path).listing()


def test_packed_data_are_no_pool_of_their_own():
    with pytest.raises(Refusal, match="1797 pictures are both"):
        both("digits", "digits").listing()


# --- through the stages --------------------------------------------------------------------------------------


def test_a_pool_is_decoded_searched_for_leaks_and_quarantined_as_all_else(tmp_path):
    root, pool = tmp_path / "photos", tmp_path / "pool"
    fill(root / "train", {"a": 12, "b": 8})
    fill(root / "test", {"a": 4, "b": 4}, size=12)
    for index in range(5):
        (pool / "deep").mkdir(parents=True, exist_ok=True)
        photo(7, index, 24).save(pool / "deep" / f"{index}.png")
    put(pool / "b" / "half.jpg", b"\xff\xd8\xff\xe0 no more")
    put(pool / "vast.ppm", b"P6 20000 20000 255\n")
    shutil.copy(root / "test/b/000.png", pool / "leak.png")
    shutil.copy(root / "train/a/000.png", pool / "known.png")
    recipe = small(root, holdout=Holdout(val=0.2, test=0))
    recipe = replace(recipe, data=replace(recipe.data, source=both(root, pool)))
    made = run(recipe, tmp_path / "run", until="audit")
    study, audit = Study.open(made.path), made.json("audit.json")
    assert len(study.pool()) == 6  # what is known of a test picture is not learnt from
    assert study.facts["classes"] == ["a", "b"]
    assert audit["leaks"] == []
    assert any("copies of validation or test pictures: 1" in note for note in audit["notes"])
    reasons = {row["uri"]: row["reason"] for row in made.table("quarantine.parquet").to_pylist()}
    assert set(reasons) == {f"{POOLED}b/half.jpg", f"{POOLED}vast.ppm"}
    assert "too large" in reasons[f"{POOLED}vast.ppm"]
    manifest = study.manifest("pool")
    assert all(manifest[word].null_count == len(manifest) for word in ("label", "uri", "group", "caption"))
    photo(7, 9).save(pool / "new.png")
    with pytest.raises(Refusal, match="changed since this run listed them"):
        run(recipe, tmp_path / "run", until="audit")
