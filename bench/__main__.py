"""`python -m bench`: every benchmark in a process of its own, and the table of docs/results.md with what they found.

A benchmark is a module beside this one. It prints what it likes and, as its last line, one JSON object with at least
`bench`, `ratio`, `bar` and `holds`; `ratios` may name further ones. The exit code is 1 when one does not hold, fails,
or says nothing that can be read.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NEEDED: dict[str, Any] = {"bench": str, "ratio": (int, float), "bar": (int, float), "holds": bool}


def benches(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "bench").glob("*.py") if not path.name.startswith("_"))


def measure(name: str, root: Path) -> dict[str, Any]:
    """What one benchmark found, while its output streams by; `problem` says why it found nothing."""
    command = [sys.executable, "-u", "-m", f"bench.{name}"]
    lines = []
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True, env={"OMP_NUM_THREADS": "1"} | os.environ
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    said = [line for line in lines if line.strip()]
    found = read(said[-1] if said else "")
    if process.returncode:
        found = {"problem": f"exit code {process.returncode}"}
    return {"bench": name, "holds": False} | found


def read(line: str) -> dict[str, Any]:
    """The JSON object of a last line, if it says all that is needed."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return {"problem": "the last line is no JSON"}
    if not isinstance(found, dict):
        return {"problem": "the last line is no JSON object"}
    missing = [key for key, kind in NEEDED.items() if not isinstance(found.get(key), kind)]
    return {"problem": f"the last line lacks {', '.join(missing)}"} if missing else found


def summary(name: str, root: Path) -> str:
    """The first sentence of a benchmark's docstring; nothing is imported."""
    text = ast.get_docstring(ast.parse((root / "bench" / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def table(results: Iterable[dict[str, Any]], root: Path, commit: str, date: str) -> str:
    lines = ["| bench | what | ratio | bar | holds | commit | date |", "|---|---|---|---|---|---|---|"]
    for result in results:
        what = summary(result["bench"], root)
        for name, one in measured(result):
            cells = [
                f"`{name}`",
                what,
                number(one.get("ratio")),
                number(one.get("bar")),
                "yes" if one["holds"] else f"**no**{': ' + one['problem'] if 'problem' in one else ''}",
                commit,
                date,
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            what = ""
    return "\n".join(lines)


def measured(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A benchmark with several bars has a row for each."""
    several = result.get("ratios")
    inner = several if isinstance(several, dict) else {}
    named = {key: one for key, one in inner.items() if isinstance(one, dict) and "holds" in one}
    if not named:
        yield result["bench"], result
    for key, one in named.items():
        yield f"{result['bench']}: {key}", one


def number(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}"


def rewrite(page: Path, lines: str) -> None:
    """Put the table between the markers; what stands around it is a person's and stays."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{page} needs one line {BEGIN} and, below it, one line {END}")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}{BEGIN}\n{lines}\n{after}", encoding="utf-8")


def commit_of(root: Path) -> str:
    """The short hash, with a plus where the tree was changed since; a dash outside of a repository."""
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return "-"
    return head + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(root: Path = ROOT) -> int:
    commit, results = commit_of(root), []
    for name in benches(root):
        print(f"--- {name}: {summary(name, root)}", flush=True)
        results.append(measure(name, root) | {"bench": name})
    lines = table(results, root, commit, time.strftime("%Y-%m-%d"))
    print(f"\n{lines}")
    rewrite(root / "docs" / "results.md", lines)
    return 0 if results and all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
