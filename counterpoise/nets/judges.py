"""Networks that samples are measured with: pixels in, features out. They judge from outside and are never trained here.

Names: ``cifar-resnet:FILE.safetensors`` (CIFAR ResNets, conv1/bn1/layer1-3/linear), ``inception:FILE.safetensors`` (the
Inception-v3 of the Frechet inception distance), and any name of `nets.backbones`. Weights are safetensors only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.backbones import IMAGENET_MEAN, IMAGENET_STD, open_backbone
from counterpoise.nets.inception import Inception
from counterpoise.rundir import commit
from counterpoise.types import Refusal

WIDTHS = (16, 32, 64)


@dataclass(frozen=True, eq=False)
class Judge:
    """uint8 pixels (n, h, w, c) => features (n, d) float32; `logits` of those features where the network has a head."""

    name: str
    digest: str  # of the weights and the preprocessing
    features: Callable[[Tensor], Tensor]  # (b, h, w, c) uint8 => (b, d)
    head: Tensor | None = None  # (classes, d + 1): weight and bias
    device: str = "cpu"

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray, batch: int = 64) -> np.ndarray:
        starts = range(0, max(len(pixels), 1), batch)
        parts = (torch.from_numpy(np.array(pixels[i : i + batch])).to(self.device) for i in starts)
        return np.concatenate([self.features(part).float().cpu().numpy() for part in parts])

    def logits(self, features: np.ndarray) -> np.ndarray:
        if self.head is None:
            raise Refusal(
                f"{self.name} has no classifier: use cifar-resnet:FILE or inception:FILE for class scores"
            )
        return features @ self.head[:, :-1].numpy().T + self.head[:, -1].numpy()


def open_judge(name: str, device: str = "cpu") -> Judge:
    kind, _, file = name.partition(":")
    if kind == "cifar-resnet":
        return _cifar(name, Path(file).expanduser(), device)
    if kind == "inception":
        return _inception(name, Path(file).expanduser(), device)
    backbone = open_backbone(name).to(device)
    return Judge(name, backbone.digest, backbone, device=device)


def reference(judge: Judge, pixels: np.ndarray, cache: Path) -> np.ndarray:
    """The features of these pixels, computed once: kept below `cache` by the judge's digest and the pixels'."""
    content = hashlib.blake2b(repr((pixels.shape, str(pixels.dtype))).encode(), digest_size=16)
    for row in pixels:  # a memory-mapped array is not read whole
        content.update(row.tobytes())
    path = cache / judge.digest / f"{content.hexdigest()}.safetensors"
    if not path.exists():
        features = judge(pixels)
        commit(path, lambda file: file.write(save({"features": features})))
    return load_file(path)["features"]


# --- reading weights ---------------------------------------------------------------------------------------------


def _weights(name: str, path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and its digest."""
    if not path.is_file():
        raise Refusal(f"{name}: there is no file {str(path)!r}: name a safetensors file")
    if path.suffix != ".safetensors":
        raise Refusal(
            f"{name}: {path.suffix or 'this'} files may run code when they are opened and are not read. If you trust its "
            "maker, convert it once: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'FILE.safetensors')"
        )
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise Refusal(f"{name}: {path} is no safetensors file ({error}): fetch it again") from None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return {key: torch.from_numpy(value) for key, value in found.items()}, digest


def _fill(net: nn.Module, weights: dict[str, Tensor], name: str) -> nn.Module:
    """Exactly these weights: nothing missing, nothing left over, every shape as it must be."""
    wanted = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    counters = {
        key for key in wanted if key.endswith("num_batches_tracked")
    }  # of training; not all files keep them
    found = {key: tuple(value.shape) for key, value in weights.items()}
    wrong = [key for key in wanted.keys() - counters if found.get(key) != wanted[key]]
    wrong += found.keys() - wanted.keys()
    if wrong:
        kinds = [
            f"{key} {found.get(key, 'missing')}, expected {wanted.get(key, 'no such')}"
            for key in sorted(wrong)
        ]
        more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
        raise Refusal(f"{name}: these are not the weights of that network: {'; '.join(kinds[:3])}{more}")
    net.load_state_dict(weights, strict=False)
    return net.eval().requires_grad_(False)


def _planes(pixels: Tensor) -> Tensor:
    """(b, h, w, 1 or 3) uint8 => (b, 3, h, w) in [0, 1]."""
    return (pixels.permute(0, 3, 1, 2).float() / 255).expand(-1, 3, -1, -1)


# --- CIFAR ResNets -----------------------------------------------------------------------------------------------


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.stride, self.pad = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        skip = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))  # option A
        return F.relu(y + skip)


class CifarResNet(nn.Module):
    """The ResNet of He et al. (2016), section 4.2, with shortcuts that have no parameters; depth is 6 `blocks` + 2."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        before = 16
        for stage, width in enumerate(WIDTHS, start=1):
            strides = [1 if stage == 1 else 2] + [1] * (blocks - 1)
            made = [_Block(before if i == 0 else width, width, stride) for i, stride in enumerate(strides)]
            self.add_module(f"layer{stage}", nn.Sequential(*made))
            before = width
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:  # (b, 3, h, w), normalised => (b, 64)
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean((2, 3))


def _cifar(name: str, path: Path, device: str) -> Judge:
    weights, digest = _weights(name, path)
    blocks = len({key.split(".")[1] for key in weights if key.startswith("layer1.")})
    classes = len(weights["linear.bias"]) if "linear.bias" in weights else 10
    net = _fill(CifarResNet(max(blocks, 1), classes), weights, name).to(device)
    # Trained with the mean and deviation of ImageNet, not of CIFAR.
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )

    def features(pixels: Tensor) -> Tensor:
        x = _planes(pixels)
        if x.shape[2:] != (32, 32):
            x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True, align_corners=False)
        return net((x - mean) / std)

    head = torch.cat([weights["linear.weight"], weights["linear.bias"][:, None]], 1)
    return Judge(name, digest, features, head, device)


# --- Inception-v3 ------------------------------------------------------------------------------------------------


def _inception(name: str, path: Path, device: str) -> Judge:
    weights, digest = _weights(name, path)
    net = _fill(Inception(), weights, name).to(device)
    # The published inception score multiplies by the weights of the last layer and leaves its bias out.
    head = torch.cat([weights["fc.weight"], torch.zeros(len(weights["fc.weight"]), 1)], 1)
    return Judge(name, digest, lambda pixels: net(_planes(pixels)), head, device)
