"""A recipe's keyword parameters as command-line flags: the signature is the only place where they are written down."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from counterpoise.types import Refusal

SHARED = {"smoke", "draws"}  # flags of `run` itself that recipes look at, too


def recipe_names() -> list[str]:
    """Module names are recipe names; nothing is imported to list them."""
    folder = Path(__file__).parent / "recipes"
    return sorted(info.name for info in pkgutil.iter_modules([str(folder)]))


def find_recipe(name: str) -> Callable[..., Any]:
    if name not in recipe_names():
        raise Refusal(f"there is no recipe {name!r}; recipes are {', '.join(recipe_names())}")
    return getattr(importlib.import_module(f"counterpoise.recipes.{name}"), name)


def own_flags(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in SHARED]


def option(parameter: inspect.Parameter) -> click.Option:
    kind = parameter.annotation
    multiple = False
    if typing.get_origin(kind) in (
        types.UnionType,
        typing.Union,
    ):  # of a Literal and None Python 3.11 makes the latter
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        kind, multiple = typing.get_args(kind)[0], True
    flag = "--" + parameter.name.replace("_", "-")
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", parameter.name], default=parameter.default)
    shown: Any = click.Choice(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else kind
    return click.Option([flag, parameter.name], type=shown, default=parameter.default, multiple=multiple)


def parse_flags(function: Callable[..., Any], arguments: list[str]) -> dict[str, Any]:
    command = click.Command(
        function.__name__, params=[option(p) for p in own_flags(function)], add_help_option=False
    )
    try:
        return command.make_context(function.__name__, list(arguments)).params
    except click.UsageError as error:
        known = ", ".join("--" + p.name.replace("_", "-") for p in own_flags(function))
        raise Refusal(
            f"{error.format_message()} (recipe {function.__name__} takes {known or 'no flags'})"
        ) from None


def flag(parameter: inspect.Parameter) -> str:
    return "--" + parameter.name.replace("_", "-")
