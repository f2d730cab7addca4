"""Who writes what each wanted sample is told, with the small language model of this package and with made-up ones."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from counterpoise.data.pixels import Rows
from counterpoise.nets import miniatures
from counterpoise.nets.words import prompts
from counterpoise.proposals import prompts as written
from counterpoise.proposals.mentions import Mentions
from counterpoise.proposals.presets import DATA_SETS, PRESETS
from counterpoise.proposals.prompts import Captions, Grammar, Language, Shown, Templates
from counterpoise.types import Refusal, describe, load

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
NAMES = ["dolphin", "oak_tree", "rose", "pickup_truck"]
SHOWN = Shown(
    np.repeat(np.arange(4), 6),
    captions=[f"{'a' if row % 2 else 'one'} {name} in the year {row}" for name in NAMES for row in range(6)],
)
PARTS = [Templates("cifar10"), Grammar(), Language(), Captions()]
ALL = pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)


@pytest.fixture(name="fewer")
def _fewer(monkeypatch):
    """Answers at once, to save time."""
    monkeypatch.setattr(written, "AT_ONCE", 8)


def every(n, count=len(NAMES)):
    return np.full(count, n)


@ALL
def test_texts_are_of_seed_class_and_number_alone(part, fewer):
    made = part(NAMES, every(5), 3, SHOWN)
    assert [len(mine) for mine in made.texts] == [5] * 4
    assert part(NAMES, every(5), 3, SHOWN) == made
    assert part(NAMES, np.array([2, 0, 5, 1]), 3, SHOWN).texts == [
        mine[:n] for mine, n in zip(made.texts, (2, 0, 5, 1), strict=True)
    ]
    back = Shown(3 - SHOWN.labels, captions=SHOWN.captions)
    assert part(NAMES[::-1], every(5), 3, back).texts == made.texts[::-1]
    assert part(NAMES, every(5), 4, SHOWN).texts != made.texts


@ALL
def test_texts_are_templates_that_name_their_class_and_no_other(part, fewer):
    made, mentions = part(NAMES, every(12), 0, SHOWN), Mentions(NAMES)
    for label, texts in enumerate(made.texts):
        for text in texts:
            (said,) = prompts(text, [NAMES[label]])
            found = mentions(said)
            assert found
            assert all(label in one.labels for one in found)
            assert prompts(text, ["<class0-0>"])
    assert made.told["wanted"] == 48
    assert made.told["unique"] == sum(len(set(texts)) for texts in made.texts)
    assert made.told["asked"] >= made.told["unique"]
    assert made.told["by_grammar"] == []


@ALL
def test_where_nothing_is_wanted_nothing_is_said(part):
    made = part(NAMES, every(0), 0)
    assert made.texts == [[]] * 4
    assert (made.told["wanted"], made.told["unique"]) == (0, 0)


@ALL
def test_a_part_is_described_and_ready(part):
    assert load(describe(part)) == part
    part.ready(None)
    part.ready(NAMES)


# --- templates -------------------------------------------------------------------------------------------------


def test_templates_take_turns():
    some = ("a {name}", "the {name}", "one {name}")
    for mine in Templates(some)(NAMES, every(7), 0).texts:
        times = [mine.count(one) for one in some]
        assert sorted(times) == [2, 2, 3]
    assert Templates("{a}")(NAMES, every(2), 0).texts == [["{a}"] * 2] * 4


def test_presets_are_templates_and_data_sets_name_them():
    assert set(DATA_SETS.values()) <= set(PRESETS)
    for name in (*PRESETS, *DATA_SETS):
        assert len(set(Templates(name).templates)) == len(Templates(name).templates) >= 1
    assert Templates("eurosat").templates[0] == "a centered satellite photo of {a}"


@pytest.mark.parametrize(
    ("of", "rule"),
    [
        ("sattelite", "no templates 'sattelite': known are photo, satellite.*eurosat.*or write one"),
        ("a photo of {b}", "nothing else in braces"),
        (("a photo of {a}", "a photo"), "write for example"),
    ],
)
def test_templates_that_name_no_class_are_refused(of, rule):
    with pytest.raises(Refusal, match=rule):
        Templates(of)


# --- the grammar -----------------------------------------------------------------------------------------------


def test_a_thousand_scenes_of_a_class_are_all_different():
    made = Grammar()(["dog"], np.array([1000]), 0)
    assert made.told == {"wanted": 1000, "asked": 1000, "unique": 1000, "dropped": {}, "by_grammar": []}


# --- language models -------------------------------------------------------------------------------------------


def speaking(monkeypatch, answer, kind="causal"):
    """A language model that says what `answer` makes of a question, its beginning and a number; how often it was asked."""
    calls = []

    def say(asked, seeds, begun="", temperature=1.0, top_p=1.0):
        calls.append(asked)
        return [answer(asked, begun, number) for number in range(len(seeds))]

    writer = type("Fake", (), {"script": SimpleNamespace(kind=kind), "__call__": staticmethod(say)})()
    monkeypatch.setattr(written, "open_writer", lambda *_: writer)
    return calls


def test_the_miniature_writes_of_what_it_knows():
    made = Language()(NAMES, every(40), 0)
    assert made.told["unique"] == 160
    assert made.told["dropped"].get("does not name its class", 0) < 0.1 * made.told["asked"]


def test_a_sentence_that_names_another_class_is_dropped_and_counted(monkeypatch):
    speaking(
        monkeypatch,
        lambda asked, begun, number: (
            f"{begun} {'beside a rose' if number % 4 == 0 else f'in place {number}'}. And so on."
        ),
    )
    made = Language()(["dog", "rose"], every(20, 2), 0)
    assert made.texts[0][:3] == [
        "a photo of {a} in place 1",
        "a photo of {a} in place 2",
        "a photo of {a} in place 3",
    ]
    assert made.told["dropped"] == {"names another class": 8, "repeats another": 7}
    assert made.texts[1][0] == "a photo of {a} beside {a}", "of roses it is true"


def test_where_there_are_fewer_they_take_turns_and_asking_ends(monkeypatch):
    calls = speaking(monkeypatch, lambda asked, begun, number: f"{begun} in place {number % 3}")
    made = Language()(["dog"], np.array([40]), 0)
    assert made.told["unique"] == 3
    assert made.texts[0][:6] == [f"a photo of {{a}} in place {number}" for number in (0, 1, 2)] * 2
    assert len(calls) * written.AT_ONCE == made.told["asked"] == 160
    assert made.told["dropped"] == {"repeats another": 157}


def test_a_model_that_says_nothing_useful_is_refused_with_counts_and_an_example(monkeypatch):
    calls = speaking(monkeypatch, lambda asked, begun, number: "Lorem ipsum dolor.")
    with pytest.raises(
        Refusal,
        match=r"of 128 texts of miniature.*0 are of use \(128 does not name its class\), such as .*'Lorem ipsum dolor.'.*Grammar",
    ):
        Language()(["dog", "cat"], every(1000, 2), 0)
    assert len(calls) == 4, "a class is given up soon"


def test_a_random_network_is_refused(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=2048, n_positions=48, n_embd=8, n_layer=1, n_head=1, bos_token_id=2046, eos_token_id=2047
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(miniatures.folder("language") / name, tmp_path / name)
    part = Language(str(tmp_path), ask="{name}:")
    part.ready(["dolphin", "rose"])
    with pytest.raises(Refusal, match=r"of 128 texts of .* [0-5] are of use \(.*does not name its class"):
        part(["dolphin", "rose"], every(3, 2), 0)


def test_of_some_classes_the_grammar_writes_instead(monkeypatch):
    speaking(monkeypatch, lambda asked, begun, number: f"a dog in place {number}", "text2text")
    with pytest.warns(
        UserWarning,
        match=r"nothing is of use for 2 of 3 classes \(cat, \u72d7\), which get sentences of the grammar",
    ):
        made = Language()(["dog", "cat", "狗"], every(9, 3), 0)
    assert made.told["by_grammar"] == ["cat", "狗"]
    assert made.texts[1] == Grammar()(["dog", "cat", "狗"], every(9, 3), 0).texts[1]
    assert made.texts[0][0] == "{a} in place 0"


def test_a_model_that_knows_nothing_of_the_class_that_is_left_is_asked_of_others_before_it_is_refused(
    monkeypatch,
):
    speaking(monkeypatch, lambda asked, begun, number: f"a dog in place {number}", "text2text")
    with pytest.warns(UserWarning, match="for 1 of 2 classes"):
        made = Language()(["dog", "cat"], np.array([0, 3]), 0)
    assert [len(mine) for mine in made.texts] == [0, 3]
    assert made.told["by_grammar"] == ["cat"]
    shown = Shown(np.array([0]), captions=["one dog in the snow"])
    with pytest.warns(UserWarning, match="for 1 of 2 classes"):
        assert Captions()(["dog", "cat"], np.array([0, 3]), 0, shown).told["by_grammar"] == ["cat"]


def test_braces_that_a_model_writes_break_nothing(monkeypatch):
    speaking(monkeypatch, lambda asked, begun, number: f"{begun} {{b}} {{0.x}} {{a}} {number}")
    (mine,) = Language()(["dog"], np.array([3]), 0).texts
    assert prompts(mine[0], ["fox"]) == ["a photo of a fox b 0.x a 0"]


@pytest.mark.parametrize(
    ("kind", "ask", "asked", "begun"),
    [
        ("miniature", None, "oak tree :", ""),
        ("text2text", None, "oak tree", ""),
        ("causal", None, "The caption of a photograph: ", "a photo of an oak tree"),
        ("chat", "Say {a}", "Say an oak tree", ""),
        ("causal", "{name}: |Look,", "oak tree: ", "Look,"),
    ],
)
def test_each_kind_is_asked_in_its_way(kind, ask, asked, begun):
    assert Language(ask=ask)._asked("oak_tree", kind) == (asked, begun)
    assert "an oak tree" in Language()._asked("oak_tree", "chat")[0]


def test_a_frame_is_said_around_a_sentence(monkeypatch):
    speaking(monkeypatch, lambda asked, begun, number: f"the dog in place {number}", "text2text")
    part = Language(frame="a satellite photo of {text}, a type of {name}")
    assert part(["dog"], np.array([1]), 0).texts == [
        ["a satellite photo of the {name} in place 0, a type of {name}"]
    ]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"frame": "a photo"}, r"has \{text\} in its place once"),
        ({"frame": "{text} {text}"}, "once"),
        ({"frame": "{text} {b}"}, "nothing else in braces"),
        ({"ask": "say something"}, "write for example"),
    ],
)
def test_settings_that_say_nothing_of_the_class_are_refused(settings, rule):
    with pytest.raises(Refusal, match=rule):
        Language(**settings)


def test_names_that_cannot_be_asked_are_refused_before_anything_is_opened():
    with pytest.raises(Refusal, match="says nothing"):
        Language().ready(["dog", "_"])
    with pytest.raises(Refusal, match="more than 200 letters"):
        Language().ready(["dog", "word " * 60])
    with pytest.raises(Refusal, match="reads 48 tokens"):
        Language().ready(["dog", "hippopotamus " * 12])
    with pytest.raises(Refusal, match=r"there is no language model './nowhere'"):
        Language("./nowhere").ready(None)


# --- captions --------------------------------------------------------------------------------------------------


def test_captions_are_shuffled_over_the_pictures_of_their_class():
    made = Captions()(NAMES, every(12), 0, SHOWN).texts
    whole = [f"{{a}} in the year {row}" if row % 2 else f"one {{name}} in the year {row}" for row in range(6)]
    for mine in made:
        assert sorted(mine[:6]) == sorted(whole)
        assert mine[6:] == mine[:6]
    assert len({tuple(mine) for mine in made}) > 1


def test_a_caption_that_does_not_name_its_class_follows_the_name_and_one_that_names_another_is_dropped():
    said = Shown(
        np.array([0, 0, 0, 0, 1]),
        captions=["sitting in the snow.", "with a cat", None, "", "A dog and the cat"],
    )
    with pytest.warns(UserWarning, match="captions of the data: nothing is of use for 1 of 2 classes"):
        made = Captions()(["dog", "cat"], every(2, 2), 0, said)
    assert made.texts[0] == ["{a}, sitting in the snow"] * 2
    assert made.told["dropped"] == {"names another class": 2}
    assert made.told["by_grammar"] == ["cat"]


def test_no_captions_at_all_are_refused():
    for said in (Shown(np.zeros(2, int)), Shown(np.zeros(2, int), captions=[None, ""])):
        with pytest.raises(
            Refusal, match="these data have none: give them a column 'caption', name a captioning model"
        ):
            Captions()(["dog"], np.array([1]), 0, said)
    with pytest.raises(
        Refusal, match=r"of 1 texts of captions of the data 0 are of use \(1 names another class\)"
    ):
        Captions()(["dog", "cat"], np.array([1, 0]), 0, Shown(np.zeros(1, int), captions=["a cat"]))


def test_a_model_looks_at_no_more_pictures_than_there_are_texts_wanted(monkeypatch):
    seen = []

    def say(pixels):
        seen.extend(pixels[:, 0, 0, 0].tolist())
        return [f"an animal in place {number}" for number in pixels[:, 0, 0, 0].tolist()]

    monkeypatch.setattr(written, "open_captioner", lambda *_: say)
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 4, 4, 3), np.uint8)
    rows = Rows.of(pixels, order=np.arange(10)[::-1])
    shown = Shown(np.repeat([0, 1], 5), rows, captions=["a cat"] * 10)
    made = Captions(model="somebody/blip")(["dog", "cat"], np.array([3, 8]), 0, shown)
    assert len(seen) == 3 + 5
    assert set(seen[:3]) < set(range(5, 10)), "those of the class, in the order of the draw"
    assert set(seen[3:]) == set(range(5))
    assert all(text.startswith("{a}, an animal in place") for mine in made.texts for text in mine)
    assert made.told["unique"] == 8
    with pytest.raises(Refusal, match=r"no captioning model './nowhere'"):
        Captions("./nowhere").ready(None)
