"""The ChestX-ray14 preset on a made-up folder of a dozen images: which rows, which splits, and what is said of the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from counterpoise import tables
from counterpoise.data.chest import FINDINGS, ChestXray14
from counterpoise.data.sources import open_source
from counterpoise.types import Refusal, describe, load

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"
TRAIN = {
    "00000001_000.png": ("No Finding", 1),
    "00000001_001.png": ("Cardiomegaly|Emphysema", 1),
    "00000002_000.png": ("Hernia", 2),
    "00000003_000.png": ("Mass", 3),
}
TEST = {
    "00000004_000.png": ("No Finding", 4),
    "00000004_001.png": ("Mass|Nodule|Edema", 4),
    "00000005_000.png": ("Cardiomegaly", 5),
}


def write(root: Path, train=TRAIN, test=TEST, folders=("images_001/images", "images_002/images")) -> Path:
    for place, name in enumerate(train | test):
        folder = root / folders[place % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    lines = [f"{name},{findings},0,{patient},50" for name, (findings, patient) in (train | test).items()]
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    (root / "train_val_list.txt").write_text("".join(f"{name}\n" for name in train))
    (root / "test_list.txt").write_text("\n".join(test))
    return root


def told(source: ChestXray14) -> tuple[dict[str, tuple[str, str]], dict[str, str], dict]:
    """Name => label and split; name => why not; the metadata."""
    listing = source.listing()
    rows = {
        Path(row["uri"]).name: (row["label"], row["split"])
        for row in listing.select(["uri", "label", "split"]).to_pylist()
    }
    meta = tables.meta(listing)
    return rows, {row["uri"]: row["reason"] for row in meta["problems"]}, meta


@pytest.mark.parametrize("folders", [("images_001/images", "images_012/images"), ("images",), (".",)])
def test_images_with_one_finding_in_the_official_splits(tmp_path, folders):
    source = open_source(str(write(tmp_path, folders=folders)))
    assert source == ChestXray14(str(tmp_path)) == load(json.loads(json.dumps(describe(source))))
    rows, bad, meta = told(source)
    assert rows == {
        "00000001_000.png": ("No Finding", "train"),
        "00000002_000.png": ("Hernia", "train"),
        "00000003_000.png": ("Mass", "train"),
        "00000004_000.png": ("No Finding", "test"),
        "00000005_000.png": ("Cardiomegaly", "test"),
    }
    assert bad == {
        "00000001_001.png": "several findings: one is needed, found Cardiomegaly|Emphysema",
        "00000004_001.png": "several findings: one is needed, found Mass|Nodule|Edema",
    }
    assert meta["classes"] == ["No Finding", "Cardiomegaly", "Mass", "Hernia"], "by their numbers"
    assert "2 images with several findings are left out" in meta["notes"]
    assert "0 images of the training list are of patients who are tested, and left out" in meta["notes"]
    assert [item.decode() for item in source.read(source.listing())] == list(rows)
    assert (len(FINDINGS), FINDINGS[0]) == (15, "No Finding")


def test_a_patient_of_both_lists_is_tested_only(tmp_path):
    rows, bad, meta = told(ChestXray14(write(tmp_path, test=TEST | {"00000002_001.png": ("Mass|Hernia", 2)})))
    assert bad["00000002_000.png"] == "its patient is tested, too: 2"
    assert "00000002_000.png" not in rows
    assert "1 images of the training list are of patients who are tested, and left out" in meta["notes"]


def test_rows_that_do_not_fit_together_are_problems(tmp_path):
    root = write(tmp_path, train=TRAIN | {"00000006_000.png": ("Dragon pox", 6)})
    next(root.rglob("00000003_000.png")).unlink()
    with open(root / "train_val_list.txt", "a") as file:
        file.write("nobody.png\n../out.png\n\n")
    with open(root / "Data_Entry_2017_v2020.csv", "a") as file:
        file.write("00000007_000.png,Mass,0,7,50\n../out.png,Mass,0,8,50\n")
    rows, bad, _ = told(ChestXray14(root))
    assert len(rows) == 4
    assert bad["00000006_000.png"].startswith("unknown finding 'Dragon pox', known are No Finding,")
    assert bad["nobody.png"].startswith("missing label")
    assert bad["00000003_000.png"] == "missing file"
    assert bad["00000007_000.png"].startswith("in neither list")
    assert "outside the root" in bad["../out.png"]


def test_the_state_follows_tables_lists_and_images(tmp_path):
    source = ChestXray14(write(tmp_path))
    seen = {source.state()}
    for path in [*sorted(tmp_path.glob("*.*")), next(tmp_path.rglob("00000005_000.png"))]:
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(source.state())
    assert len(seen) == 5


@pytest.mark.parametrize("name", ["train_val_list.txt", "test_list.txt"])
def test_a_missing_list_is_refused(tmp_path, name):
    (write(tmp_path) / name).unlink()
    with pytest.raises(Refusal, match=rf"official lists train_val_list.txt and test_list.txt: .*{name}"):
        open_source(str(tmp_path)).listing()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'Image Index': it has none"),
        ("Image Index,Finding Labels\n", "no column 'Patient ID': it has Image Index, Finding Labels"),
        (f"{HEADER}\n00000001_000.png,Mass\n", "line 2 has 2 fields"),
        (f'{HEADER}\n"00000001_000.png,Mass\n', "cannot be read"),
        (f"{HEADER}\n", "no image to study .*missing label"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, said):
    (write(tmp_path) / "Data_Entry_2017_v2020.csv").write_text(text)
    with pytest.raises(Refusal, match=said):
        ChestXray14(tmp_path).listing()


def test_no_table_two_tables_and_no_images_are_refused(tmp_path):
    root = write(tmp_path)
    (root / "Data_Entry_2017.csv").write_text(HEADER)
    with pytest.raises(Refusal, match=r"one table Data_Entry_2017\*\.csv .* Data_Entry_2017.csv, Data_Entry"):
        ChestXray14(root).listing()
    for path in root.glob("Data*"):
        path.unlink()
    with pytest.raises(Refusal, match=re.escape("found none")):
        ChestXray14(root).listing()
    root = write(tmp_path / "again")
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(Refusal, match=r"no image to study in images\*/ or beside its table: .*missing file"):
        ChestXray14(root).listing()
