"""Manifests and published lists: every bad row becomes a problem with its reason, every bad file a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise import tables
from counterpoise.data.lists import SplitLists
from counterpoise.data.manifests import Manifest
from counterpoise.types import Refusal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def write(folder: Path, kind: str, rows: list[dict]) -> Manifest:
    file = folder / f"m.{kind}"
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "csv":
        lines = [names] + [
            ["" if row.get(name) is None else str(row[name]) for name in names] for row in rows
        ]
        file.write_text("\n".join(",".join(line) for line in lines) + "\n", encoding="utf-8")
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), file)
    return Manifest(file)


def rows_of(source: Manifest | SplitLists) -> tuple[list[tuple], dict[str, str]]:
    listing = source.listing()
    names = ("uri", "label", "group", "split")
    bad = {row["uri"]: row["reason"] for row in tables.meta(listing)["problems"]}
    return list(zip(*(listing[name].to_pylist() for name in names), strict=True)), bad


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("path", ["path", "file_name", "image_path"])
def test_a_manifest(root, kind, path):
    source = write(
        root,
        kind,
        [
            {path: "b/1.png", "label": "10", "group": "g", "split": "valid"},
            {path: "a/1.png", "label": "9", "group": None, "split": None},
        ],
    )
    rows, bad = rows_of(source)
    assert rows == [("b/1.png", "10", "g", "val"), ("a/1.png", "9", None, None)]
    assert bad == {}
    assert tables.meta(source.listing())["classes"] == ["9", "10"]
    assert list(source.read(source.listing())) == [b"b/1.png", b"a/1.png"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["caption", "text"])
def test_what_a_manifest_says_of_images_arrives(root, kind, column):
    rows = [
        {"path": "b/1.png", "label": "x", column: "a fox; at dusk"},
        {"path": "a/1.png", "label": "x", column: None},
    ]
    listing = write(root, kind, rows).listing()
    said = dict(zip(listing["uri"].to_pylist(), listing["caption"].to_pylist(), strict=True))
    assert said == {"b/1.png": "a fox; at dusk", "a/1.png": None}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("split", ["pool", "unlabelled", "Unlabeled"])
def test_unlabelled_rows_need_no_label_and_lose_theirs(root, kind, split):
    labelled = {"path": "a/1.png", "label": "x", "split": "train"}
    unlabelled = {"path": "a/2.png", "label": None, "split": split}
    told = {"path": "b/1.png", "label": "only here", "split": split}
    source = write(root, kind, [labelled, unlabelled, told])
    rows, bad = rows_of(source)
    assert rows == [
        ("a/1.png", "x", None, "train"),
        ("a/2.png", None, None, "pool"),
        ("b/1.png", None, None, "pool"),
    ]
    assert bad == {}
    assert tables.meta(source.listing())["classes"] == ["x"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_bad_rows_are_problems(root, kind):
    (root / "a/out.png").symlink_to("/etc/passwd")
    rows, bad = rows_of(
        write(
            root,
            kind,
            [
                {"path": "a/1.png", "label": "x", "split": "train"},
                {"path": "a/2.png", "label": None, "split": "train"},
                {"path": "b/1.png", "label": "x", "split": "holdout"},
                {"path": "gone.png", "label": "x", "split": "train"},
                {"path": "../x.png", "label": "x", "split": "train"},
                {"path": "/etc/passwd", "label": "x", "split": "train"},
                {"path": "a/out.png", "label": "x", "split": "train"},
                {"path": "a", "label": "x", "split": "train"},
                {"path": None, "label": "x", "split": "train"},
            ],
        )
    )
    assert [row[0] for row in rows] == ["a/1.png"]
    assert bad["a/2.png"] == "missing label"
    assert "unknown split 'holdout'" in bad["b/1.png"]
    assert bad["gone.png"] == "missing file"
    assert bad["a"] == "not a regular file"
    assert bad["row 9"] == "missing path"
    outside = [uri for uri, reason in bad.items() if "outside the root" in reason]
    assert len(outside) >= 2
    assert "a/out.png" in outside
    assert len(bad) == 8


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_unknown_column_is_refused_by_its_name(root, kind):
    with pytest.raises(Refusal, match=r"unknown column 'colour': known are path, file_name"):
        write(root, kind, [{"path": "a/1.png", "label": "x", "colour": "red"}]).listing()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_refused(root, kind):
    with pytest.raises(Refusal, match="no column 'label': it has path"):
        write(root, kind, [{"path": "a/1.png"}]).listing()


def test_rows_that_come_twice(root):
    rows, bad = rows_of(
        write(
            root,
            "csv",
            [
                {"path": "a/1.png", "label": "x"},
                {"path": "./a/1.png", "label": "x"},
                {"path": "b/1.png", "label": "x"},
                {"path": "b/1.png", "label": "y"},
            ],
        )
    )
    assert [row[0] for row in rows] == ["a/1.png"]
    assert bad["a/1.png"].startswith("listed twice")
    assert "two labels" in bad["b/1.png"]


def test_one_label_per_image(root):
    rows, bad = rows_of(
        write(root, "jsonl", [{"path": "a/1.png", "label": ["x", "y"]}, {"path": "a/2.png", "label": 3}])
    )
    assert rows == [("a/2.png", "3", None, None)]
    assert "one value per image" in bad["a/1.png"]


def test_broken_lines_are_problems(root):
    (root / "m.csv").write_text("path,label\na/1.png,x\na/2.png\nb/1.png,x,y\n")
    rows, bad = rows_of(Manifest(root / "m.csv"))
    assert [row[0] for row in rows] == ["a/1.png"]
    assert set(bad) == {"line 3", "line 4"}
    (root / "m.jsonl").write_text('{"path": "a/1.png", "label": "x"}\n{"path": \n[1]\n')
    rows, bad = rows_of(Manifest(root / "m.jsonl"))
    assert [row[0] for row in rows] == ["a/1.png"]
    assert set(bad) == {"line 2", "line 3"}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.csv", b""),
        ("m.csv", b"path,label\n"),
        ("m.csv", b'path,label\n"a/1.png,x\n'),
        ("m.csv", b"\xff\xfe\0"),
        ("m.csv", b"path,path,label\n"),
        ("m.jsonl", b"not json\n"),
        ("m.parquet", b"PAR1"),
    ],
)
def test_files_that_are_no_manifest_are_refused(root, name, data):
    (root / name).write_bytes(data)
    with pytest.raises(Refusal, match=str(root / name)):
        Manifest(root / name).listing()


def test_another_root_and_absolute_paths_inside_it(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    (elsewhere / "m.csv").write_text(f"path,label\na/1.png,x\n{root}/b/1.png,y\n")
    source = Manifest(elsewhere / "m.csv", root=root)
    assert list(source.read(source.listing())) == [b"a/1.png", b"b/1.png"]
    before = source.state()
    (root / "a/1.png").write_bytes(b"changed!")
    assert source.state() != before


WORDS = st.text("a./\\\0\n \ud800\udcff\u202eé🐱", max_size=12)
HOSTILE = WORDS | st.none() | st.integers() | st.floats() | st.lists(WORDS, max_size=2)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"path": HOSTILE, "label": HOSTILE, "split": HOSTILE}), min_size=1, max_size=5
    )
)
def test_any_json_lines_give_rows_or_problems(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    listing = Manifest(file).listing()
    assert len(listing) + len(tables.meta(listing)["problems"]) >= 1


# --- published lists -----------------------------------------------------------------------------------------


def test_path_label_lists(root):
    (root / "train.txt").write_text("b/1.png 10\na/1.png 2\nno label here\n\n../out.png 2\n")
    (root / "val.txt").write_text("a/2.png 2\n")
    (root / "test.txt").write_text("b/2.png\t10\ngone.png 2\n")
    source = SplitLists(root, root / "train.txt", root / "val.txt", root / "test.txt")
    rows, bad = rows_of(source)
    assert rows == [
        ("b/1.png", "b", None, "train"),
        ("a/1.png", "a", None, "train"),
        ("a/2.png", "a", None, "val"),
        ("b/2.png", "b", None, "test"),
    ]
    assert tables.meta(source.listing())["classes"] == ["a", "b"]  # by number: 2, 10
    assert set(bad) == {"no label here", "../out.png", "gone.png"}
    assert list(source.read(source.listing()))[3] == b"b/2.png"


def test_numbers_stay_numbers_where_folders_do_not_name_classes(root):
    (root / "train.txt").write_text("b/1.png 10\nb/2.png 2\na/1.png 2\n")
    source = SplitLists(root, root / "train.txt")
    assert tables.meta(source.listing())["classes"] == ["2", "10"]


def test_an_image_in_two_splits_is_a_problem(root):
    (root / "train.txt").write_text("a/1.png 0\nb/1.png 1\n")
    (root / "test.txt").write_text("a/1.png 0\n")
    rows, bad = rows_of(SplitLists(root, root / "train.txt", test=root / "test.txt"))
    assert [row[0] for row in rows] == ["b/1.png"]
    assert "two labels, groups or splits" in bad["a/1.png"]


def test_inaturalist_json(root):
    body = {
        "images": [
            {"id": i, "file_name": name}
            for i, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/2.png"))
        ],
        "annotations": [
            {"image_id": i, "category_id": label} for i, label in ((0, 7), (1, 12), (3, 7), (3, 12))
        ],
        "categories": [{"id": 7, "name": "Zea mays"}, {"id": 12, "name": "Ara ararauna"}],
    }
    (root / "train2018.json").write_text(json.dumps(body))
    source = SplitLists(root, root / "train2018.json")
    rows, bad = rows_of(source)
    assert rows == [("a/1.png", "Zea mays", None, "train"), ("a/2.png", "Ara ararauna", None, "train")]
    assert tables.meta(source.listing())["classes"] == ["Zea mays", "Ara ararauna"]
    assert bad == {"b/1.png": "missing label", "b/2.png": "several labels: one is needed"}


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": [], "annotations": [{}]}'])
def test_a_json_that_is_no_list_is_refused(root, text):
    (root / "train.json").write_text(text)
    with pytest.raises(Refusal, match="not an iNaturalist list"):
        SplitLists(root, root / "train.json").listing()


def test_a_missing_list_is_refused(root):
    with pytest.raises(Refusal, match=r"the train list .* cannot be read"):
        SplitLists(root, root / "nothing.txt").listing()
