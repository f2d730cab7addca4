from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from counterpoise.nets.tokens import SideBySide, Tokens, has_vocabulary
from counterpoise.types import Refusal


class Letters:
    """A token per letter between a first and a last one."""

    def __call__(self, texts, verbose=True, max_length=None, **_):
        if isinstance(texts, str):
            return {"input_ids": [1, *map(ord, texts), 2]}
        rows = [[1, *map(ord, text[: max_length - 2]), 2] for text in texts]
        return SimpleNamespace(input_ids=torch.tensor([row + [0] * (max_length - len(row)) for row in rows]))


TOKENS = Tokens("letters", Letters(), 16)


def test_a_class_that_is_not_read_to_the_end_of_its_name_is_refused_by_its_name():
    assert TOKENS.prompts("of {a}", ["red_fox", "owl"]) == ["of a red fox", "of an owl"]
    with pytest.raises(Refusal, match=r"letters reads 16 tokens .* end of class 'a_long_name' there are 19"):
        TOKENS.prompts("of {a}", ["owl", "a_long_name"])
    with pytest.raises(Refusal, match="end of class 'owl' there are 22"):  # whose own words they are
        TOKENS.prompts("of {name}", ["w" * 17], ["owl"])


def test_a_template_that_goes_on_too_long_is_cut_and_told():
    asked = TOKENS.prompts("{a} in the open", ["owl", "fox"])
    with pytest.warns(UserWarning, match="2 texts are longer than the 16 tokens"):
        assert TOKENS(asked).input_ids.shape == (2, 16)


def test_texts_that_are_read_alike_are_refused_and_the_same_twice_is_not():
    assert torch.equal(*TOKENS(["owl", "owl"]).input_ids)
    with pytest.warns(UserWarning, match="2 texts"), pytest.raises(Refusal, match=r"reads .* alike"):
        TOKENS(["x" * 20 + "a", "x" * 20 + "b"])


def test_what_is_cut_may_be_alike_and_nobody_is_told():
    found = TOKENS.cut(["x" * 20 + "a", "x" * 20 + "b", "owl"])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2:], TOKENS(["owl"]).input_ids)


@pytest.mark.parametrize(
    ("files", "there"),
    [(["vocab.json"], False), (["vocab.json", "merges.txt"], True), (["tokenizer.json"], True)],
)
def test_what_a_tokenizer_is_made_of(files, there, tmp_path):
    for file in files:
        (tmp_path / file).touch()
    assert has_vocabulary(tmp_path) == there


class Words:
    """A token per word, of which it learns new ones; `known` of them before."""

    def __init__(self, known):
        self.numbers = {f"w{number}": number for number in range(known)}

    def __len__(self):
        return len(self.numbers)

    def add_tokens(self, words):
        self.numbers |= {word: len(self) + place for place, word in enumerate(words)}
        return len(words)

    def __call__(self, texts, verbose=True, max_length=None, **_):
        if isinstance(texts, str):
            return {"input_ids": texts.split()}
        rows = [[self.numbers[word] for word in text.split()] for text in texts]
        return SimpleNamespace(input_ids=torch.tensor([row + [0] * (max_length - len(row)) for row in rows]))


def test_side_by_side_a_new_word_has_one_number_for_all():
    both = SideBySide("both", Words(5), 3, (Tokens("both", Words(9), 4),))
    assert both.known == 9
    assert both(["w1 w4"]).input_ids.tolist() == [[1, 4, 0, 1, 4, 0, 0]]
    both.add(["<new>", "<newer>"])
    assert both.known == 9
    assert both(["w1 <newer>", "<new>"]).input_ids.tolist() == [
        [1, 10, 0, 1, 10, 0, 0],
        [9, 0, 0, 9, 0, 0, 0],
    ]


def test_side_by_side_a_class_must_be_read_to_its_end_by_all():
    both = SideBySide("both", Words(5), 9, (Tokens("both", Words(9), 3),))
    assert both.prompts("of {name}", ["w1 w2"]) == ["of w1 w2"]
    with pytest.raises(
        Refusal, match="reads 3 tokens of a prompt, and up to the end of class 'w1 w2 w3' there are 4"
    ):
        both.prompts("of {name}", ["w1 w2 w3"])
