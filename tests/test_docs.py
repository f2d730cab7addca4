"""Whatever a user can name is documented: verbs, parts, recipe flags, table columns, files of the tree."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest

from counterpoise import tables
from counterpoise.flags import find_recipe, flag, own_flags, recipe_names
from counterpoise.pipeline import STAGES

ROOT = Path(__file__).parents[1]


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
    missing = [
        flag(p) for p in own_flags(find_recipe(name)) if f"`{flag(p)}" not in text and flag(p) not in text
    ]
    assert not missing
    assert "counterpoise run" in text, "a recipe shows its command"


@pytest.mark.parametrize("name", tables.ALL)
def test_every_column_of_every_table_is_described(name):
    page = (ROOT / "docs/artefacts.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {name}\n(.*?)(?=^#|\Z)", page, re.M | re.S)
    assert section, f"docs/artefacts.md has no section '### {name}'"
    missing = [column for column in tables.ALL[name].names if f"`{column}`" not in section[1]]
    assert not missing
    extra = set(re.findall(r"^\| `(\w+)`", section[1], re.M)) - set(tables.ALL[name].names)
    assert not extra, "documented, but not in the schema"


def test_every_stage_and_its_files_are_described():
    page = (ROOT / "docs/artefacts.md").read_text(encoding="utf-8")
    for stage in STAGES:
        assert f"`{stage.name}`" in page
        for written in stage.writes:
            assert f"`{written}" in page, f"{stage.name} writes {written}"


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
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
