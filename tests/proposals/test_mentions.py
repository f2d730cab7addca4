import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.nets.words import prompts
from counterpoise.proposals.mentions import Mentions, cleaned

NAMES = [
    "dog",
    "pickup_truck",
    "truck",
    "mouse",
    "wolf",
    "crane, a bird",
    "狗",
    "x-ray",
    "8",
    "A",
    "bus",
    "city",
]
MENTIONS = Mentions(NAMES)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("A dog on the beach. It barks.", "A dog on the beach"),
        ("a dog , wet ; and the cat 's bed", "a dog, wet; and the cat's bed"),
        ('"A dog at dusk!" Hope this helps.', "A dog at dusk"),
        ("“A dog at dusk.”", "A dog at dusk"),
        ("Sure, here is a caption:\n\n1. **A dog** at dusk", "A dog at dusk"),
        ("Assistant: Caption: a dog at dusk\nUser: more", "a dog at dusk"),
        ("<think>A cat?\nNo.</think>\n\na dog at dusk<|im_end|>", "a dog at dusk"),
        ("<think>I shall never say", ""),
        ("- a St. Bernard at 3.5 m", "a St. Bernard at 3.5 m"),
        ("{a} dog {0.__class__}", "a dog 0.__class__"),
        ("a\x08 dog\ufffd", "a dog"),
        ("狗在雪地里。然后", "狗在雪地里"),
        (" \n ", ""),
        ("...", ""),
    ],
)
def test_of_what_a_model_wrote_the_first_sentence_is_kept(text, first):
    assert cleaned(text) == first


@pytest.mark.parametrize(
    ("name", "text", "template"),
    [
        ("dog", "A dog runs on the beach", "{a} runs on the beach"),
        ("dog", "two dogs and an old DOG's bone", "two {name}s and an old {name}'s bone"),
        ("dog", "the hot-dog stand by the lake", "the hot-{name} stand by the lake"),
        ("pickup_truck", "an old pickup truck near a lake", "an old {name} near a lake"),
        ("pickup_truck", "a Pickup-Truck in the rain", "{a} in the rain"),
        ("mouse", "many mice in a field", "many {name} in a field"),
        ("wolf", "a wolf among wolves", "{a} among {name}"),
        ("crane, a bird", "a crane in the water", "{a} in the water"),
        ("crane, a bird", "a crane, a bird, in the water", "{a}, in the water"),
        ("狗", "雪地里的一只狗在跑", "雪地里的一只{name}在跑"),
        ("x-ray", "an x-ray of a hand", "{a} of a hand"),
        ("8", "a picture of an 8 in chalk", "a picture of {a} in chalk"),
        ("bus", "buses in a row", "{name}es in a row"),
        ("city", "cities seen from above", "{name} seen from above"),
    ],
)
def test_the_class_becomes_a_place_for_it(name, text, template):
    found, why = MENTIONS.template(NAMES.index(name), text)
    assert (found, why) == (template, "")
    assert prompts(found, ["rose"])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("truck", "a pickup truck on the road", "names another class"),
        ("pickup_truck", "a truck on the road", "names another class"),
        ("dog", "a dog after some mice", "names another class"),
        ("dog", "a dog 在 狗 here", "names another class"),
        ("dog", "a hedgehog in dogged rain", "does not name its class"),
        ("bus", "a bush in the bu", "does not name its class"),
        ("A", "a photo of a letter", "does not name its class"),
        ("dog", "", "does not name its class"),
        ("dog", "the dogs.", "says nothing more"),
        ("dog", "a dog " + "and then " * 30, "is too long"),
    ],
)
def test_what_does_not_suit_is_dropped_with_its_reason(name, text, reason):
    assert MENTIONS.template(NAMES.index(name), text) == ("", reason)


def test_where_it_need_not_be_named_the_class_stands_in_front():
    assert MENTIONS.template(0, "a brown animal in the snow.", named=False) == (
        "{a}, a brown animal in the snow",
        "",
    )
    assert MENTIONS.template(0, "a brown dog in the snow.", named=False) == ("a brown {name} in the snow", "")
    assert MENTIONS.template(0, "a wolf in the snow.", named=False) == ("", "names another class")


def test_cells_of_a_class_are_told_apart_by_what_follows_its_name():
    mentions = Mentions(["dog / in_snow", "dog / in_rain", "cat / in_snow"])
    assert mentions.template(0, "a dog near a wall") == ("{a} near a wall", "")
    assert mentions.template(1, "a dog in rain near a wall") == ("{a} near a wall", "")
    assert mentions.template(0, "a dog in rain near a wall")[1] == "names another class"
    assert mentions.template(0, "a dog near a cat")[1] == "names another class"


@settings(deadline=None)
@given(st.text(), st.sampled_from(range(len(NAMES))), st.booleans())
def test_whatever_was_written_a_template_can_be_said_of_every_class(text, label, named):
    found, why = MENTIONS.template(label, text, named)
    assert bool(found) != bool(why)
    if found:
        assert len(prompts(found, ["rose", "{a}", "oak_tree"])) == 3
        # Said of its class again, it names that class and no other.
        said = prompts(found, [NAMES[label]])[0]
        assert all(label in one.labels for one in MENTIONS(said))
