"""Which classes of a study a text names, and how what a model wrote about one of them becomes a template.

Words are compared as they are written, up to capitals and the plural. Of several names at one place the longest counts: a
pickup truck is no truck. Names in scripts without capitals, which may put no blanks between words, are looked for by letters.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from counterpoise.nets.words import WORD, said

MOST_WORDS = 40  # of a text: CLIP reads about so many
LEAST_LETTERS = 4  # besides the class: else nothing is said of it
PLACED = re.compile(r"\{\w+\}(?:e?s\b)?")
ARTICLE = re.compile(r"(?<!\w)an?\s+$", re.IGNORECASE)

PLURALS = {"mice": "mouse", "geese": "goose", "children": "child", "people": "person", "feet": "foot"}
ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"))

THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
MARKS = re.compile(r"<\|[^|>]*\|>|</?s>|\[/?INST\]|[{}*`#\ufffd]|[\x00-\x09\x0b-\x1f\x7f]")
PREAMBLE = re.compile(
    r"^\s*(?:sure|certainly|of course|here(?: is| are|'s))\b[^\n]*:\s*(?=\S)", re.IGNORECASE
)
ROLES = "user|assistant|system|caption|answer|output|response"
ROLE = re.compile(rf"^(?:(?:{ROLES})\s*:|[-•]\s|\d+[.)]\s)\s*", re.IGNORECASE)
LOOSE = re.compile(r"\s+(?=[,;:.!?]|'s\b)")
ENDS = re.compile(r"(?<!\b(?:St|Mt|Mr|Dr))[.!?]+[\"'”’]?\s.*|[。！？].*")
AROUND = "\"'“”‘’«»„ ,;:.!?"


def cleaned(text: str) -> str:
    """The first sentence of what a model wrote, without what stands around it.

    >>> cleaned('Assistant: "A photo of a dog , at dusk." I hope {this} helps!')
    'A photo of a dog, at dusk'
    """
    text = PREAMBLE.sub("", MARKS.sub(" ", THOUGHTS.sub(" ", text)))
    lines = (" ".join(line.split()) for line in text.splitlines())
    line = next((line for line in lines if line), "")
    while ROLE.match(line):
        line = ROLE.sub("", line)
    return ENDS.sub("", LOOSE.sub("", line)).strip(AROUND)


def singulars(word: str) -> Iterator[str]:
    """The word, and what it may be the plural of."""
    yield word
    if word in PLURALS:
        yield PLURALS[word]
    if len(word) > 3 and not word.endswith("ss"):
        yield from (
            word.removesuffix(ending) + instead for ending, instead in ENDINGS if word.endswith(ending)
        )


@dataclass(frozen=True)
class Mention:
    """Classes that are said between two letters of a text: several where names begin alike, as cells of one class do."""

    labels: set[int]
    start: int
    end: int  # of the name itself: an s of the plural follows it
    plural: bool = False


class Mentions:
    """Finds the classes of these names. What follows a comma says which of several things is meant, and need not be said."""

    def __init__(self, names: Sequence[str]) -> None:
        self.words: dict[tuple[str, ...], set[int]] = defaultdict(set)
        self.letters: dict[str, set[int]] = defaultdict(set)
        for label, name in enumerate(map(said, names)):
            for spelt in {name, name.split(",")[0]}:
                words = tuple(word.casefold() for word in WORD.findall(spelt))
                if spelt.lower() == spelt.upper() and not spelt.isdecimal():
                    self.letters[spelt].add(label)
                elif len(spelt) > 1 or spelt.isdecimal():  # there is an "a" in every text
                    self.words[words].add(label)
        self.longest = max(map(len, self.words), default=0)

    def __call__(self, text: str) -> list[Mention]:
        """In the order of the text; none overlaps another."""
        found = list(self._by_words(text))
        for name in sorted(self.letters, key=len, reverse=True):
            for place in re.finditer(re.escape(name), text):
                if all(place.end() <= one.start or one.end <= place.start() for one in found):
                    found.append(Mention(self.letters[name], place.start(), place.end()))
        return sorted(found, key=lambda one: one.start)

    def _by_words(self, text: str) -> Iterator[Mention]:
        words = list(WORD.finditer(text))
        heard, at = [word[0].casefold() for word in words], 0
        while at < len(words):
            for some in range(min(self.longest, len(words) - at), 0, -1):
                *first, last = heard[at : at + some]
                one = next((one for one in singulars(last) if (*first, one) in self.words), None)
                if one is not None:
                    begins = last.startswith(one)  # else the plural is another word
                    end = words[at + some - 1].end() - (len(last) - len(one) if begins else 0)
                    yield Mention(self.words[(*first, one)], words[at].start(), end, one != last)
                    at += some - 1
                    break
            at += 1

    def template(self, label: int, text: str, named: bool = True) -> tuple[str, str]:
        """What a model wrote of a class, {a} or {name} in the place of its name; or nothing, and why.

        Unless it has to be `named`, a text that does not say its class follows its name.
        """
        text, mine = cleaned(text), []
        for mention in self(text):
            if label not in mention.labels:
                return "", "names another class"
            mine.append(mention)
        if named and not mine:
            return "", "does not name its class"
        for one in reversed(mine):
            before, after = text[: one.start], text[one.end :]
            article = None if one.plural else ARTICLE.search(before)
            text = (before[: article.start()] + "{a}" if article else before + "{name}") + after
        more = WORD.findall(PLACED.sub(" ", text))
        if sum(map(len, more)) < LEAST_LETTERS:
            return "", "says nothing more"
        if len(more) > MOST_WORDS:
            return "", "is too long"
        return text if mine else f"{{a}}, {text}", ""
