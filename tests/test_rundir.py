import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from counterpoise import tables
from counterpoise.rundir import Run, commit
from counterpoise.types import Refusal


def never(run, field):
    return None


def test_the_first_to_commit_wins_and_nobody_overwrites(tmp_path):
    target = tmp_path / "unit"

    def put(i):
        return commit(target, lambda file: file.write(str(i).encode() * 100_000))

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert sum(won) == 1
    assert target.read_bytes() == str(won.index(True)).encode() * 100_000
    assert [p.name for p in tmp_path.iterdir()] == ["unit"], "no temporary file is left"


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def write(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        commit(tmp_path / "unit", write)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_file_whole_or_absent(tmp_path):
    code = textwrap.dedent("""
        import sys, pathlib
        from counterpoise.rundir import commit
        for i in range(100000):
            commit(pathlib.Path(sys.argv[1]) / f"{i:06d}", lambda f: [f.write(b"x" * 4096) for _ in range(64)])
    """)
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while not list(tmp_path.glob("0*")):
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sorted(tmp_path.glob("0*"))
    assert done
    assert all(path.stat().st_size == 64 * 4096 for path in done)


def test_a_run_resumes_with_the_same_recipe_and_refuses_another(tmp_path):
    old, new = {"plan": {"strength": 0.7}, "name": "a"}, {"plan": {"strength": 0.5}, "name": "a"}
    Run.create(tmp_path / "run", old, never)
    Run.create(tmp_path / "run", old, never)
    with pytest.raises(
        Refusal,
        match=r"plan.strength was 0.7, the recipe now says 0.5: use another directory, or --redo plan",
    ):
        Run.create(tmp_path / "run", new, lambda run, field: "plan")
    assert Run.open(tmp_path / "run").json("recipe.json")["recipe"] == old
    run = Run.create(tmp_path / "run", new, never)  # nothing depends on it yet
    assert run.json("recipe.json")["recipe"] == new


def test_foreign_directories_files_and_unwritable_places_are_refused(tmp_path):
    theirs = tmp_path / "photos"
    theirs.mkdir()
    (theirs / "dog.jpg").write_bytes(b"mine")
    with pytest.raises(Refusal, match="not empty and was not made by Counterpoise"):
        Run.create(theirs, {}, never)
    assert [p.name for p in theirs.iterdir()] == ["dog.jpg"]
    with pytest.raises(Refusal, match="is a file"):
        Run.create(theirs / "dog.jpg", {}, never)
    with pytest.raises(Refusal, match="cannot be written"):
        Run.create("/proc/nowhere/run", {}, never)
    with pytest.raises(Refusal, match="not a run directory"):
        Run.open(theirs)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refusal, match="dangling link"):
        Run.create(tmp_path / "gone", {}, never)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Refusal, match="cannot be written"):
        Run.create(tmp_path / "run", {}, never)


def test_setting_aside_keeps_everything(tmp_path):
    run = Run.create(tmp_path / "run", {}, never)
    run.put_bytes("plan/a", b"1")
    run.put_bytes("verdict.json", b"2")
    folder = run.set_aside(["plan", "verdict.json", "absent"])
    assert not run.has("plan")
    assert (folder / "plan/a").read_bytes() == b"1"
    assert (folder / "verdict.json").read_bytes() == b"2"
    assert run.set_aside(["plan"]) is None
    run.put_bytes("plan/a", b"3")
    again = run.set_aside(["plan"])  # within the same second
    assert (folder / "plan/a").read_bytes() == b"1"
    assert (again / "plan/a").read_bytes() == b"3"


@pytest.mark.parametrize("shape", [(5, 3), (0, 3)])
def test_an_array_built_in_place_appears_whole(tmp_path, shape):
    run = Run.create(tmp_path / "run", {}, never)
    with run.building_array("x.npy", shape, "uint8") as out:
        out[:] = 7
        assert not run.has("x.npy")
    assert run.array("x.npy").shape == shape
    assert (np.asarray(run.array("x.npy")) == 7).all()
    with run.building_array("x.npy", shape, "uint8") as out:
        out[:] = 9
    assert (np.asarray(run.array("x.npy")) == 7).all(), "present means done"


def test_tables_keep_their_metadata_and_refuse_unknown_columns(tmp_path):
    run = Run.create(tmp_path / "run", {}, never)
    made = tables.table(tables.SCORES, {"request_id": ["a"], "score": [0.5]}, {"why": {"deep": [1, "é"]}})
    run.put_table("t.parquet", made)
    assert run.table("t.parquet").to_pylist() == [{"request_id": "a", "score": 0.5, "nearest_id": None}]
    assert run.meta("t.parquet") == {"why": {"deep": [1, "é"]}}
    with pytest.raises(AssertionError, match="colour"):
        tables.table(tables.SCORES, {"colour": [1]})
