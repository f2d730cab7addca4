from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from counterpoise.nets.tokens import Tokens, has_vocabulary
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


@pytest.mark.parametrize(
    ("files", "there"),
    [(["vocab.json"], False), (["vocab.json", "merges.txt"], True), (["tokenizer.json"], True)],
)
def test_what_a_tokenizer_is_made_of(files, there, tmp_path):
    for file in files:
        (tmp_path / file).touch()
    assert has_vocabulary(tmp_path) == there
