"""Whatever a user can name is documented: verbs, parts, recipe flags, table columns, files; and what the pages show, runs."""

from __future__ import annotations

import importlib.util
import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from studies import fill, photo

import counterpoise
from counterpoise import tables
from counterpoise.cli import app
from counterpoise.flags import find_recipe, flag, option, own_flags, recipe_names
from counterpoise.pipeline import STAGES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


# --- what is written down of the code --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "tools/write_docs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_docs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["parts.md", "commands.md"])
def test_generated_pages_are_those_of_the_code(writer, page):
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == writer.PAGES[page](), f"docs/{page} is stale: python tools/write_docs.py"
    assert " object at 0x" not in written, "an address differs from run to run"
    assert str(ROOT) not in written, "a path of this machine"


def test_every_part_says_what_it_does(writer):
    silent = [
        name
        for name, item in writer.all_parts().items()
        if not inspect.getdoc(item) or item.__doc__.startswith(f"{item.__name__}(")
    ]
    assert not silent


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_flag_is_explained_in_its_docstring(name):
    text = inspect.getdoc(find_recipe(name))
    assert "counterpoise run" in text, "a recipe shows its command"
    if (
        "The flags are those of" in text
    ):  # a recipe that passes its flags on names the recipes that explain them
        text += "".join(
            inspect.getdoc(find_recipe(other)) for other in recipe_names() if f"`{other}`" in text
        )
    missing = [flag(p) for p in own_flags(find_recipe(name)) if not re.search(rf"{flag(p)}(?![\w-])", text)]
    assert not missing


@pytest.mark.parametrize("name", tables.ALL)
def test_every_column_of_every_table_is_described(name):
    page = (ROOT / "docs/artefacts.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {name}\n(.*?)(?=^#|\Z)", page, re.M | re.S)
    assert section, f"docs/artefacts.md has no section '### {name}'"
    missing = [column for column in tables.ALL[name].names if f"`{column}`" not in section[1]]
    assert not missing
    extra = set(re.findall(r"^\| `(\w+)`", section[1], re.M)) - set(tables.ALL[name].names)
    assert not extra, "documented, but not in the schema"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_and_its_files_are_described(stage):
    page = (ROOT / "docs/artefacts.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{stage.name}` \| (.*) \| (.*) \| (.*) \|$", page, re.M)
    assert row, f"docs/artefacts.md has no row for {stage.name}"
    assert (row[1], row[3]) == (stage.reads, stage.over)
    missing = [name for name in stage.writes if not re.search(rf"`{re.escape(name)}/?`", row[2])]
    assert not missing


def test_the_readme_shows_every_file_with_one_line():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files = {
        str(path.relative_to(ROOT / "counterpoise").with_suffix(""))
        for path in (ROOT / "counterpoise").rglob("*.py")
        if not path.name.startswith("__")
    }
    tree = re.search(r"```tree\n(.*?)```", readme, re.S)[1]
    shown, folder = set(), ""
    for line in tree.splitlines():
        if match := re.match(r"  (\w+)/ ", line):
            folder = match[1] + "/"
        elif match := re.match(r"    (\w+) +\S", line):
            shown.add(folder + match[1])
        elif match := re.match(r"  (\w+) +\S", line):
            shown.add(match[1])
    assert shown == files


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
        for target in targets:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_can_be_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme]
    assert not missing


def test_the_readme_says_which_methods_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\|.*\| `(\w+)` \| (here|planned) \|$", readme, re.M))
    assert {name for name, status in rows.items() if status == "here"} == set(recipe_names())
    published = {"feedback_guided", "balanced_diffusion", "feature_diffusion", "prompted", "interclass_mix"}
    assert published | {"latent_mixture"} <= set(rows)


def test_every_public_name_is_there_and_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(getattr(counterpoise, name) for name in counterpoise.__all__)
    missing = [name for name in counterpoise.__all__ if not re.search(rf"\bcp\.{name}\b", readme)]
    assert not missing


