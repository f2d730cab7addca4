"""Write docs/parts.md and docs/commands.md from the code itself: `python tools/write_docs.py`. A test holds them equal."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import typer

import counterpoise
from counterpoise.cli import app
from counterpoise.flags import find_recipe, flag, own_flags, recipe_names

DOCS = Path(__file__).parents[1] / "docs"


def all_parts() -> dict[str, type]:
    """Every part of the package by its full name."""
    found = {}
    for info in pkgutil.walk_packages(counterpoise.__path__, "counterpoise."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, item in vars(module).items():
            if inspect.isclass(item) and getattr(item, "__is_part__", False) and item.__module__ == module.__name__:
                found[f"{module.__name__}.{name}"] = item
    return dict(sorted(found.items()))


def parts_page() -> str:
    lines = [
        "# Parts",
        "",
        "Made by `python tools/write_docs.py` from the code. A part is a frozen dataclass; its fields are its settings.",
    ]
    home = ""
    for name, item in all_parts().items():
        module = name.removeprefix("counterpoise.").rsplit(".", 1)[0]
        if module != home:
            home = module
            summary = (inspect.getdoc(importlib.import_module(f"counterpoise.{module}")) or "").split("\n")[0]
            lines += ["", f"## {module}", "", summary, "", "| part | what it does | settings |", "|---|---|---|"]
        first = " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split()).replace("|", "\\|")
        settings = ", ".join(_setting(field) for field in dataclasses.fields(item))  # type: ignore[arg-type]
        lines.append(f"| `{item.__name__}` | {first} | {settings or '-'} |")
    return "\n".join(lines) + "\n"


def _setting(field: dataclasses.Field) -> str:
    default = field.default
    if hasattr(default, "default"):  # pydantic's own field
        default = default.default
    if default is dataclasses.MISSING or str(default) == "PydanticUndefined":
        return f"`{field.name}`"
    return f"`{field.name}={default!r}`".replace("|", "\\|")


def commands_page() -> str:
    group = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "Made by `python tools/write_docs.py` from the code. `counterpoise VERB --help` says the same.",
    ]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        lines += ["", f"## counterpoise {name}", "", inspect.cleandoc(command.help or ""), ""]
        lines += ["| argument or option | default | |", "|---|---|---|"]
        for parameter in command.params:
            names = parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
            default = "" if parameter.default in (None, "", False) or callable(parameter.default) else parameter.default
            text = (getattr(parameter, "help", "") or "").replace("|", "\\|")
            lines.append(f"| `{names}` | {default} | {text} |")
    lines += ["", "# Recipes", "", "Flags of `counterpoise run` that belong to one recipe."]
    for name in recipe_names():
        function = find_recipe(name)
        lines += ["", f"## {name}", "", inspect.getdoc(function) or "", "", "| flag | default |", "|---|---|"]
        lines += [f"| `{flag(p)}` | {p.default!r} |" for p in own_flags(function)]
    return "\n".join(lines) + "\n"


PAGES = {"parts.md": parts_page, "commands.md": commands_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
