import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.nets.words import prompts, said, with_article
from counterpoise.types import Refusal


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("pickup_truck", "pickup truck"),
        (" x-ray\t", "x-ray"),
        ("__a__b__", "a b"),
        ("T-shirt/top", "T-shirt/top"),
        ("_", ""),
    ],
)
def test_names_are_said_without_underscores_and_with_single_spaces(name, clean):
    assert said(name) == clean


@pytest.mark.parametrize(
    ("name", "whole"), [("Apple", "an Apple"), ("_oak", "an oak"), ("7", "a 7"), ("ship", "a ship")]
)
def test_the_article_goes_by_the_first_letter(name, whole):
    assert with_article(name) == whole


@settings(deadline=None)
@given(st.text(max_size=20))
def test_cleaning_twice_is_cleaning_once_and_a_template_says_the_name_as_it_is(name):
    assert said(said(name)) == said(name)
    if said(name):
        assert prompts("see: {name}!", [name]) == [f"see: {said(name)}!"]
        assert prompts("{a}, {a}", [name]) == [f"{with_article(name)}, {with_article(name)}"]


def test_braces_and_escapes_in_a_name_are_letters():
    assert prompts("{a} and {name}", ["{a}", r"\1{name}"]) == ["a {a} and {a}", r"a \1{name} and \1{name}"]


@pytest.mark.parametrize("template", ["a photo", "{b}", "{}", "{a} of {kind}", "{0.__class__}"])
def test_a_template_without_a_place_or_with_unknown_ones_is_refused(template):
    with pytest.raises(Refusal, match=r"\{a\}.*\{name\}.*a photo of \{a\}"):
        prompts(template, [])


@pytest.mark.parametrize(
    ("one", "other"), [("pickup_truck", "pickup  truck"), ("Dog", "dog"), ("rose", "rose")]
)
def test_names_that_are_said_alike_are_refused_with_both(one, other):
    with pytest.raises(Refusal, match=f"{one!r} and {other!r} are said alike"):
        prompts("{a}", ["fox", one, other])


@pytest.mark.parametrize("name", ["", "  ", "_"])
def test_names_that_say_nothing_are_refused(name):
    with pytest.raises(Refusal, match="says nothing"):
        prompts("{a}", ["fox", name])
