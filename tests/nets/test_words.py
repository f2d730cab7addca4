import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.nets.homonyms import HOMONYMS, KINS
from counterpoise.nets.words import called, homonyms, prompts, said, with_article
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


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("n01440764_tench", "tench"),
        ("n01440764 tench, Tinca tinca", "tench"),
        ("n01440764: tench", "tench"),
        ("001.Black_footed_Albatross", "Black_footed_Albatross"),
        ("12_cat", "cat"),
        ("AnnualCrop", "annual crop"),
        ("HerbaceousVegetation", "herbaceous vegetation"),
        ("crane_(bird)", "crane, bird"),
        ("tower (building)", "tower, building"),
        ("great white shark, white shark, man-eater", "great white shark"),
    ],
)
def test_what_lists_add_to_names_is_not_said(name, told):
    assert called([name], {}) == [told]


def test_numbers_in_front_count_a_list_where_most_names_have_one():
    assert called(["01-fox", "02-rose", "background"], {}) == ["fox", "rose", "background"]
    assert called(["1-fox", "rose", "background"], {}) == ["1-fox", "rose", "background"]
    assert called(["01-fox", "18-wheeler", "car", "van"], {}) == ["fox", "18-wheeler", "car", "van"]
    assert called(["1 fox", "1 rose"], {}) == ["1 fox", "1 rose"]


@pytest.mark.parametrize(
    "names",
    [
        ["7", "8", "10"],
        ["iPhone", "BMW", "McLaren", "T-shirt/top", "Forest"],
        ["pickup_truck", " x ", "dog / in_snow", "Pepper,_bell___healthy", "e.g. this", "a (b) c"],
        ["20_kmh", "30_kmh", "stop"],
        ["1_euro", "2_euro"],  # the number is all that tells them apart
        ["18-wheeler", "car", "van"],
        ["737-200", "747-100"],
        ["老虎", "собака", "كلب", "🐱"],
        ["n1234", "n012345678"],
    ],
)
def test_names_that_need_nothing_stay_as_they_are_byte_for_byte(names):
    assert called(names, {}) == names


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aZ9 ._,()n-", max_size=12), max_size=5))
def test_there_are_never_fewer_names_and_what_was_said_of_them_is_all_that_is_cleaned(names):
    told = called(names, {})
    assert len(told) == len(names)
    assert called(names, {}) == told
    for name, other in zip(names, told, strict=True):
        assert {c.casefold() for c in other} <= {c.casefold() for c in name} | {",", " "}
    try:
        prompts("{a}", names)
    except Refusal:
        return
    prompts("{a}", told)  # who can be told apart still can


def test_synonyms_are_said_as_far_as_it_takes():
    maillots = ["n03710637 maillot", "n03710721 maillot, tank suit", "n02112018 Pomeranian"]
    assert called(maillots, {}) == ["maillot", "maillot, tank suit", "Pomeranian"]
    corgi = ["n02113186 Cardigan, Cardigan Welsh corgi", "n02963159 cardigan"]
    assert called(corgi, {}) == ["Cardigan, Cardigan Welsh corgi", "cardigan"]
    assert called(["a, b, c", "a, b, d", "a, x"], {}) == ["a, b, c", "a, b, d", "a, x"]


def test_two_cranes_are_told_apart_by_the_glossary_or_refused_with_both():
    cranes = ["n02012849 crane", "n03126707 crane", "n02112018 Pomeranian"]
    with pytest.raises(
        Refusal, match=r"'n02012849 crane' and 'n03126707 crane' are said alike.*glossary.*--gloss"
    ):
        prompts("a photo of {a}", called(cranes, {}))
    told = called(cranes, {cranes[0]: "crane, a bird", cranes[1]: "construction crane"})
    assert prompts("{a}", told) == ["a crane, a bird", "a construction crane", "a Pomeranian"]


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["n01440764", "fox"], "'n01440764' says nothing.*--gloss"),
        (["rose", "_"], "'_' says nothing"),
        (["AnnualCrop", "annual crop"], "'AnnualCrop' and 'annual crop' are said alike"),
        (["caf\u00e9", "cafe\u0301"], "are said alike"),
        (["fox", "word " * 60], r"more than 200 letters.*'word word.*\.\.\.' has 299: shorten"),
    ],
)
def test_a_study_that_says_such_names_is_refused_and_one_that_says_nothing_is_not(names, rule):
    told = called(names, {})
    with pytest.raises(Refusal, match=rule):
        prompts("{a}", told)


def test_the_glossary_wins_and_knows_its_classes():
    assert called(["n01440764", "AnnualCrop"], {"n01440764": "AnnualFish (x)"}) == [
        "AnnualFish (x)",
        "annual crop",
    ]
    with pytest.raises(Refusal, match=r"'crain'.*no such class \(near ones: 'crane'\)"):
        called(["crane", "fox"], {"crain": "crane, a bird"})
    with pytest.raises(Refusal, match="near ones: 'crane', 'fox'"):
        called(["crane", "fox"], {"zzz": "crane, a bird"})
    with pytest.raises(Refusal, match="says nothing"):
        prompts("{a}", called(["crane", "fox"], {"crane": " "}))


def test_homonyms_are_found_unless_somebody_says_which_is_meant():
    assert homonyms(["mouse", "keyboard", "hamsters"], {}) == {"mouse": ("an animal", "a computer device")}
    assert homonyms(["mouse", "keyboard"], {}) == homonyms(["mouse", "squirrels", "dog_rose"], {}) == {}
    assert homonyms(["mouse", "sky"], {}) == {"mouse": ("an animal", "a computer device")}
    assert homonyms(["mouse", "sky"], {"mouse": "computer mouse"}) == {}
    assert homonyms(["mouse", "sky"], {"mouse": "mouse"}) == {}, "whoever says it means it"
    assert homonyms(["crane (machine)", "n02012849 Seal", "tractor"], {}) == {
        "n02012849 Seal": ("an animal", "a stamp")
    }


def test_the_table_of_homonyms_is_sound():
    for name, senses in HOMONYMS.items():
        assert name == name.casefold()
        assert len(senses) == 2, name
        assert {kin for kin in senses.values() if kin} <= set(KINS)
        assert all(sense.split()[0] in ("a", "an", "the") for sense in senses)
