"""Templates as the field has them, by what pictures show or by the name of a data set.

After those of CLIP (Radford et al. 2021) and of He et al. (ICLR 2023), for generating: nothing is said that not every picture may
show.
"""

from __future__ import annotations

PRESETS: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of {a}",),
    "satellite": ("a centered satellite photo of {a}", "a satellite photo of {a}"),
    "texture": ("a photo of a {name} texture", "a photo of a {name} pattern", "a photo of a {name} object"),
    "aircraft": ("a photo of {a}, a type of aircraft",),
    "bird": ("a photo of {a}, a type of bird",),
    "flower": ("a photo of {a}, a type of flower",),
    "pet": ("a photo of {a}, a type of pet",),
    "food": ("a photo of {a}, a type of food",),
    "car": ("a photo of {a}, a type of car",),
    "action": ("a photo of a person doing {name}", "a photo of a person during {name}"),
    "scene": ("a photo of {a}, a type of place",),
    "low resolution": (
        "a photo of {a}",
        "a blurry photo of {a}",
        "a low resolution photo of {a}",
        "a low contrast photo of {a}",
        "a bright photo of {a}",
        "a photo of a big {name}",
        "a photo of a small {name}",
    ),
    "sketch": ("a sketch of {a}", "a pencil drawing of {a}", "a black and white sketch of {a}"),
    "rendition": (
        "a painting of {a}",
        "a cartoon of {a}",
        "a sculpture of {a}",
        "an origami {name}",
        "a toy {name}",
    ),
    "medical": ("a medical image of {name}", "a medical scan that shows {name}"),
    "microscopy": ("a microscope image of {name}", "a histology slide of {name}"),
    "x-ray": ("an x-ray image that shows {name}",),
    "digit": ('a photo of the number "{name}"',),
}

DATA_SETS = {
    "eurosat": "satellite",
    "resisc45": "satellite",
    "dtd": "texture",
    "fgvc_aircraft": "aircraft",
    "cub": "bird",
    "birdsnap": "bird",
    "flowers102": "flower",
    "oxford_pets": "pet",
    "food101": "food",
    "stanford_cars": "car",
    "ucf101": "action",
    "sun397": "scene",
    "cifar10": "low resolution",
    "cifar100": "low resolution",
    "imagenet_sketch": "sketch",
    "imagenet_r": "rendition",
    "pathmnist": "microscopy",
    "chestxray14": "x-ray",
    "mnist": "digit",
    "svhn": "digit",
}


def preset(name: str) -> tuple[str, ...] | None:
    """Those of this name, if there are any.

    >>> preset("eurosat")
    ('a centered satellite photo of {a}', 'a satellite photo of {a}')
    """
    return PRESETS.get(DATA_SETS.get(name, name))
