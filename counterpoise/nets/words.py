"""Class names as a text model reads them: cleaned, given an article, and put into a template."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from counterpoise.nets.homonyms import HOMONYMS, KINS
from counterpoise.types import Refusal

PLACES = re.compile(r"\{(.*?)\}")
WORD = re.compile(r"[^\W_]+")
SYNSET = re.compile(r"^n\d{8}(?!\d)[\s_:.-]*")
COUNTED = re.compile(r"(\d+)[\s_.-]+(?=[^\W\d_])")
BRACKETS = re.compile(r"(.*[^\s_])[\s_]*\((.+)\)\s*")
HUMP = re.compile(r"[A-Z][a-z]{2,}")
HUMPS = re.compile(rf"(?:{HUMP.pattern}){{2,}}")  # AnnualCrop, but neither iPhone nor BMW
LEARNT = re.compile(r"<[^>]*>")  # a word that was learnt is one token, however it is written
LONGEST = 200  # letters of a name: of a whole prompt CLIP reads about 300
NAMED, SHOWN = 5, 60  # classes in a refusal, and letters of a long one

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
    """Class names as text models are told them: those of the glossary as it says, the others freed of what lists add to them.

    Numbers of WordNet and of the list go from the front, humps become words, and what is in brackets follows a comma. Of
    synonyms between commas the first is said, and as many more as it takes where two classes would be said alike. Where that
    leaves nothing, or they still are, names stay as they are: studies that tell no text model anything do not mind, and
    `prompts` refuses them.

    >>> called(["n01440764 tench, Tinca tinca", "AnnualCrop", "tower (building)", "pickup_truck", "8"], {"8": "the digit 8"})
    ['tench', 'annual crop', 'tower, building', 'pickup_truck', 'the digit 8']
    >>> called(["001.Black_footed_Albatross", "002.Laysan_Albatross"], {})
    ['Black_footed_Albatross', 'Laysan_Albatross']
    >>> called(["maillot", "maillot, tank suit"], {})
    ['maillot', 'maillot, tank suit']
    """
    for stranger in glossary:
        if stranger not in classes:
            near = get_close_matches(stranger, classes) or classes
            listed = ", ".join(map(repr, near[:NAMED]))
            raise Refusal(
                f"the glossary says what {stranger!r} is, and there is no such class (near ones: {listed}): use the names of the data"
            )
    bare = _uncounted([SYNSET.sub("", name) for name in classes])
    synonyms = [
        [glossary[name]] if name in glossary else plain.split(", ")
        for name, plain in zip(classes, bare, strict=True)
    ]
    times = [1] * len(classes)
    while True:
        found = [
            glossary[name] if name in glossary else _in_words(", ".join(parts[:some]))
            for name, parts, some in zip(classes, synonyms, times, strict=True)
        ]
        alike = Counter(map(_heard, found))
        more = [
            min(some + (alike[_heard(name)] > 1), len(parts))
            for name, parts, some in zip(found, synonyms, times, strict=True)
        ]
        if more == times:
            break
        times = more
    return [
        told if name in glossary or (said(told) and alike[_heard(told)] == 1) else name
        for name, told in zip(classes, found, strict=True)
    ]


def homonyms(classes: Sequence[str], glossary: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Classes whose names mean several things, with what those are, where neither glossary nor the other classes settle which.

    Others settle it where they are of the kind of one meaning, and none of them is of the kind of another.

    >>> homonyms(["crane", "swan", "tractor"], {}), homonyms(["crane", "swan", "gull"], {})
    ({'crane': ('a bird', 'a machine')}, {})
    """
    names = [_heard(name) for name in called(classes, glossary)]
    words = [
        {form for word in WORD.findall(name) for form in (word, word.removesuffix("s"))} for name in names
    ]
    found: dict[str, tuple[str, ...]] = {}
    for place, name in enumerate(names):
        if name in HOMONYMS and classes[place] not in glossary:
            others = set().union(*words[:place], *words[place + 1 :])
            kins = {kin for kin in HOMONYMS[name].values() if kin and KINS[kin] & others}
            if len(kins) != 1:
                found[classes[place]] = tuple(HOMONYMS[name])
    return found


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


def _uncounted(names: Sequence[str]) -> list[str]:
    """Without the numbers in front that count the list: where most names have one, or it is filled up with zeros.

    They stay where something is told apart by them.
    """
    counted = [COUNTED.match(name) for name in names]
    most = sum(map(bool, counted)) > len(names) / 2
    plain = [
        name[found.end() :] if found and (most or found[1].startswith("0")) else name
        for name, found in zip(names, counted, strict=True)
    ]
    numbers = Counter(found[1] for found in counted if found)
    return (
        plain if len(set(plain)) == len(set(names)) and max(numbers.values(), default=1) == 1 else list(names)
    )


def _in_words(name: str) -> str:
    if found := BRACKETS.fullmatch(name):
        return f"{found[1]}, {found[2]}"
    return " ".join(HUMP.findall(name)).lower() if HUMPS.fullmatch(name) else name


def _heard(name: str) -> str:
    """What names have in common that are said alike: most text models do not see capitals."""
    return unicodedata.normalize("NFC", said(_in_words(SYNSET.sub("", name)))).casefold()


def _check(names: Sequence[str]) -> None:
    """Text models see a class by its name alone."""
    seen: dict[str, str] = {}
    for name in names:
        heard = _heard(name)
        if not heard:
            raise Refusal(
                f"a text model knows a class by its name, and {name!r} says nothing: name the class, or say in the glossary what it is "
                "(--gloss CLASS='a name')"
            )
        if len(LEARNT.sub("", heard)) > LONGEST:
            raise Refusal(
                f"text models do not read a name of more than {LONGEST} letters to its end, and {name[:SHOWN] + '...'!r} has {len(heard)}: "
                "shorten it, or say in the glossary what it is (--gloss CLASS='a name')"
            )
        if heard in seen:
            raise Refusal(
                f"a text model knows a class by its name, and {seen[heard]!r} and {name!r} are said alike: rename one, or say in the "
                "glossary what each is (--gloss CLASS='a name')"
            )
        seen[heard] = name
