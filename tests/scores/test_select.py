import numpy as np
import pytest

from counterpoise.scores.select import AtLeast, Every, KeepAll
from counterpoise.types import Refusal, build, describe, load

SCORES = {"nearest_real": np.array([0.5, 1.0, 2.0, 0.2]), "fidelity": np.array([0.0, -0.1, -3.0, -9.0])}
NO_COPY, KNOWN = AtLeast(), AtLeast("fidelity", -1.0)


def test_selection_gives_every_drop_a_reason():
    scores = {"nearest_real": np.array([0.5, 1.0, 2.0])}
    assert AtLeast()(scores) == ["nearest_real below 1", None, None]
    assert KeepAll()(scores) == [None] * 3
    with pytest.raises(ValueError, match="clip"):
        AtLeast(score="clip")(scores)


def test_every_keeps_what_all_keep_and_the_first_to_drop_says_why():
    both = Every((NO_COPY, KNOWN))
    assert both(SCORES) == ["nearest_real below 1", None, "fidelity below -1", "nearest_real below 1"]
    assert Every((KNOWN, NO_COPY))(SCORES)[3] == "fidelity below -1"
    assert Every((KeepAll(), KNOWN))(SCORES) == KNOWN(SCORES) == Every((KNOWN,))(SCORES)
    assert Every((NO_COPY, Every((KNOWN, KeepAll()))))(SCORES) == both(SCORES)
    assert both({name: values[:0] for name, values in SCORES.items()}) == []


def test_every_is_described_with_what_it_holds_and_needs_something_to_hold():
    assert load(describe(Every((NO_COPY, KNOWN)))) == Every((NO_COPY, KNOWN))
    with pytest.raises(Refusal, match=r"Every\.selects"):
        build(Every, {"selects": ()})
