"""`make bench`: each benchmark's last line becomes a row, and nothing that fails can pass for a number."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOOD = {"bench": "quick", "ratio": 5.25, "bar": 5.0, "holds": True}
PAGE = "# Results\n\nmine\n\n<!-- bench:begin -->\na stale row\n<!-- bench:end -->\n\nalso mine\n"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_main", ROOT / "bench/__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path):
    """A project with results.md and a function that adds a benchmark which runs the given lines."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/results.md").write_text(PAGE)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/__init__.py").write_text("")

    def add(name, *lines, doc="How quick | it\nis.\n\nMore."):
        (tmp_path / f"bench/{name}.py").write_text("\n".join([f'"""{doc}"""', "import json, sys", *lines]))

    add.root = tmp_path
    add.page = lambda: (tmp_path / "docs/results.md").read_text()
    return add


def test_rows_come_from_the_last_line_and_the_rest_of_the_page_stays(bench, project, capfd):
    project("quick", "print('a table for people')", f"print(json.dumps({GOOD!r}))", "print()")
    assert bench.main(project.root) == 0
    assert "a table for people" in capfd.readouterr().out
    page = project.page()
    assert page.startswith("# Results\n\nmine\n")
    assert page.endswith("\n\nalso mine\n")
    assert "| `quick` | How quick \\| it is | 5.25 | 5 | yes | - |" in page
    assert "stale" not in page
    once = page
    assert bench.main(project.root) == 0
    assert project.page() == once, "a second run replaces the table"


def test_each_bar_of_a_benchmark_has_its_row(bench, project):
    two = GOOD | {"ratios": {"speed": {"ratio": 1, "bar": 0.9, "holds": True}, "by": 3}}
    project("quick", f"print(json.dumps({two!r}))")
    assert bench.main(project.root) == 0
    assert "| `quick: speed` | How quick \\| it is | 1 | 0.9 | yes |" in project.page()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"print(json.dumps({GOOD | {'holds': False}!r}))", "**no**"),
        (f"print(json.dumps({GOOD!r})); print('bye')", "no JSON"),
        (f"print(json.dumps({GOOD!r})); sys.exit(3)", "exit code 3"),
        ("print(json.dumps([1, 2]))", "no JSON object"),
        ("print(json.dumps({'bench': 'quick', 'ratio': '5', 'bar': 5}))", "lacks ratio, holds"),
        ("pass", "no JSON"),
    ],
)
def test_what_does_not_hold_fails_and_is_shown(bench, project, line, said):
    project("a_good_one", f"print(json.dumps({GOOD!r}))")
    project("quick", line)
    assert bench.main(project.root) == 1
    rows = [row for row in project.page().splitlines() if row.startswith("| `")]
    assert len(rows) == 2, "one failure does not hide the others"
    assert "yes" in rows[0]
    assert said in rows[1]


def test_without_any_benchmark_nothing_holds(bench, project):
    assert bench.main(project.root) == 1


@pytest.mark.parametrize(
    "text", ["# no markers\n", "<!-- bench:end -->\n<!-- bench:begin -->\n", PAGE + PAGE]
)
def test_a_page_without_its_markers_is_left_alone(bench, tmp_path, text):
    page = tmp_path / "results.md"
    page.write_text(text)
    with pytest.raises(SystemExit, match="needs one line"):
        bench.rewrite(page, "| row |")
    assert page.read_text() == text


def test_our_own_benchmarks_say_what_they_measure(bench):
    names = bench.benches(ROOT)
    assert {"loader", "trials"} <= set(names)
    assert all(bench.summary(name, ROOT) for name in names)
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert page.count(bench.BEGIN) == page.count(bench.END) == 1
