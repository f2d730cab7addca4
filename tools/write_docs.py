"""Write docs/parts.md and docs/commands.md from the code itself: `python tools/write_docs.py`. A test holds them equal."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

import counterpoise
from counterpoise.cli import app
from counterpoise.flags import find_recipe, flag, own_flags, recipe_names

DOCS = Path(__file__).parents[1] / "docs"
MADE = "Made by `python tools/write_docs.py` from the code"


def all_parts() -> dict[str, type]:
    """Every part of the package by its full name."""
    found = {}
    for info in pkgutil.walk_packages(counterpoise.__path__, "counterpoise."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, item in vars(module).items():
            if (
                inspect.isclass(item)
                and getattr(item, "__is_part__", False)
                and item.__module__ == module.__name__
            ):
                found[f"{module.__name__}.{name}"] = item
    return dict(sorted(found.items()))


# --- parts ---------------------------------------------------------------------------------------------------


def parts_page() -> str:
    lines = [
        "# Parts",
        "",
        f"{MADE}. A part is a frozen dataclass; its fields are its settings.",
    ]
    home = ""
    for name, item in all_parts().items():
        module = name.removeprefix("counterpoise.").rsplit(".", 1)[0]
        if module != home:
            home = module
            lines += ["", f"## {module}", "", _summary(importlib.import_module(f"counterpoise.{module}")), ""]
            lines += ["| part | what it does | settings |", "|---|---|---|"]
        settings = ", ".join(_setting(field) for field in dataclasses.fields(item))
        lines.append(f"| `{item.__name__}` | {_cell(_summary(item))} | {settings or '-'} |")
    return "\n".join(lines) + "\n"


def _summary(item: type | ModuleType) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _setting(field: dataclasses.Field[Any]) -> str:
    default: Any = field.default
    if hasattr(default, "default"):  # pydantic's own field
        default = default.default
    if default is dataclasses.MISSING or str(default) == "PydanticUndefined":
        return f"`{field.name}`"
    return _cell(f"`{field.name}={default!r}`")


# --- commands ------------------------------------------------------------------------------------------------


def commands_page() -> str:
    group = typer.main.get_command(app)
    lines = ["# Commands", "", f"{MADE}. `counterpoise VERB --help` says the same."]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        lines += ["", f"## counterpoise {name}", "", _prose(inspect.cleandoc(command.help or "")), ""]
        lines += ["| argument or option | default | what it says |", "|---|---|---|"]
        for parameter in command.params:
            names = (
                parameter.name.upper()
                if parameter.param_type_name == "argument"
                else ", ".join(parameter.opts)
            )
            text = _cell(getattr(parameter, "help", "") or "")
            lines.append(f"| `{names}` | {_default(parameter.default)} | {text} |")
    lines += ["", "# Recipes", "", "Flags of `counterpoise run` that belong to one recipe."]
    for name in recipe_names():
        function = find_recipe(name)
        lines += [
            "",
            f"## {name}",
            "",
            _prose(inspect.getdoc(function) or ""),
            "",
            "| flag | default |",
            "|---|---|",
        ]
        lines += [f"| `{flag(p)}` | {_default(p.default)} |" for p in own_flags(function)]
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    """A default as one would type it; nothing for a flag that is off, for none, and for what is computed."""
    return "" if value is None or value is False or value == "" or callable(value) else f"`{value}`"


def _prose(text: str) -> str:
    """Markdown of a docstring: a line that is a command becomes a block of its own."""
    lines: list[str] = []
    for line in text.splitlines():
        shown = line.strip()
        lines += ["", "```sh", shown, "```", ""] if shown.startswith("counterpoise ") else [shown]
    return "\n".join(line for at, line in enumerate(lines) if line or (at and lines[at - 1])).strip()


PAGES = {"parts.md": parts_page, "commands.md": commands_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
