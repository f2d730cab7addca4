"""Names that mean two things, and the words beside which one of them is meant."""

from __future__ import annotations

#: Words that say what kind of things a list of classes is about.
KINS: dict[str, frozenset[str]] = {
    kin: frozenset(words.split())
    for kin, words in {
        "animal": (
            "animal bird cat dog horse cow cattle sheep pig goat deer fox wolf bear lion tiger leopard cheetah elephant monkey "
            "gorilla rabbit squirrel hamster rat otter skunk raccoon snake lizard frog turtle crocodile fish shark whale dolphin "
            "duck goose hen rooster chicken eagle owl penguin parrot sparrow gull swan crow finch woodpecker warbler insect bee butterfly spider "
            "ant wasp"
        ),
        "tool": "hammer saw screwdriver wrench spanner pliers axe screw shovel chisel scissors tool",
        "vehicle": "car automobile truck bus train airplane ship boat bicycle motorcycle tractor van helicopter sedan suv",
        "device": "computer laptop keyboard monitor printer telephone phone television camera tablet radio",
        "food": "apple bread pizza cake banana rice soup cheese salad egg potato tomato carrot sandwich steak pasta grape",
        "sport": "football basketball baseball tennis golf racket glove soccer volleyball hockey swimming skiing",
        "plant": "rose tulip tree oak maple flower daisy sunflower fern orchid lily poppy",
        "clothes": "shirt dress shoe hat coat trouser jacket boot skirt sock sandal",
        "music": "guitar piano violin drum flute trumpet accordion saxophone",
        "building": "house church castle school hospital shop museum hotel skyscraper",
        "land": "river lake beach forest mountain desert sea field island",
        "body": "hand foot eye nose ear arm leg face finger skin",
    }.items()
}

#: What a name may mean, and among what kind of things it does. Senses that no kind of class points to have none.
HOMONYMS: dict[str, dict[str, str]] = {
    "bass": {"a fish": "animal", "a guitar": "music"},
    "bat": {"an animal": "animal", "a club for baseball": "sport"},
    "bank": {"a building": "building", "the side of a river": "land"},
    "bolt": {"a piece of metal": "tool", "a flash of lightning": ""},
    "bow": {"a weapon": "sport", "a ribbon": "clothes"},
    "boxer": {"a dog": "animal", "a person who fights": "sport"},
    "cardinal": {"a bird": "animal", "a priest": ""},
    "chest": {"a piece of furniture": "", "a part of the body": "body"},
    "club": {"a stick": "sport", "a place to dance": "building"},
    "crane": {"a bird": "animal", "a machine": "vehicle"},
    "cricket": {"an insect": "animal", "a game": "sport"},
    "date": {"a fruit": "food", "a day of the calendar": ""},
    "drill": {"a tool": "tool", "a monkey": "animal"},
    "drum": {"an instrument": "music", "a barrel": ""},
    "fan": {"a machine that moves air": "device", "a supporter": "sport"},
    "file": {"a tool": "tool", "a folder of papers": "device"},
    "fly": {"an insect": "animal", "a fishing lure": ""},
    "horn": {"an instrument": "music", "a part of an animal": "body"},
    "iris": {"a flower": "plant", "a part of the eye": "body"},
    "jack": {"a tool": "tool", "a playing card": ""},
    "jaguar": {"an animal": "animal", "a car": "vehicle"},
    "kite": {"a toy": "", "a bird": "animal"},
    "kiwi": {"a bird": "animal", "a fruit": "food"},
    "mole": {"an animal": "animal", "a spot on the skin": "body"},
    "monitor": {"a screen": "device", "a lizard": "animal"},
    "mouse": {"an animal": "animal", "a computer device": "device"},
    "mustang": {"a horse": "animal", "a car": "vehicle"},
    "nail": {"a piece of metal": "tool", "a part of a finger": "body"},
    "nut": {"a fruit": "food", "a piece of metal": "tool"},
    "orange": {"a fruit": "food", "a colour": ""},
    "organ": {"an instrument": "music", "a part of the body": "body"},
    "palm": {"a tree": "plant", "a part of the hand": "body"},
    "perch": {"a fish": "animal", "a place to sit": ""},
    "pike": {"a fish": "animal", "a weapon": ""},
    "pitcher": {"a jug": "", "a baseball player": "sport"},
    "plane": {"an aircraft": "vehicle", "a tool": "tool"},
    "plant": {"a living thing": "plant", "a factory": "building"},
    "pool": {"a place to swim": "building", "a game": "sport"},
    "pump": {"a machine": "tool", "a shoe": "clothes"},
    "puma": {"an animal": "animal", "a shoe": "clothes"},
    "ram": {"an animal": "animal", "a truck": "vehicle"},
    "ray": {"a fish": "animal", "a beam of light": ""},
    "ruler": {"a measuring stick": "tool", "a king": ""},
    "seal": {"an animal": "animal", "a stamp": ""},
    "sole": {"a fish": "animal", "a part of a shoe": "clothes"},
    "spring": {"a season": "", "a coil of metal": "tool"},
    "squash": {"a vegetable": "food", "a game": "sport"},
    "stamp": {"a piece of paper on a letter": "", "a tool": "tool"},
    "star": {"a light in the sky": "", "a famous person": ""},
    "swallow": {"a bird": "animal", "a gulp": ""},
    "tank": {"a vehicle": "vehicle", "a large container": ""},
    "tick": {"an insect": "animal", "a mark": ""},
    "tie": {"a piece of clothing": "clothes", "a draw in a game": "sport"},
    "trunk": {"a part of a tree": "plant", "a large box": ""},
    "turkey": {"a bird": "animal", "a dish": "food"},
    "watch": {"a small clock": "device", "a guard": ""},
}
