import json
import subprocess
import sys

import pytest
from studies import fill

from counterpoise import flags
from counterpoise.cli import app
from counterpoise.types import Refusal


def call(capsys, *arguments):
    """The command line in this process: (exit code, output)."""
    try:
        code = app(list(arguments), standalone_mode=False) or 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", ["run", "status", "audit", "report", "recipes", "doctor", "predict", "export"]
)
def test_every_verb_helps_with_an_example(verb):
    done = subprocess.run(
        [sys.executable, "-m", "counterpoise", verb, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"counterpoise {verb}" in done.stdout


def test_recipe_flags_come_from_its_signature(capsys):
    _, text = call(capsys, "recipes", "baselines")
    for flag in ("--backbone", "--steps", "--groups"):
        assert flag in text
    with pytest.raises(Refusal, match=r"No such option.*--colr|--colr.*takes --backbone"):
        call(capsys, "run", "digits", "--colr", "3", "--dry-run")
    with pytest.raises(Refusal, match="recipes are auto, balanced_diffusion, baselines"):
        call(capsys, "run", "digits", "--recipe", "magic")


def test_dry_run_makes_nothing(capsys, tmp_path):
    _, text = call(capsys, "run", "digits", "--to", str(tmp_path / "run"), "--smoke", "--dry-run", "--json")
    found = json.loads(text)
    assert found["images"] == 1797
    assert found["trainings"] > 0
    assert found["bytes"] > 0
    assert found["recipe"]["name"] == "balanced_diffusion"
    assert not (tmp_path / "run").exists()


def test_dry_run_counts_what_the_cut_leaves_and_cells_where_those_are_filled(capsys, tmp_path):
    """Two classes in two groups, 12 + 4 and 6 + 2; the cut leaves one of the 4."""
    photos = fill(tmp_path / "photos", {"a": 16, "b": 8})
    rows = ["path,label,group"]
    for name, whole in (("a", 12), ("b", 6)):
        files = sorted((photos / name).iterdir())
        rows += [f"{f.relative_to(tmp_path)},{name},{'x' if i < whole else 'y'}" for i, f in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(rows))

    def samples(*flags):
        command = [
            "run",
            str(tmp_path / "list.csv"),
            "--cut",
            "group:y:a:0.25",
            "--smoke",
            "--dry-run",
            "--json",
            *flags,
        ]
        return json.loads(call(capsys, *command)[1])["samples_at_most"]

    by_cell = 11 + 6 + 10  # up to 12
    arms = ["unguided", "loss", "even", "by_need"]
    assert samples("--recipe", "feedback_guided", "--groups", "--need", "error") == by_cell * len(arms)
    assert samples("--recipe", "pixel_diffusion") == 2 * (13 - 8)  # oversampling and diffusion


@pytest.mark.parametrize(("typed", "meant"), [("0.45", 0.45), ("20", 20), (None, 0)])
def test_a_pool_is_put_aside_on_demand(capsys, typed, meant):
    flags = [] if typed is None else ["--pool", typed]
    _, text = call(
        capsys, "run", "digits", *flags, "--cut", "exp:30:top=30:shuffled", "--smoke", "--dry-run", "--json"
    )
    data = json.loads(text)["recipe"]["data"]
    assert (data["holdout"]["pool"], data["cut"]["top"]) == (meant, 30)


def test_a_pool_may_be_a_folder_of_ones_own(capsys, tmp_path):
    photos, pool = fill(tmp_path / "photos", {"a": 16, "b": 8}), fill(tmp_path / "7", {"b": 3, "c": 4})

    def dry(*flags):
        return call(capsys, "run", str(photos), *flags, "--smoke", "--dry-run", "--json")[1]

    found = json.loads(dry("--pool", str(pool), "--recipe", "pixel_diffusion"))
    data = found["recipe"]["data"]
    assert data["source"]["part"].endswith("WithPool")
    assert (data["source"]["source"]["root"], data["source"]["pool"]["root"]) == (str(photos), str(pool))
    assert data["holdout"]["pool"] == 0
    assert (found["images"], found["classes"]) == (24 + 7, 2)
    assert found["samples_at_most"] == 3 * (16 - 8), "the pool counts for no class"
    assert "pseudo_labels" in json.dumps(
        json.loads(dry("--pool", str(pool), "--recipe", "baselines"))["recipe"]
    )
    for no_pool, said in (
        (tmp_path / "gone", "number of images to put aside, found .*gone"),
        (photos / "a", "both in the data and in the pool"),
        (photos.parent, "both in the data and in the pool"),
        ("-3", "Holdout.pool"),
        ("nan", "Holdout.pool"),
        ("inf", "Holdout.pool"),
    ):
        with pytest.raises(Refusal, match=said):
            dry("--pool", str(no_pool))


def test_status_report_and_predict_speak_json(capsys, finished, hostile):
    _, text = call(capsys, "status", str(finished.path), "--json")
    assert {row["stage"] for row in json.loads(text)["stages"]} >= {"intake", "evaluate", "report"}
    _, text = call(capsys, "report", str(finished.path), "--json")
    assert json.loads(text)["headline"] == finished.verdict["headline"]
    _, text = call(capsys, "predict", str(finished.path), str(hostile / "con" / "000.png"), "--json")
    assert json.loads(text)[0]["label"]
    code, _ = call(capsys, "predict", str(finished.path), str(hostile / "con" / "half.jpg"))
    assert code == 1


def test_status_in_words(capsys, finished):
    _, text = call(capsys, "status", str(finished.path))
    assert "evaluate" in text
    _, text = call(capsys, "report", str(finished.path))
    assert "opponent" in text
    assert "report.html" in text


def test_audit_says_what_is_uneven(capsys, tmp_path):
    root = fill(tmp_path / "photos", {"a": 24, "b": 6})
    _, text = call(capsys, "audit", str(root), "--to", str(tmp_path / "audit"), "--workers", "0", "--json")
    found = json.loads(text)
    assert found["images"] == 30
    assert found["imbalance"] > 2


def test_doctor(capsys):
    _, text = call(capsys, "doctor", "--json")
    assert {"python", "torch", "cores"} <= {row["name"] for row in json.loads(text)}


def test_a_refusal_is_printed_without_a_traceback(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "counterpoise", "run", "digits", "--smoke", "--to", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "refused" in done.stderr
    assert "not made by Counterpoise" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_go_together_is_refused_before_anything_is_made(capsys, tmp_path, monkeypatch):
    with pytest.raises(Refusal, match="no stage 'magic'; stages are intake"):
        call(capsys, "run", "digits", "--until", "magic", "--to", str(tmp_path / "run"))
    with pytest.raises(Refusal, match="is not a run directory"):
        call(capsys, "fit", str(tmp_path / "run"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Refusal, match=r"torchrun -m counterpoise fit RUN"):
        call(capsys, "run", "digits", "--to", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_fidelity_needs_pictures_and_export_a_generator(capsys, finished, tmp_path):
    with pytest.raises(Refusal, match="no synthesis 'magic'"):
        call(capsys, "fidelity", str(finished.path), "--judge", "inception:x", "--synthesis", "magic")
    with pytest.raises(Refusal, match="no generator that diffusers knows"):
        call(capsys, "export", str(finished.path), "--to", "diffusers", "--out", str(tmp_path / "out"))
    with pytest.raises(Refusal, match="no generator with adapters or words of its own; name one with --arm"):
        call(capsys, "export", str(finished.path), "--to", "lora", "--out", str(tmp_path / "out"))


def test_flags_with_a_few_words_to_choose_from_or_none_at_all():
    """On Python 3.11 a Literal or None is another kind of union than a number or None."""
    from counterpoise.recipes.feedback_guided import feedback_guided

    read = flags.parse_flags(feedback_guided, ["--need", "error", "--mode", "published", "--fill-to", "9"])
    assert (read["need"], read["mode"], read["fill_to"], read["published"]) == ("error", "published", 9, None)
    assert flags.parse_flags(feedback_guided, ["--criterion", "all"])["criterion"] == "all"
    with pytest.raises(Refusal, match="margin"):
        flags.parse_flags(feedback_guided, ["--criterion", "guesswork"])