# --- what is shown, runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_name_verbs_and_options_that_exist(page):
    commands = typer.main.get_command(app).commands
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    text = page.read_text(encoding="utf-8")
    shown = [line for block in blocks(page, "sh") for line in block.splitlines()]
    shown += [line for line in re.findall(r"`([^`\n]+)`", text) if re.match(r"(counterpoise|make) \S", line)]
    for line in shown:
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        if words[:1] != ["counterpoise"] or words[1].isupper():
            continue
        assert words[1] in commands, line
        options = {"--help"} | {name for parameter in commands[words[1]].params for name in parameter.opts}
        options |= {name for parameter in commands[words[1]].params for name in parameter.secondary_opts}
        if words[1] == "run":
            recipe = words[words.index("--recipe") + 1] if "--recipe" in words else "auto"
            own = [option(p) for p in own_flags(find_recipe(recipe if recipe in recipe_names() else "auto"))]
            options |= {name for parameter in own for name in (*parameter.opts, *parameter.secondary_opts)}
        unknown = [word for word in words[2:] if word.startswith("--") and word not in options]
        assert not unknown, line


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    fill(tmp_path / "photos", {"cat": 30, "dog": 16, "owl": 10}, size=8)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    headline, label = capsys.readouterr().out.strip().splitlines()
    assert headline.startswith(names["run"].verdict["headline"])
    assert label in {"cat", "dog", "owl"}
    assert len(names["images"]) == len(names["manifest"])
    assert set(names["said"]["arm"].to_pylist()) == {"balanced_softmax"}
    written = list((tmp_path / "balanced").glob("*/*.png"))
    assert sum(path.name.startswith("real") for path in written) == len(names["images"])
    assert any(path.name.startswith("synthetic") for path in written)


@pytest.fixture
def guide(tmp_path):
    """The modules of docs/adding-a-part.md, below counterpoise/ for the time of one test."""
    packages = {}
    for code in blocks(ROOT / "docs/adding-a-part.md", "python"):
        path = re.match(r"# (counterpoise/(\w+)/(\w+)\.py)\n", code)
        assert path, f"the first line names the file: {code[:60]!r}"
        assert not (ROOT / path[1]).exists(), f"{path[1]} would hide a real one"
        file = tmp_path / path[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
        packages.setdefault(path[2], []).append(path[3])
    found = [importlib.import_module(f"counterpoise.{name}") for name in packages]
    for package, name in zip(found, packages, strict=True):
        package.__path__.append(str(tmp_path / "counterpoise" / name))
    yield packages
    for package, (name, modules) in zip(found, packages.items(), strict=True):
        package.__path__.pop()
        for module in modules:
            sys.modules.pop(f"counterpoise.{name}.{module}", None)
            vars(package).pop(module, None)


def test_the_parts_of_the_guide_make_a_study(guide, tmp_path):
    from counterpoise import Data, Holdout, Trials, describe, load, run

    assert set(guide) == {"classifiers", "generators", "scores", "data", "recipes"}
    arrays = importlib.import_module("counterpoise.data.arrays")
    noisy = importlib.import_module("counterpoise.recipes.noisy").noisy
    y = np.repeat(["cat", "dog", "owl"], [40, 24, 14])
    x = np.stack([np.asarray(photo(ord(name[0]), i)) for i, name in enumerate(y)])
    np.savez(tmp_path / "pictures.npz", x=x, y=y)

    source = arrays.Arrays(str(tmp_path / "pictures.npz"))
    recipe = noisy(Data(source, holdout=Holdout(val=0.2, test=0.25)), Trials(n=2, draws=2), smoke=True)
    assert load(describe(recipe)) == recipe
    made = run(recipe, tmp_path / "run")
    assert made.verdict["family"]["arms"] == ["noise"]
    assert made.json("data/facts.json")["classes"] == ["cat", "dog", "owl"]

    samples, selection = made.samples("noise")
    drops = [reason for reason in selection["drop"].to_pylist() if reason]
    assert len(samples) + len(drops) == len(selection) > 0
    assert set(drops) <= {"own_class below 0"}
    real, _ = made.images("train")
    gaps = np.abs(samples[:, None].astype(int) - real[None]).mean((2, 3, 4)).min(1)
    assert (gaps > 0.5).all(), "noise was added"
    assert (gaps < 30).all(), "to real images"


EXAMPLES = {  # what each is run with, and what it says then
    "how_uneven": (
        "--smoke --trials 1 --factors 20 --workers 0 --to OUT",
        r"^ +20  ce .*(generate|cheap arm)$",
    ),
    "miniature": ("apple cloud --out OUT/names.png", r"^ +cloud: CLIP says so of \d of 8"),
}


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_the_examples_run(script, tmp_path, monkeypatch, capsys):
    asked, said = EXAMPLES[script.stem]
    monkeypatch.setattr(sys, "argv", [str(script), *asked.replace("OUT", str(tmp_path)).split()])
    runpy.run_path(str(script), run_name="__main__")
    assert re.search(said, capsys.readouterr().out, re.M)
