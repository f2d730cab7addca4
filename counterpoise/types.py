"""The words everything else is written in: parts, their descriptions, and the one error the user sees.

A *part* is a frozen dataclass whose fields are its settings and whose ``__call__`` does its work. Nothing
here knows torch, the disk or the pipeline.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, ValidationError

T = TypeVar("T", bound=type)

#: Only parts that live below these packages are loaded back from a description.
ALLOWED = ("counterpoise",)


class Refusal(Exception):
    """Something the user asked for that we will not do: the rule, what was found, what to do instead.

    The command line prints it without a traceback and exits with 2.
    """


@dataclass_transform(frozen_default=True)
def part(cls: T) -> T:
    """Make a class a part: a frozen dataclass, validated, that refuses settings it does not know.

    >>> @part
    ... class Loud:
    ...     volume: int = 3
    >>> describe(Loud(volume=5))["volume"]
    5
    """
    made = pydantic.dataclasses.dataclass(
        cls, frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    )
    made.__is_part__ = True  # type: ignore[attr-defined]
    return made  # type: ignore[return-value]


def is_part(value: object) -> bool:
    return bool(getattr(type(value), "__is_part__", False))


def describe(value: Any) -> Any:
    """A part as plain JSON values, complete enough to be loaded back and to be fingerprinted."""
    if is_part(value):
        where = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"part": where} | {
            field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(
        f"a part may hold parts, numbers, strings, lists and mappings, not {type(value).__name__}"
    )


def load(description: Any, allowed: Sequence[str] = ALLOWED) -> Any:
    """The part that a description came from. Modules outside ``allowed`` are never imported."""
    if isinstance(description, list):
        return tuple(load(item, allowed) for item in description)
    if not isinstance(description, dict):
        return description
    fields = {key: load(item, allowed) for key, item in description.items() if key != "part"}
    if "part" not in description:
        return fields
    module, _, name = description["part"].partition(":")
    if module.split(".")[0] not in allowed:
        raise Refusal(f"parts are loaded only from {', '.join(allowed)}; this one names {module!r}")
    try:
        found = importlib.import_module(module)
        for step in name.split("."):
            found = getattr(found, step)
    except (ImportError, AttributeError) as error:
        raise Refusal(f"there is no part {description['part']!r} in this version: {error}") from None
    if not getattr(found, "__is_part__", False):
        raise Refusal(f"{description['part']!r} is not a part")
    return build(found, fields)  # type: ignore[arg-type]


def build(cls: type, settings: Mapping[str, Any]) -> Any:
    """Make a part from outside settings; a bad one is refused with the rule, the field and what was found."""
    known = ", ".join(field.name for field in dataclasses.fields(cls))
    with refusing_settings(f" (settings: {known})"):
        return cls(**settings)


@contextmanager
def refusing_settings(more: str = "") -> Iterator[None]:
    """Parts are made in here, from what somebody wrote: a bad setting is theirs, and no error of ours."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join([error.title, *map(str, first["loc"])])
        raise Refusal(f"{field}: {first['msg']}, found {first['input']!r}{more}") from None


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that change when any setting does.

    >>> fingerprint({"a": 1}) == fingerprint({"a": 1}) != fingerprint({"a": 2})
    True
    """
    text = json.dumps(describe(value), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two descriptions differ: (dotted field, old value, new value), deepest first found.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    [('a.b', 1, 2)]
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.get("part") == new.get("part"):
        keys = list(old) + [key for key in new if key not in old]
        return [
            found
            for key in keys
            for found in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found
            for index, (a, b) in enumerate(zip(old, new, strict=True))
            for found in differences(
                a, b, f"{path}[{a.get('name', index) if isinstance(a, dict) else index}]"
            )
        ]
    return [] if old == new else [(path, old, new)]
