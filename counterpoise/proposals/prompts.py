"""What a text-to-image model is told of each wanted sample: a template, in which {a} is the class with its article, {name} it alone.

A text depends on the seed, the classes and its own number among those of its class, not on how many are wanted. Classes are
as text models are told them; whoever has learnt a word for a class says the same sentence of that word.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from counterpoise.data.pixels import Rows
from counterpoise.nets.captioning import captioner_folder, open_captioner
from counterpoise.nets.language import Kind, Writer, open_script, open_writer
from counterpoise.nets.words import prompts
from counterpoise.proposals.mentions import Mentions
from counterpoise.proposals.presets import DATA_SETS, PRESETS, preset
from counterpoise.proposals.scenes import Scenes
from counterpoise.seeding import derive, generator
from counterpoise.types import Refusal, part

#: How each kind of model is asked; what stands behind a bar is how its answer begins.
ASK: dict[Kind, str] = {
    "miniature": "{name} :",
    "causal": "The caption of a photograph: |a photo of {a}",
    "chat": "Write the caption of a photograph that shows {a}, in one short sentence: where it is, in what light, and from where it "
    "is seen. Call it by this name, and answer with the caption alone.",
    "text2text": "{name}",  # as models of CommonGen are asked, which make sentences of words
}
AT_ONCE = 32  # answers to one question: always so many, for how many there are may decide a bit of each
TIMES = 4  # as many answers as texts are wanted, at most
PATIENCE = 2 * AT_ONCE  # answers without one of use, after which a class is given up
LEAST = 0.05  # of all texts that are of use: a network that was never trained names a class now and then
OTHERS = 8  # classes
TEXT = "{text}"
EXAMPLE = 200  # letters of an example


@dataclass(frozen=True)
class Written:
    """For each class as many templates as are wanted, and counts of what became of those that were written."""

    texts: list[list[str]]
    told: dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """The real rows of a draw, for those who say what they show: classes, pictures, and the captions that the data have."""

    labels: np.ndarray
    pictures: Rows | None = None
    captions: Sequence[str | None] | None = None


NOTHING = Shown(np.empty(0, np.int64))


@part
class Templates:
    """One sentence for all samples, or several by turns, each as often as the others.

    `of` is a template, several, or the name of some: "photo", "satellite", "bird", ... or a data set, such as "eurosat".
    """

    of: str | Annotated[tuple[str, ...], Field(min_length=1)] = "photo"

    def __post_init__(self) -> None:
        if isinstance(self.of, str) and "{" not in self.of and not preset(self.of):
            raise Refusal(
                f"there are no templates {self.of!r}: known are {', '.join(PRESETS)}, and of data sets {', '.join(DATA_SETS)}; or "
                "write one, such as 'a photo of {a}'"
            )
        self.ready(["class"])  # refuses one that names no class

    @property
    def templates(self) -> tuple[str, ...]:
        return (preset(self.of) or (self.of,)) if isinstance(self.of, str) else self.of

    def ready(self, names: Sequence[str] | None) -> None:
        """Refuses names that cannot be said; they are none as long as nobody knows them."""
        for template in self.templates:
            prompts(template, names or [])

    def __call__(
        self, names: Sequence[str], wanted: np.ndarray, seed: int, captions: Shown = NOTHING
    ) -> Written:
        rngs = [generator("templates", seed, name) for name in names]
        return _written([rng.permutation(self.templates).tolist() for rng in rngs], wanted, int(wanted.sum()))


@part
class Grammar:
    """Scenes that words alone make: a medium, a place, the light there and a view. No model is needed, and no data.

    There are some fifty thousand. What names a class of the study is never said, for it would be in the picture as well.
    """

    def ready(self, names: Sequence[str] | None) -> None:
        """Nothing can be missing."""

    def __call__(
        self, names: Sequence[str], wanted: np.ndarray, seed: int, captions: Shown = NOTHING
    ) -> Written:
        scenes = Scenes(names)
        found = [
            list(islice(scenes(generator("grammar", seed, name)), some))
            for name, some in zip(names, wanted.tolist(), strict=True)
        ]
        return _written(found, wanted, int(wanted.sum()))


@part
class Language:
    """Sentences that a language model makes of class names (language enhancement, He et al. 2023, Section 3.1).

    `model` is "miniature", a folder, or a name on the hub, of any causal or text-to-text model of transformers. `ask` is what it
    is asked, by default what suits its kind; what stands behind a bar in it is how a causal model's answer begins. Kept is the
    first sentence of an answer, where it names its class and no other. `frame` is said around it. A class of which nothing can be
    kept gets sentences of the grammar; a model that has nothing to say of any is refused.
    """

    model: str = "miniature"
    revision: str | None = None
    allow_pickle: bool = False
    ask: str | None = None
    frame: str = TEXT
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95

    def __post_init__(self) -> None:
        _check_frame(self.frame)
        if self.ask is not None:
            prompts(self.ask, [])  # refuses one that names no class

    def ready(self, names: Sequence[str] | None) -> None:
        """Refuses what can be refused before anything is made; `names` are none as long as nobody knows them."""
        script = open_script(self.model, self.revision, self.allow_pickle)
        for name in names or []:
            script.tokens(*self._asked(name, script.kind))

    def __call__(
        self, names: Sequence[str], wanted: np.ndarray, seed: int, captions: Shown = NOTHING
    ) -> Written:
        if not wanted.any():
            return _written([[] for _ in names], wanted, 0)
        writer, sieve = open_writer(self.model, self.revision, self.allow_pickle), Sieve(names)
        for label, some in sieve.by_class(wanted):
            for first in range(0, max(TIMES * some, PATIENCE), AT_ONCE):
                given_up = first >= PATIENCE and not sieve.kept[label]
                if given_up or len(sieve.kept[label]) >= some:
                    break
                sieve(label, self._answers(writer, names[label], first, seed))
        return sieve.written(names, wanted, seed, self.frame, f"{self.model} (ask it otherwise: `ask`)")

    def _answers(self, writer: Writer, name: str, first: int, seed: int) -> list[str]:
        seeds = [derive("sentence", seed, name, number) for number in range(first, first + AT_ONCE)]
        asked, begun = self._asked(name, writer.script.kind)
        return writer(asked, seeds, begun, self.temperature, self.top_p)

    def _asked(self, name: str, kind: Kind) -> tuple[str, str]:
        """A question, and how its answer begins."""
        question, _, begun = (self.ask or ASK[kind]).partition("|")
        return _said(question, name), _said(begun, name)


@part
class Captions:
    """What the real pictures of a class show, in words: those of the data, or of a captioning `model`, a folder or a name on the hub.

    A sample is told the caption of any picture of its class, drawn apart from the one that it may start from (DISEF, Turrisi da Costa et
    al. 2023). The class name in it becomes a place for the class, and stands in front where it is not in it; a caption that
    names another class is not used. `frame` is said around it. A class without a caption gets sentences of the grammar.
    """

    model: str | None = None
    revision: str | None = None
    allow_pickle: bool = False
    frame: str = TEXT

    def __post_init__(self) -> None:
        _check_frame(self.frame)

    def ready(self, names: Sequence[str] | None) -> None:
        """Refuses what can be refused before anything is made; `names` are none as long as nobody knows them."""
        if self.model is not None:
            captioner_folder(self.model, self.revision, self.allow_pickle)

    def __call__(
        self, names: Sequence[str], wanted: np.ndarray, seed: int, captions: Shown = NOTHING
    ) -> Written:
        if not wanted.any():
            return _written([[] for _ in names], wanted, 0)
        say, sieve = self._say(captions), Sieve(names, named=False)
        for label, some in sieve.by_class(wanted):
            rows = generator("captions", seed, names[label]).permutation(
                np.flatnonzero(captions.labels == label)
            )
            sieve(label, say(rows, some))
        source = "the data" if self.model is None else self.model
        return sieve.written(names, wanted, seed, self.frame, f"captions of {source}")

    def _say(self, shown: Shown) -> Callable[[np.ndarray, int], list[str]]:
        """Captions of so many of these rows."""
        if self.model is not None:
            assert shown.pictures is not None
            captioner, pictures = open_captioner(self.model, self.revision, self.allow_pickle), shown.pictures
            return lambda rows, some: captioner(pictures.raw(rows[:some]))
        if not (known := shown.captions) or not any(known):
            raise Refusal(
                "samples are to be told captions of real pictures, and these data have none: give them a column 'caption', name a "
                "captioning model, or take Templates or Grammar"
            )
        return lambda rows, some: [text for row in rows.tolist() if (text := known[row])][:some]


class Sieve:
    """Keeps of what a model wrote what names its class, if it has to, and no other, each sentence once."""

    def __init__(self, names: Sequence[str], named: bool = True) -> None:
        self.mentions, self.named = Mentions(names), named
        self.kept: list[dict[str, None]] = [{} for _ in names]
        self.asked, self.useful, self.dropped, self.example = 0, 0, Counter[str](), ""

    def by_class(self, wanted: np.ndarray) -> Iterator[tuple[int, int]]:
        """Classes, and how many texts are wanted of each; as long as nothing is of use also others, of which more may be known."""
        yield from ((label, some) for label, some in enumerate(wanted.tolist()) if some)
        yield from ((label, 1) for label in np.flatnonzero(wanted == 0)[:OTHERS].tolist() if self.useless)

    @property
    def useless(self) -> bool:
        return self.useful <= LEAST * self.asked

    def __call__(self, label: int, texts: Sequence[str]) -> None:
        for text in texts:
            template, why = self.mentions.template(label, text, self.named)
            self.useful += not why
            if why:
                self.example = self.example or text
            elif template in self.kept[label]:
                why = "repeats another"
            else:
                self.kept[label][template] = None
            self.dropped.update([why] if why else [])
        self.asked += len(texts)

    def written(self, names: Sequence[str], wanted: np.ndarray, seed: int, frame: str, who: str) -> Written:
        lacking = np.array([not kept for kept in self.kept]) & (wanted > 0)
        reasons = ", ".join(f"{times} {why}" for why, times in self.dropped.most_common())
        if self.useless:
            raise Refusal(
                f"of {self.asked} texts of {who} {self.useful} are of use ({reasons or 'there are none'}), such as {self.example[:EXAMPLE]!r}: "
                "name another model, or take Grammar, which needs none"
            )
        found = [[frame.replace(TEXT, text) for text in kept] for kept in self.kept]
        silent = [name for name, none in zip(names, lacking, strict=True) if none]
        if silent:
            warnings.warn(
                f"{who}: nothing is of use for {len(silent)} of {len(names)} classes ({', '.join(silent[:5])}), which get sentences of "
                "the grammar",
                stacklevel=3,
            )
            instead = Grammar()(names, np.where(lacking, wanted, 0), seed).texts
            found = [mine or others for mine, others in zip(found, instead, strict=True)]
        return _written(found, wanted, self.asked, dict(self.dropped), silent)


def _written(
    found: Sequence[Sequence[str]],
    wanted: np.ndarray,
    asked: int,
    dropped: dict[str, int] | None = None,
    by_grammar: Sequence[str] = (),
) -> Written:
    """Texts by turns, where there are fewer than are wanted."""
    texts = [list(islice(cycle(mine), some)) for mine, some in zip(found, wanted.tolist(), strict=True)]
    unique = sum(len(set(mine)) for mine in texts)
    told = {"wanted": int(wanted.sum()), "asked": asked, "unique": unique, "dropped": dropped or {}}
    return Written(texts, told | {"by_grammar": list(by_grammar)})


def _said(asked: str, name: str) -> str:
    return prompts(asked, [name])[0] if "{" in asked else asked


def _check_frame(frame: str) -> None:
    if frame.count(TEXT) != 1:
        raise Refusal(f"a frame is said around a text, and has {TEXT} in its place once, found {frame!r}")
    prompts(frame.replace(TEXT, "{a}"), [])  # refuses other braces
