"""Class names as a text model reads them: cleaned, given an article, and put into a template."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from counterpoise.types import Refusal

PLACES = re.compile(r"\{(.*?)\}")

#: Many ways to say that a picture shows a thing, so that a word learns the thing and not the sentence around it.
SENTENCES = (
    "a photo of {a}",
    "a photograph showing {a}",
    "a picture of {a}",
    "an image of {a}",
    "one photo of the {name}",
    "a close-up photo of {a}",
    "a cropped photo of {a}",
    "a photo of {a} in the distance",
    "a photo of a large {name}",
    "a photo of a small {name}",
    "a bright photo of {a}",
    "a dark photo of {a}",
    "a sharp photo of {a}",
    "a blurry photo of {a}",
    "a good photo of {a}",
    "a bad photo of {a}",
    "a snapshot of {a}",
    "a detailed view of {a}",
    "{a}, seen from nearby",
    "this is {a}",
)


def said(name: str) -> str:
    """A class name as one would say it; a cell is a class, and its group.

    >>> said(" pickup_truck "), said("dog / in_snow")
    ('pickup truck', 'dog, in snow')
    """
    return " ".join(name.replace(" / ", ", ").replace("_", " ").split())


def called(classes: Sequence[str], glossary: Mapping[str, str]) -> list[str]:
    """Class names as text models are told them: those of the glossary as it says, the others as they are."""
    return [glossary.get(name, name) for name in classes]


def with_article(name: str) -> str:
    """The same with its article, by its first letter as it is written; a template with {name} has none.

    >>> with_article("oak_tree"), with_article("Rose"), with_article("8")
    ('an oak tree', 'a Rose', 'an 8')
    """
    name = said(name)
    letter = unicodedata.normalize("NFD", name[:1].lower())[:1]
    return f"{'an' if letter in tuple('aeiou8') or name in ('11', '18') else 'a'} {name}"


def prompts(template: str, names: Sequence[str]) -> list[str]:
    """The template said of every name: {a} is the name with its article, {name} the name alone.

    >>> prompts("a photo of {a}", ["oak_tree", "rose"])
    ['a photo of an oak tree', 'a photo of a rose']
    """
    places = set(PLACES.findall(template))
    if not places or not places <= {"a", "name"}:
        raise Refusal(
            f"a template says {{a}}, the class name with its article, or {{name}}, and nothing else in braces; found "
            f"{template!r}: write for example 'a photo of {{a}}'"
        )
    _check(names)
    return [  # in one pass: braces in a name are only braces
        PLACES.sub(lambda place, name=name: with_article(name) if place[1] == "a" else said(name), template)  # type: ignore[misc]
        for name in names
    ]


def _check(names: Sequence[str]) -> None:
    """Text models see a class by its name alone, and most do not see capitals."""
    seen: dict[str, str] = {}
    for name in names:
        heard = said(name).casefold()
        if not heard:
            raise Refusal(
                f"a text model knows a class by its name, and {name!r} says nothing: name the class"
            )
        if heard in seen:
            raise Refusal(
                f"a text model knows a class by its name, and {seen[heard]!r} and {name!r} are said alike: rename one"
            )
        seen[heard] = name
