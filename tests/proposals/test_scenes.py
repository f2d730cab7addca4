from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from counterpoise.nets import miniatures
from counterpoise.nets.words import prompts
from counterpoise.proposals.mentions import Mentions
from counterpoise.proposals.scenes import DAYLIGHT, INSIDE, LAMPLIGHT, MEDIA, OUTSIDE, VIEWS, Scenes

BIG = Path(__file__).parents[3] / "shared" / "models" / "clip_tokenizer"


def test_there_are_many_and_each_comes_once():
    scenes = Scenes(["dog", "cat"])
    assert len(scenes) > 40_000
    some = list(islice(scenes(np.random.default_rng(0)), 5000))
    assert len(set(some)) == 5000
    assert list(islice(scenes(np.random.default_rng(0)), 7)) == some[:7]
    assert list(islice(scenes(np.random.default_rng(1)), 7)) != some[:7]


def test_few_parts_are_all_said_and_then_it_ends():
    scenes = Scenes(["dog"])
    scenes.media, scenes.places, scenes.views = (
        ["a photo of"],
        [("in a park", ["at dawn", "at dusk"])],
        ["close up"],
    )
    found = list(scenes(np.random.default_rng(0)))
    assert len(found) == len(set(found)) == len(scenes) == 6
    assert {"a photo of {a} in a park", "a photo of {a} in a park, at dusk, close up"} < set(found)


def test_no_class_of_the_study_is_in_a_scene():
    names = ["forest", "road", "snow", "mountain", "photo", "window", "night", "beach, a place", "sun"]
    scenes, mentions = Scenes(names), Mentions(names)
    found = list(islice(scenes(np.random.default_rng(0)), 3000))
    assert not [text for text in found if mentions(text)]
    assert any("photo" in text for text in islice(Scenes(["dog"])(np.random.default_rng(0)), 50))


def test_where_every_word_names_a_class_there_is_still_a_sentence():
    scenes = Scenes([*" ".join([*MEDIA, *OUTSIDE, *INSIDE, *DAYLIGHT, *LAMPLIGHT, *VIEWS]).split(), "dog"])
    assert list(scenes(np.random.default_rng(0))) == ["a photo of {a}"]


@pytest.mark.parametrize(
    ("folder", "most"), [(miniatures.folder("clip"), 32), (BIG, 40)], ids=["miniature", "clip"]
)
def test_they_are_read_to_their_end(folder, most):
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    if not folder.is_dir():
        pytest.skip("the tokenizer of CLIP is not here")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    name = "chimpanzee"  # of CIFAR-100 the one that takes most pieces
    longest = max(map(len, MEDIA))
    (text,) = prompts(
        f"{next(one for one in MEDIA if len(one) == longest)} {{a}} {max(INSIDE, key=len)}, {max(LAMPLIGHT, key=len)}, "
        f"{max(VIEWS, key=len)}",
        [name],
    )
    some = [
        text,
        *(prompts(scene, [name])[0] for scene in islice(Scenes([name])(np.random.default_rng(0)), 500)),
    ]
    assert max(len(tokenizer(one, verbose=False).input_ids) for one in some) <= most
