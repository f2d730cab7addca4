from typing import Annotated, Any

import pytest
from pydantic import Field

from counterpoise.generators.simple import Interpolate, Oversample
from counterpoise.proposals.budgets import FillUp, Multiply
from counterpoise.recipe import Synthesis
from counterpoise.types import Refusal, build, describe, differences, fingerprint, load, part


@part
class Knob:
    turns: Annotated[int, Field(ge=0)] = 1
    inner: Any = None


def test_parts_are_frozen_and_validated():
    with pytest.raises(AttributeError):
        Knob().turns = 2
    with pytest.raises(Refusal, match=r"Knob.turns.*greater than or equal to 0.*found -1"):
        build(Knob, {"turns": -1})
    with pytest.raises(Refusal, match=r"colour.*settings: turns, inner"):
        build(Knob, {"colour": "red"})


def test_a_description_loads_back_to_an_equal_part():
    made = Synthesis(
        "x", Oversample(augment=(FillUp(to=3),)), Multiply(times=2.5), Interpolate(), (("s", FillUp()),)
    )
    assert load(describe(made)) == made


def test_only_parts_of_allowed_packages_are_loaded():
    for name, why in [
        ("os:system", "loaded only from counterpoise"),
        ("counterpoise.types:load", "is not a part"),
        ("counterpoise.nowhere:Thing", "no part"),
        ("counterpoise.proposals.budgets:Absent", "no part"),
    ]:
        with pytest.raises(Refusal, match=why):
            load({"part": name})


def test_fingerprint_follows_every_setting_and_nothing_else():
    assert fingerprint(FillUp()) == fingerprint(FillUp())
    assert fingerprint(FillUp()) != fingerprint(FillUp(to=1))
    assert fingerprint(FillUp()) != fingerprint(Multiply())


def test_differences_name_the_field_through_lists_and_parts():
    old, new = describe(Knob(1, Knob(2))), describe(Knob(1, Knob(3)))
    assert differences(old, new) == [("inner.turns", 2, 3)]
    named = [{"name": "a", "v": 1}, {"name": "b", "v": 1}]
    assert differences({"arms": named}, {"arms": [named[0], {"name": "b", "v": 2}]}) == [("arms[b].v", 1, 2)]
    assert differences({"x": describe(FillUp())}, {"x": describe(Multiply())})[0][0] == "x"


def test_what_cannot_be_described_is_an_error_of_ours():
    with pytest.raises(TypeError, match="not object"):
        describe(Knob(inner=object()))
