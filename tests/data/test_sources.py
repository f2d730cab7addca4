"""Image folders and everything packed: what is listed, what is read, what becomes a problem row. Names are hostile."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from counterpoise import tables
from counterpoise.data.embedded import EmbeddedParquet, Hub
from counterpoise.data.folders import Folder
from counterpoise.data.intake import intake
from counterpoise.data.lists import SplitLists
from counterpoise.data.manifests import Manifest
from counterpoise.data.packed import Cifar, Digits
from counterpoise.data.sources import Fence, Source, open_source
from counterpoise.types import Refusal, describe, load

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STRANGE = "a./\\\0\n \ud800\udcff\u202eé🐱"  # a short alphabet: hypothesis need not build its table of all characters
ONERROR = "<img src=x onerror=alert(1)>"


def picture(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def put(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture() if data is None else data)
    return path


def told(source: Source) -> tuple[pa.Table, dict]:
    listing = source.listing()
    assert listing.schema.equals(tables.LISTING)
    assert len(set(listing["id"].to_pylist())) == len(listing)
    assert load(json.loads(json.dumps(describe(source)))) == source
    return listing, tables.meta(listing)


def splits(listing: pa.Table) -> dict[str, str | None]:
    return dict(zip(listing["uri"].to_pylist(), listing["split"].to_pylist(), strict=True))


# --- folders -------------------------------------------------------------------------------------------------


def test_a_plain_folder(tmp_path):
    for name in ("dog/b.png", "dog/a.PNG", "cat/deep/er/1.jpg"):
        put(tmp_path / name, name.encode())
    listing, meta = told(Folder(tmp_path))
    assert listing["uri"].to_pylist() == ["cat/deep/er/1.jpg", "dog/a.PNG", "dog/b.png"]
    assert listing["label"].to_pylist() == ["cat", "dog", "dog"]
    assert meta == {"classes": ["cat", "dog"], "problems": [], "notes": []}
    assert list(Folder(tmp_path).read(listing)) == [b"cat/deep/er/1.jpg", b"dog/a.PNG", b"dog/b.png"]
    assert list(Folder(tmp_path).read(listing.slice(1, 1))) == [b"dog/a.PNG"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_a_folder_with_splits(tmp_path, val):
    for name in ("train/a/1.png", f"{val}/a/1.png", "test/b/1.png"):
        put(tmp_path / name)
    listing, meta = told(Folder(tmp_path))
    assert splits(listing) == {"train/a/1.png": "train", f"{val}/a/1.png": "val", "test/b/1.png": "test"}
    assert meta["classes"] == ["a", "b"]  # b is in test only, and still a class


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled"])
@pytest.mark.parametrize("train", ["", "train/"])
def test_a_folder_of_unlabelled_images(tmp_path, name, train):
    for path in (f"{train}a/1.png", f"{train}b/1.png", f"{name}/2.png", f"{name}/a/3.png"):
        put(tmp_path / path)
    listing, meta = told(Folder(tmp_path))
    pool = listing.filter(pc.equal(listing["split"], "pool"))
    assert pool["uri"].to_pylist() == [f"{name}/2.png", f"{name}/a/3.png"]
    assert pool["label"].to_pylist() == [None, None], "a folder in it is no label"
    assert (meta["classes"], meta["problems"]) == (["a", "b"], [])
    assert splits(listing)[f"{train}a/1.png"] == ("train" if train else None)


def test_a_class_called_pool_is_a_class_unless_there_are_splits(tmp_path):
    for path in ("plain/pool/1.png", "plain/beach/1.png", "split/train/beach/1.png", "split/pool/1.png"):
        put(tmp_path / path)
    assert told(Folder(tmp_path / "plain"))[1]["classes"] == ["beach", "pool"]
    listing, meta = told(Folder(tmp_path / "split"))
    assert meta["classes"] == ["beach"]
    assert splits(listing)["pool/1.png"] == "pool"


def test_a_class_called_test_is_a_class(tmp_path):
    for name in ("test/1.png", "exam/1.png"):
        put(tmp_path / name)
    listing, meta = told(Folder(tmp_path))
    assert meta["classes"] == ["exam", "test"]
    assert set(listing["split"].to_pylist()) == {None}


def test_an_unknown_split_is_a_problem(tmp_path):
    for name in ("train/a/1.png", "holdout/a/1.png"):
        put(tmp_path / name)
    listing, meta = told(Folder(tmp_path))
    assert listing["uri"].to_pylist() == ["train/a/1.png"]
    assert [(bad["uri"], "unknown split" in bad["reason"]) for bad in meta["problems"]] == [("holdout", True)]


@pytest.mark.parametrize(
    "name",
    ["..x", "...", ".. ", "con", "🐱", ONERROR, "x" * 255, "{{7*7}}", "\u202eabc", "a\nb", "-rf", "a:b"],
)
def test_hostile_class_names_are_data(tmp_path, name):
    put(tmp_path / name / "1.png", b"one")
    put(tmp_path / "other" / "1.png", b"two")
    listing, meta = told(Folder(tmp_path))
    assert set(meta["classes"]) == {name, "other"}
    row = listing.filter(pc.equal(listing["label"], name))
    assert list(Folder(tmp_path).read(row)) == [b"one"]
    assert all(len(id_) == 16 and id_.isalnum() for id_ in listing["id"].to_pylist())


def test_names_that_are_not_utf8_are_a_problem(tmp_path):
    put(tmp_path / "a" / "1.png")
    with open(os.fsencode(tmp_path / "a") + b"/\xff.png", "wb") as file:
        file.write(picture())
    listing, meta = told(Folder(tmp_path))
    assert len(listing) == 1
    assert "UTF-8" in meta["problems"][0]["reason"]


def test_hidden_and_foreign_files_are_left_out(tmp_path):
    for name in (
        "a/1.png",
        "a/.1.png",
        "a/._1.png",
        ".git/1.png",
        "__MACOSX/1.png",
        "a/Thumbs.db",
        "b/x.txt",
        "b/1.png",
    ):
        put(tmp_path / name)
    listing, meta = told(Folder(tmp_path))
    assert listing["uri"].to_pylist() == ["a/1.png", "b/1.png"]
    assert meta["notes"] == ["2 files ignored, their suffix is no image's: .db 1, .txt 1"]


def test_an_empty_class_is_noted(tmp_path):
    put(tmp_path / "a" / "1.png")
    (tmp_path / ONERROR).mkdir()
    _, meta = told(Folder(tmp_path))
    assert meta["classes"] == ["a"]
    assert meta["notes"] == [f"empty class folder {ONERROR!r}: the class is left out"]


def test_images_outside_a_class_have_no_label(tmp_path):
    for name in ("train/a/1.png", "train/2.png", "3.png"):
        put(tmp_path / name)
    _, meta = told(Folder(tmp_path))
    assert [bad["uri"] for bad in meta["problems"]] == ["3.png", "train/2.png"]
    assert all("missing label" in bad["reason"] for bad in meta["problems"])


def test_links(tmp_path):
    outside = put(tmp_path / "secret.png", b"secret")
    root = tmp_path / "root"
    put(root / "a" / "1.png", b"one")
    for name, target in {
        "inside.png": root / "a" / "1.png",
        "outside.png": outside,
        "dangling.png": root / "nothing.png",
        "loop.png": root / "a" / "loop.png",
        "folder": tmp_path,
        "pipe": "/dev/null",
    }.items():
        (root / "a" / name).symlink_to(target)
    os.mkfifo(root / "a" / "fifo.png")
    listing, meta = told(Folder(root))
    assert listing["uri"].to_pylist() == ["a/1.png", "a/inside.png"]
    assert list(Folder(root).read(listing)) == [b"one", b"one"]
    reasons = {bad["uri"]: bad["reason"] for bad in meta["problems"]}
    assert set(reasons) == {"a/outside.png", "a/dangling.png", "a/loop.png", "a/folder", "a/fifo.png"}
    assert "outside the root" in reasons["a/outside.png"]
    assert "missing file" in reasons["a/dangling.png"]
    assert "linked folder" in reasons["a/folder"]
    assert "not a regular file" in reasons["a/fifo.png"]


def test_a_root_may_itself_be_a_link(tmp_path):
    put(tmp_path / "real" / "a" / "1.png", b"one")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    listing, _ = told(Folder(tmp_path / "link"))
    assert list(Folder(tmp_path / "link").read(listing)) == [b"one"]


@pytest.mark.parametrize(
    "uri", ["../secret.png", "a/../../secret.png", "/etc/passwd", "a/link.png", "a/gone.png", "a\0b", "a"]
)
def test_reading_never_leaves_the_root(tmp_path, uri):
    put(tmp_path / "secret.png", b"secret")
    put(tmp_path / "root" / "a" / "1.png")
    (tmp_path / "root" / "a" / "link.png").symlink_to(tmp_path / "secret.png")
    rows = tables.table(tables.LISTING, {"uri": [uri, "a/1.png"]})
    bad, good = Folder(tmp_path / "root").read(rows)
    assert isinstance(bad, OSError)
    assert bad.strerror
    assert good == picture()


@settings(max_examples=200, deadline=None)
@given(st.text(STRANGE, max_size=30))
def test_the_fence_answers_for_any_text(tmp_path_factory, uri):
    root = tmp_path_factory.getbasetemp()
    found = Fence(str(root)).read(uri + "/no.png")
    assert isinstance(found, OSError)


def test_state_follows_the_data(tmp_path):
    image = put(tmp_path / "a" / "1.png")
    source = Folder(tmp_path)
    states = [source.state(), source.state()]
    put(tmp_path / "a" / "2.png")
    states.append(source.state())
    image.write_bytes(b"other bytes")
    states.append(source.state())
    assert states[0] == states[1]
    assert len(set(states)) == 3


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    put(tmp_path / "a" / "notes.txt")
    with pytest.raises(Refusal, match=r"found 1 folders \(a\); 1 files ignored.*\.txt 1"):
        Folder(tmp_path).listing()
    with pytest.raises(Refusal, match="not a folder"):
        Folder(tmp_path / "missing").listing()


# --- Parquet -------------------------------------------------------------------------------------------------


def hf_table(images: list[bytes | None], labels: list, names: list[str] | None, **extra: list) -> pa.Table:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    made = pa.table(
        {"image": pa.array(cells, kind), "label": pa.array(labels, pa.int64() if names else None), **extra}
    )
    features = {"image": {"_type": "Image"}} | (
        {"label": {"_type": "ClassLabel", "names": names}} if names else {}
    )
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_embedded_parquet(tmp_path):
    names = ["zebra", "ant"]
    made = hf_table(
        [b"0", b"1", None, b"3", b"4"], [1, 0, 1, -1, None], names, group=pa.array(["x", "y", "x", "x", None])
    )
    pq.write_table(made, tmp_path / "train-00000-of-00001.parquet", row_group_size=2)
    pq.write_table(hf_table([b"v"], [0], names), tmp_path / "validation.parquet")
    listing, meta = told(EmbeddedParquet(tmp_path))
    assert meta["classes"] == names  # label order, not the alphabet
    assert listing["label"].to_pylist() == ["ant", "zebra", "ant", "zebra"]
    assert listing["group"].to_pylist() == ["x", "y", "x", None]
    assert listing["split"].to_pylist() == ["train"] * 3 + ["val"]
    assert [(bad["uri"][-2:], bad["reason"]) for bad in meta["problems"]] == [
        ("#3", "missing label"),
        ("#4", "missing label"),
    ]
    first, second, none, last = EmbeddedParquet(tmp_path).read(listing)
    assert (first, second, last) == (b"0", b"1", b"v")
    assert none.strerror == "no image bytes in this row"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 199), max_size=40))
def test_rows_come_in_the_order_asked_for(tmp_path_factory, order):
    file = tmp_path_factory.getbasetemp() / "all.parquet"
    if not file.exists():
        made = hf_table([str(i).encode() for i in range(200)], [i % 2 for i in range(200)], ["a", "b"])
        pq.write_table(made, file, row_group_size=70)
    source = EmbeddedParquet(file)
    assert list(source.read(source.listing().take(pa.array(order, pa.int64())))) == [
        str(i).encode() for i in order
    ]


def test_parquet_with_text_labels_and_plain_bytes(tmp_path):
    pq.write_table(pa.table({"img": [b"1", b"2"], "label": ["b", "a"]}), tmp_path / "x.parquet")
    listing, meta = told(EmbeddedParquet(tmp_path / "x.parquet"))
    assert meta["classes"] == ["a", "b"]
    assert list(EmbeddedParquet(tmp_path / "x.parquet").read(listing)) == [b"1", b"2"]


def test_parquet_that_cannot_be_understood_is_refused(tmp_path):
    pq.write_table(pa.table({"img": [b"1"], "what": [1]}), tmp_path / "x.parquet")
    with pytest.raises(Refusal, match=r"needs a column of labels.*found img, what"):
        EmbeddedParquet(tmp_path).listing()
    assert told(EmbeddedParquet(tmp_path, label="what"))[1]["classes"] == ["1"]
    put(tmp_path / "x.parquet", b"PAR1 not really PAR1")
    with pytest.raises(Refusal, match="cannot be read as Parquet"):
        EmbeddedParquet(tmp_path).listing()


def test_a_damaged_parquet_yields_errors_not_exceptions(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.bytes(2000) for _ in range(100)]
    pq.write_table(
        hf_table(images, [0] * 100, ["a"]), tmp_path / "x.parquet", row_group_size=50, compression="zstd"
    )
    source = EmbeddedParquet(tmp_path)
    listing = source.listing()
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[20:60_000] = bytes(59_980)
    (tmp_path / "x.parquet").write_bytes(data)
    items = list(source.read(listing))
    assert len(items) == 100
    assert isinstance(items[10], OSError)
    assert items[60] == images[60]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared real data are not here")
def test_real_parquet():
    listing, meta = told(open_source(str(SHARED / "cifar10_lt100")))
    train = pc.equal(listing["split"], "train")
    counts = {
        row["values"]: row["counts"] for row in listing.filter(train)["label"].value_counts().to_pylist()
    }
    assert [counts[name] for name in meta["classes"]] == [4900, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    listing, _ = told(open_source(str(SHARED / "pacs48")))
    assert set(listing["group"].to_pylist()) == {"photo", "art_painting", "cartoon", "sketch"}
    for data in open_source(str(SHARED / "pacs48")).read(listing.slice(5000, 50)):
        assert intake(data).pixels.shape == (48, 48, 3)


# --- CIFAR, digits, hub --------------------------------------------------------------------------------------


def cifar(folder: Path) -> np.ndarray:
    data = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    batches = {"data_batch_1": slice(0, 3), "data_batch_2": slice(3, 5), "test_batch": slice(5, 6)}
    folder.mkdir()
    for name, rows in batches.items():
        body = {b"data": data[rows], b"labels": [1, 0, 1][: len(data[rows])], b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(body, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"plane", b"car"]}, protocol=2))
    return data


def test_cifar_files(tmp_path):
    data = cifar(tmp_path / "cifar-10-batches-py")
    source = open_source(str(tmp_path))
    listing, meta = told(source)
    assert isinstance(source, Cifar)
    assert meta["classes"] == ["plane", "car"]
    assert listing["label"].to_pylist() == ["car", "plane", "car", "car", "plane", "car"]
    assert listing["split"].to_pylist() == ["train"] * 5 + ["test"]
    images = list(source.read(listing))
    assert np.array_equal(images[4], data[4].reshape(3, 32, 32).transpose(1, 2, 0))


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/counterpoise-was-here",)


@pytest.mark.parametrize(
    "body", [Evil(), {b"data": Evil()}, {b"data": eval}, [1], {b"data": [1]}, {b"labels": [0]}]
)
def test_a_pickle_gets_nothing_but_arrays(tmp_path, body):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(body, protocol=2))
    with pytest.raises(Refusal, match="CIFAR file"):
        Cifar(tmp_path).listing()
    assert not Path("/tmp/counterpoise-was-here").exists()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 10**5))
def test_a_damaged_pickle_is_refused_or_read(tmp_path_factory, junk, place):
    folder = tmp_path_factory.getbasetemp() / "hurt"
    folder.mkdir(exist_ok=True)
    body = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}
    data = pickle.dumps(body, protocol=2)
    place %= len(data)
    (folder / "data_batch_1").write_bytes(data[:place] + junk + data[place + len(junk) :])
    with contextlib.suppress(Refusal):
        Cifar(folder).listing()


def test_digits():
    listing, meta = told(open_source("digits"))
    assert (len(listing), meta["classes"]) == (1797, [str(digit) for digit in range(10)])
    images = list(Digits().read(listing.slice(0, 300)))
    assert {image.shape for image in images} == {(8, 8, 1)}
    assert (np.min(images), np.max(images)) == (0, 255)
    assert set(np.unique(images)) <= {round(value * 255 / 16) for value in range(17)}
    assert Digits().state() == Digits().state()


def test_a_hub_name_without_the_library_names_the_extra():
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(Refusal, match=r"counterpoise\[hub-data\]"):
            Hub("mnist").listing()
    else:
        pytest.skip("datasets is installed")


@pytest.mark.filterwarnings("ignore")
def test_a_hub_data_set_reads_like_its_parquet(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the extra hub-data is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(hf_table([picture(1), picture(2)], [1, 0], ["z", "a"]), folder / "train.parquet")
    listing, meta = told(Hub(str(folder)))
    assert (meta["classes"], listing["label"].to_pylist()) == (["z", "a"], ["a", "z"])
    assert list(Hub(str(folder)).read(listing)) == [picture(1), picture(2)]


def test_embedded_rows_without_label_may_be_a_pool(tmp_path):
    pq.write_table(hf_table([picture(1)], [0], ["z", "a"]), tmp_path / "train.parquet")
    pq.write_table(hf_table([picture(2), picture(3)], [-1, 1], ["z", "a"]), tmp_path / "unlabeled.parquet")
    listing, meta = told(EmbeddedParquet(tmp_path))
    assert listing["split"].to_pylist() == ["train", "pool", "pool"]
    assert listing["label"].to_pylist() == ["z", None, None]
    assert meta["problems"] == []


# --- what the user typed -------------------------------------------------------------------------------------


def test_open_source_finds_out(tmp_path):
    put(tmp_path / "folder" / "a" / "1.png")
    put(tmp_path / "m.csv", b"path,label\nfolder/a/1.png,a\n")
    put(tmp_path / "hf" / "metadata.csv", b"file_name,label\n1.png,a\n")
    pq.write_table(pa.table({"path": ["x"], "label": ["y"]}), tmp_path / "m.parquet")
    pq.write_table(pa.table({"image": [b"x"], "label": ["y"]}), tmp_path / "e.parquet")
    put(tmp_path / "lt" / "ImageNet_LT_train.txt", b"a/1.jpg 0\n")
    put(tmp_path / "lt" / "ImageNet_LT_test.txt", b"b/1.jpg 0\n")
    assert open_source(str(tmp_path / "folder")) == Folder(tmp_path / "folder")
    assert open_source(str(tmp_path / "m.csv")) == Manifest(tmp_path / "m.csv")
    assert open_source(str(tmp_path / "hf")) == Manifest(tmp_path / "hf" / "metadata.csv")
    assert open_source(str(tmp_path / "m.parquet")) == Manifest(tmp_path / "m.parquet")
    assert open_source(str(tmp_path / "e.parquet")) == EmbeddedParquet(tmp_path / "e.parquet")
    lists = SplitLists(
        tmp_path / "lt", tmp_path / "lt/ImageNet_LT_train.txt", test=tmp_path / "lt/ImageNet_LT_test.txt"
    )
    assert open_source(str(tmp_path / "lt")) == lists
    assert open_source("hub:me/data@v1") == Hub("me/data", "v1")
    assert open_source("hub:me/data") == Hub("me/data")


def test_open_source_refuses_what_it_does_not_know(tmp_path):
    put(tmp_path / "a.zip")
    put(tmp_path / "flat" / "1.png")
    (tmp_path / "empty").mkdir()
    for text, said in {
        "nowhere": "'nowhere' is neither a file nor a folder",
        str(tmp_path / "a.zip"): "suffix '.zip'",
        str(tmp_path / "flat"): "holds 1.png",
        str(tmp_path / "empty"): "holds nothing",
    }.items():
        with pytest.raises(Refusal, match="understood are: digits") as caught:
            open_source(text)
        assert said in str(caught.value)
