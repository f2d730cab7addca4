"""The grammar of sentences a language model is taught: a class name becomes a scene with place, light and view."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from counterpoise.nets.words import with_article
from miniatures.captions import KIND_OF


def words(text: str) -> list[str]:
    """Between blanks, or between bars where they have several parts."""
    return [" ".join(word.split()) for word in (text.split("|") if "|" in text else text.split())]


NAMES = words("""
airplane automobile bird cat deer dog frog horse ship truck car boat cow sheep goat duck goose eagle owl
parrot penguin ant wasp moth dragonfly mosquito grasshopper monkey gorilla zebra giraffe rhino hippo panda
koala donkey pig hen rooster swan crow pigeon bat rat mole badger weasel deer moose elk bison buffalo
jaguar panther cheetah hyena coyote jackal salmon tuna eel octopus squid jellyfish starfish shrimp clam
frog toad newt gecko iguana alligator banana lemon grape cherry peach plum melon carrot potato tomato
onion cabbage bread cake pizza sandwich cup mug fork knife spoon pan pot desk sofa shelf mirror window
door stairs tower church temple barn tent hut street tunnel river lake beach desert island valley hill
field garden park van taxi ambulance tram ferry canoe yacht helicopter balloon scooter wagon crane camera
radio computer laptop printer guitar piano violin drum trumpet hammer saw drill ladder rope basket bag
shoe boot hat coat dress shirt glove watch ring crown flag ball kite doll robot daisy lily iris cactus
fern ivy moss birch elm cedar goldfish lighthouse windmill sailboat firetruck snowplow mailbox backpack
umbrella suitcase traffic-sign stop-sign
""")

HOW = words("""
small large old young new red blue green yellow white black brown grey wet dusty shiny sleepy bright dark
tiny
""")
PLACES = words("""
in the snow | on the grass | on the beach | in a forest | in the water | on a street | in a field | in a
room | on a table | in front of a wall | under the sky | on a rock | by a river | in a garden | on the
road | in the desert | at the harbour | in the mountains | on a white background | in a city | in a
kitchen | behind a fence | near a lake | on a farm
""")
LIGHTS = words("""
at night | at sunset | at dawn | in the sun | in the fog | in the rain | on a cloudy day | in bright light
| in the shade | indoors
""")
VIEWS = words("""
seen from the side | seen from above | seen from the front | from far away | close up | from behind | from
below | slightly blurred
""")
MEDIA = words("""
a photo of | a picture of | a close-up photo of | a snapshot of | a colour photo of | an old photo of
""")


def sentence(name: str, rng: np.random.Generator) -> str:
    """One scene with `name` in it."""

    def one(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    noun = f"{one(HOW)} {name}" if rng.random() < 0.5 else name
    tail = [one(PLACES)] if rng.random() < 0.8 else []
    tail += [one(LIGHTS)] if rng.random() < 0.4 else []
    tail += [one(VIEWS)] if rng.random() < 0.4 or not tail else []
    return f"{one(MEDIA)} {with_article(noun)} " + ", ".join(tail)


def sentences(n: int, seed: int = 0) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    names = [name.replace("_", " ") for name in KIND_OF] + NAMES
    for _ in range(n):
        yield sentence(names[int(rng.integers(len(names)))], rng)
