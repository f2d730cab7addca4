"""What is said about a picture of CIFAR-100: its class and its superclass, in templates."""

from __future__ import annotations

import numpy as np

from counterpoise.nets.words import said, with_article

#: The twenty superclasses of CIFAR-100 (Krizhevsky 2009), in words one would say.
KINDS: dict[str, str] = {
    "aquatic mammal": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flower": "orchid poppy rose sunflower tulip",
    "food container": "bottle bowl can cup plate",
    "fruit or vegetable": "apple mushroom orange pear sweet_pepper",
    "household device": "clock keyboard lamp telephone television",
    "furniture": "bed chair couch table wardrobe",
    "insect": "bee beetle butterfly caterpillar cockroach",
    "large carnivore": "bear leopard lion tiger wolf",
    "building": "bridge castle house road skyscraper",
    "landscape": "cloud forest mountain plain sea",
    "large plant eater": "camel cattle chimpanzee elephant kangaroo",
    "mammal": "fox porcupine possum raccoon skunk",
    "small animal": "crab lobster snail spider worm",
    "person": "baby boy girl man woman",
    "reptile": "crocodile dinosaur lizard snake turtle",
    "rodent": "hamster mouse rabbit shrew squirrel",
    "tree": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicle": "bicycle bus motorcycle pickup_truck train",
    "machine": "lawn_mower rocket streetcar tank tractor",
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}

BY_CLASS = (
    "a photo of {a}",
    "a photo of {a}, a kind of {kind}",
    "a picture of {a}",
    "a small photo of {a}",
    "a blurry photo of {a}",
    "a good photo of the {name}",
    "a photo of the {name}",
    "{a}",
    "{name}",
    "{name}, a {kind}",
    "a close-up of {a}",
    "there is {a} in the picture",
)
BY_KIND = ("a photo of some {kind}", "a picture of some {kind}", "{kind}")


def captions(name: str) -> list[str]:
    """Every caption that names the class."""
    kind, name = KIND_OF[name], said(name)
    return [template.format(a=with_article(name), name=name, kind=kind) for template in BY_CLASS]


def kind_captions(kind: str) -> list[str]:
    return [template.format(kind=kind) for template in BY_KIND]


class Captions:
    """Caption texts with the classes each is true of, and draws of them for labels."""

    def __init__(self, names: list[str], of_kind: float = 0.1) -> None:
        self.of_kind = of_kind
        self.texts: list[str] = []
        self._class = np.zeros((len(names), len(BY_CLASS)), np.int64)
        self._kind = np.zeros((len(names), len(BY_KIND)), np.int64)
        kinds = sorted({KIND_OF[name] for name in names})
        self.kind_of = np.array([kinds.index(KIND_OF[name]) for name in names])
        truth = []
        for label, name in enumerate(names):
            for template, text in enumerate(captions(name)):
                self._class[label, template] = self._add(text)
                truth.append(np.arange(len(names)) == label)
        for kind, word in enumerate(kinds):
            for template, text in enumerate(kind_captions(word)):
                self._kind[self.kind_of == kind, template] = self._add(text)
                truth.append(self.kind_of == kind)
        self.true_of = np.stack(truth)  # (texts, classes)

    def _add(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    def draw(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The number of one caption for each label."""
        named = self._class[labels, rng.integers(len(BY_CLASS), size=len(labels))]
        kind = self._kind[labels, rng.integers(len(BY_KIND), size=len(labels))]
        return np.where(rng.random(len(labels)) < self.of_kind, kind, named)
