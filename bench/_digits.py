"""Scikit-learn's digits for the generator benchmarks: one half to learn from, the other to be held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from counterpoise.classifiers.losses import CE
from counterpoise.classifiers.mixing import Instance, stream
from counterpoise.classifiers.robust import Mean
from counterpoise.classifiers.training import Lesson as Teaching
from counterpoise.classifiers.training import Training, features_of, train_network
from counterpoise.data.augment import Crop
from counterpoise.data.packed import Digits
from counterpoise.data.pixels import Rows
from counterpoise.generators.generator import Lesson
from counterpoise.nets.resnet import ResNet, SmallResNet
from counterpoise.seeding import generator

Known = tuple[np.ndarray, np.ndarray]


def digits() -> Known:
    """All 1,797: pixels (n, 8, 8, 1) uint8 and labels."""
    listing = Digits().listing()
    pixels = np.stack([np.asarray(x) for x in Digits().read(listing)])
    return pixels, np.array([int(label) for label in listing["label"].to_pylist()])


def lesson(pixels: np.ndarray, labels: np.ndarray) -> Lesson:
    return Lesson(Rows.of(pixels), labels, None, [str(c) for c in range(10)])


def taught(pixels: np.ndarray, labels: np.ndarray, steps: int = 600, seed: int = 0) -> ResNet:
    """A classifier of digits."""
    net = SmallResNet()(1, 10, 8, seed=seed)
    targets = torch.eye(10)[torch.from_numpy(labels)]
    views = stream(Instance(), labels, np.ones(len(labels)), steps, 64, seed, None)
    teaching = Teaching(Rows.of(pixels), targets, None, views, lambda progress: targets.sum(0))
    train_network(net, teaching, CE(), Mean(), (Crop(),), Training(steps=steps), seed)
    return net.eval()


def judge() -> tuple[Callable[[np.ndarray], np.ndarray], Known, np.ndarray]:
    """Features of a classifier that saw the first half; that half; and the images of the other half."""
    pixels, labels = digits()
    order = generator("bench.digits").permutation(len(labels))
    first, second = np.array_split(order, 2)
    net = taught(pixels[first], labels[first])
    return lambda x: features_of(net, Rows.of(x)).numpy(), (pixels[first], labels[first]), pixels[second]
