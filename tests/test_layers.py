"""Imports go one way only, optional libraries stay behind one file, and the light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "counterpoise"

#: From the top down. A module may import what is below it, and its own package.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["verbs"],
    ["terminal", "doctor", "estimate", "judging"],
    ["recipes", "flags", "sklearn"],
    ["named"],
    ["grounds"],
    ["arms", "bases"],
    ["pipeline"],
    ["stages"],
    ["listening", "crossfitting"],
    ["delivery", "funnel", "gains", "gallery", "tutoring"],
    ["trials"],
    ["tuned", "firstweights"],
    ["pupils"],
    ["gathering", "trialfiles", "encoding"],
    ["study"],
    ["material"],
    ["recipe", "lots"],
    ["generators", "proposals", "scores", "classifiers", "metrics", "report"],
    ["diffusion"],
    ["spaces"],
    ["nets"],
    ["data"],
    ["rundir", "workers"],
    ["tables", "seeding"],
    ["types"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

#: Optional or heavy libraries, and the only files that may name them (inside functions).
WRAPPED = {
    "transformers": {
        "nets/backbones.py",
        "nets/captioning.py",
        "nets/clip.py",
        "nets/language.py",
        "nets/stable_diffusion.py",
    },
    "huggingface_hub": {"nets/folders.py"},
    "timm": {"nets/backbones.py"},
    "open_clip": {"nets/backbones.py", "nets/clip.py"},
    "datasets": {"data/embedded.py", "data/packed.py"},
    "diffusers": {"nets/to_diffusers.py", "nets/stable_diffusion.py", "nets/single_file.py"},
    "peft": {"nets/lora.py"},
    "ray": set(),
    "submitit": set(),
    "torchvision": set(),
    "accelerate": {"diffusion/ranks.py"},
    "umap": {"metrics/projection.py"},
    "imblearn": {"sklearn.py"},
}
SUBCLASSED = {"sklearn.py"}  # opened by users alone: what it wraps are its base classes


def imports(tree: ast.AST, at_top: bool = False):
    """Every imported module; with `at_top` only those that run when the file is imported."""
    for node in ast.iter_child_nodes(tree):
        if at_top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_top and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
            yield ast.literal_eval(node.args[0])
        yield from imports(node, at_top)


FILES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def unit(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_go_down(file):
    mine = unit(file)
    assert mine in RANK, f"{file} has no layer: give it one in this test and in docs/design"
    for name in imports(FILES[file]):
        steps = name.split(".")
        if steps[0] != "counterpoise":
            continue
        other = steps[1]
        if other == mine:
            if mine == "stages" and steps[2] != "stage":
                assert steps[2] == Path(file).stem, (
                    f"{file} imports the stage {steps[2]}: stages meet only on disk"
                )
            continue
        if other in RANK:
            assert RANK[other] > RANK[mine], f"{file} imports counterpoise.{other}, which is not below it"


@pytest.mark.parametrize("file", FILES)
def test_optional_libraries_stay_in_their_file_and_inside_functions(file):
    at_top = {name.split(".")[0] for name in imports(FILES[file], at_top=True)}
    for name in {name.split(".")[0] for name in imports(FILES[file])} & set(WRAPPED):
        assert file in WRAPPED[name], f"{file} imports {name}: only {WRAPPED[name] or 'nobody'} may"
        assert name not in at_top or file in SUBCLASSED, (
            f"{file} imports {name} when it is imported: do it inside the function"
        )


def test_no_file_has_grown_two_reasons_to_change():
    long = {file: lines for file in FILES if (lines := len((ROOT / file).read_text().splitlines())) > 400}
    assert not long, f"split by noun: {long}"


@pytest.mark.parametrize("command", [["--help"], ["status", "RUN"], ["run", "--help"]], ids=" ".join)
def test_light_commands_import_no_torch(tmp_path, command):
    (tmp_path / "recipe.json").write_text('{"layout": 1, "recipe": {"name": "x"}}')
    command = [str(tmp_path) if word == "RUN" else word for word in command]
    code = f"""
import sys
sys.argv = ["counterpoise", *{command!r}]
from counterpoise.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {{"torch", "numpy", "pyarrow", "pandas", "sklearn", "scipy", "matplotlib", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "counterpoise" in done.stdout or "stage" in done.stdout
