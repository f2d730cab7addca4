"""Other people's image networks as feature extractors; the only file that imports transformers, timm and open_clip.

Names: ``hf:microsoft/resnet-18`` (a hub name or a folder), a bare folder, ``timm:convnext_tiny``,
``openclip:ViT-B-32/laion2b_s34b_b79k``, ``miniature`` (the pictures' half of our own small CLIP). Weights are safetensors
unless pickle is allowed by name; remote code never runs. Features are what goes into the classifier, so that a
linear head on them is a classifier of the same network.

Nothing here knows labels of a study, caches or training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from counterpoise.nets.folders import download, folder_of, hash_of, local_folder, need, read_json, refusing
from counterpoise.types import Refusal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SETTINGS = ["config.json", "preprocessor_config.json"]
SAFE = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
PICKLE = ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"]


class Backbone(nn.Module):
    """uint8 pixels (B, H, W, C) => features (B, dim) float32. Always in eval mode; frozen unless told otherwise."""

    def __init__(
        self,
        net: nn.Module,
        features: Callable[[Tensor], Tensor],
        content: bytes,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        bf16: bool = False,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.features = features
        self._mean: Tensor
        self._std: Tensor
        self.size, self.mean, self.std, self.bf16 = size, tuple(mean), tuple(std), bf16
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(1, -1, 1, 1), persistent=False)
        kind = ["maps"] if maps else []  # vectors came first: their digests stay what they were
        settings = json.dumps([size, self.mean, self.std, bf16, *kind]).encode()
        #: Changes with the weights, the architecture and the preprocessing: the key of a feature cache.
        self.digest = hashlib.blake2b(content + settings, digest_size=16).hexdigest()
        with refusing(
            f"this network does not take pictures of {size[0]} x {size[1]}",
            (ValueError, RuntimeError, TypeError),
        ):
            self.dim = int(self(torch.zeros(1, *size, len(self.mean), dtype=torch.uint8)).shape[1])

    def train(self, mode: bool = True) -> Backbone:
        """Frozen: batch statistics never move, whatever holds this says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        found = f"{pixels.dtype} {tuple(pixels.shape)}"
        assert (pixels.dtype, pixels.ndim) == (torch.uint8, 4), f"pixels are uint8 (B, H, W, C), not {found}"
        return self.embed(pixels.to(self._mean.device).permute(0, 3, 1, 2).float() / 255)

    def embed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] => features (B, dim) float32; differentiable where weights ask for gradients."""
        if x.shape[1] == 1:
            x = x.expand(-1, len(self.mean), -1, -1)
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        x = (x - self._mean) / self._std
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.features(x)
        return features.flatten(1).float()


def open_backbone(
    name: str,
    revision: str | None = None,
    allow_pickle: bool = False,
    size: int | None = None,
    bf16: bool = False,
    maps: bool = False,
) -> Backbone:
    """The backbone of this name. ``size`` overrides the input resolution that its preprocessor asks for.

    ``maps``: features are what comes before the last pooling, flattened: (c, h, w) of a convolutional network, and
    (tokens, dim) of a transformer, row of patches after row of patches.
    """
    kind, _, rest = name.partition(":")
    if maps and kind in ("timm", "openclip"):
        raise Refusal(f"{name}: feature maps are had from transformers backbones only; take pooled features")
    if kind == "timm" and rest:
        return _timm(rest, revision, size, bf16)
    if kind == "openclip" and rest:
        return _open_clip(rest, size, bf16)
    if kind == "torch":
        raise Refusal(
            f"{name}: code named on the command line is not run; save the model as a transformers folder"
        )
    folder = model_folder(name, revision, allow_pickle)
    net, features = _hf(folder)
    if maps:
        features = _maps(net)
    return Backbone(net, features, content_of(folder), *preprocessing(folder, net.config, size), bf16, maps)


# --- transformers ------------------------------------------------------------------------------------------


def model_folder(
    name: str,
    revision: str | None,
    allow_pickle: bool,
    also: Sequence[str] = (),
    what: str = "backbone",
    more: str = ", timm:NAME, openclip:NAME/TAG",
) -> Path:
    """The local folder of a name, downloaded if it is a hub name, with only the files that are needed (and `also` these)."""
    safe, pickled = [*SETTINGS, *also, *SAFE], [*SETTINGS, *also, *PICKLE]
    folder = folder_of(name, "clip", what, revision, (safe, pickled), _weights, allow_pickle, more)
    if not (folder / "config.json").is_file():
        raise Refusal(f"{name} has no config.json: it is not a transformers model folder")
    weights = _weights(folder)
    if not any(path.suffix == ".safetensors" for path in weights) and not (allow_pickle and weights):
        raise Refusal(
            f"{name} has no safetensors weights: choose another revision, or --allow-pickle if you trust its maker"
        )
    return folder


def state_of(name: str) -> tuple[tuple[str, int], ...]:
    """Names and times of the files of a local model: what is kept open of it is opened anew when they change."""
    folder = local_folder(name, "clip")
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple((path.name, path.stat().st_mtime_ns) for path in files)


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers draws a bar whenever it opens a model, across those of a run."""
    bars = need("transformers", "hf").utils.logging
    before = bars.set_tqdm_hook(lambda bar, args, more: bar(*args, **more | {"disable": True}))
    try:
        yield
    finally:
        bars.set_tqdm_hook(before)


def _weights(folder: Path) -> list[Path]:
    """The weight files that will be read: safetensors before pickle."""
    safe = sorted(folder.glob("model*.safetensors"))
    return safe or sorted(folder.glob("pytorch_model*.bin"))


def content_of(folder: Path) -> bytes:
    return hash_of(path for path in [folder / "config.json", *_weights(folder)])


def load(auto: Any, folder: Path, **more: Any) -> Any:
    broken = (ValueError, OSError, RuntimeError, KeyError, SafetensorError, UnpicklingError)
    with refusing(f"transformers cannot open {folder}", broken), without_bars():
        return auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **more)


def load_net(auto: Any, folder: Path, **more: Any) -> Any:
    # A head that the file lacks is filled at random and never used: the global generator must not notice.
    safe = any(
        path.suffix == ".safetensors" for path in _weights(folder)
    )  # else model_folder has been allowed pickle
    with torch.random.fork_rng(devices=[]):
        return load(auto, folder, use_safetensors=safe, weights_only=True, dtype=torch.float32, **more)


def open_classifier(folder: Path) -> Any | None:
    """The network with its classifier, where transformers has such a class for it and it is no text-image pair."""
    transformers = need("transformers", "hf")
    config = load(transformers.AutoConfig, folder)
    if (
        hasattr(config, "vision_config")
        or type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    ):
        return None
    return load_net(transformers.AutoModelForImageClassification, folder)


def head_path(net: Any) -> str | None:
    """The path of the one plain Linear that makes the logits, if that is how this network ends."""
    outside = net.base_model_prefix + "."
    names = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(outside)
    ]
    return (
        names[0]
        if len(names) == 1 and net.get_submodule(names[0]).out_features == net.config.num_labels
        else None
    )


def _hf(folder: Path) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """The network and the function from normalised pixels to features."""
    transformers = need("transformers", "hf")
    net = open_classifier(folder)
    if net is not None and (where := head_path(net)) is not None:
        net.set_submodule(where, nn.Identity())  # the logits are now what the classifier would have seen
        return net, lambda x: net(pixel_values=x).logits
    auto = transformers.AutoModel
    if "CLIPVisionModelWithProjection" in (read_json(folder / "config.json").get("architectures") or []):
        auto = transformers.CLIPVisionModelWithProjection
    net = load_net(auto, folder)
    return net, lambda x: pooled(net, x)


def pooled(net: Any, x: Tensor) -> Tensor:
    """The one vector that a network without a classifier makes of a picture; of a text-image pair, the projected one."""
    found = net.get_image_features(x) if hasattr(net, "get_image_features") else net(pixel_values=x)
    if isinstance(found, Tensor):
        return found
    for name in ("image_embeds", "pooler_output"):
        if (value := getattr(found, name, None)) is not None:
            return value
    last = found.last_hidden_state
    return last.mean((2, 3)) if last.ndim == 4 else last.mean(1)


def _maps(net: Any) -> Callable[[Tensor], Tensor]:
    """The function from normalised pixels to what the network pools last."""
    body = getattr(net.base_model, "vision_model", net.base_model)
    patch = getattr(body.config, "patch_size", 1)
    patch_height, patch_width = patch if isinstance(patch, Sequence) else (patch, patch)

    def maps(x: Tensor) -> Tensor:
        last = getattr(body(pixel_values=x), "last_hidden_state", None)
        if last is None or last.ndim not in (3, 4):
            raise Refusal(f"{type(net).__name__} tells no feature maps: take pooled features")
        if last.ndim == 4:
            return last
        # Class and register tokens stand before the patches. Where patches are merged on the way (Swin) there are no
        # such tokens, and fewer than this.
        patches = (x.shape[2] // patch_height) * (x.shape[3] // patch_width)
        return last[:, -patches:]

    return maps


def preprocessing(
    folder: Path, config: Any, size: int | None
) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """(height, width), mean and std, by the preprocessor's settings, else the model's, else those of ImageNet."""
    found = read_json(folder / "preprocessor_config.json")
    config = getattr(config, "vision_config", config)
    wanted: Any = found.get("crop_size") if found.get("do_center_crop", "crop_size" in found) else None
    wanted = size or wanted or found.get("size") or getattr(config, "image_size", None) or 224
    if isinstance(wanted, Mapping):
        edge = wanted.get("shortest_edge", 224)
        wanted = (wanted.get("height", edge), wanted.get("width", edge))
    height, width = wanted if isinstance(wanted, Sequence) else (wanted, wanted)
    channels = getattr(config, "num_channels", 3)
    clip = getattr(config, "model_type", None) == "clip_vision_model"
    usual = (CLIP_MEAN, CLIP_STD) if clip else (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = found.get("image_mean") or usual[0], found.get("image_std") or usual[1]
    if not found.get("do_normalize", True):
        mean, std = (0.0,), (1.0,)
    spread = [tuple(float(v) for v in (list(values) * channels)[:channels]) for values in (mean, std)]
    return (int(height), int(width)), spread[0], spread[1]


# --- extras ------------------------------------------------------------------------------------------------


def _square(size: int | None, default: Any) -> tuple[int, int]:
    default = default if isinstance(default, Sequence) else (default, default)
    return (size, size) if size else (int(default[0]), int(default[1]))


def _timm(name: str, revision: str | None, size: int | None, bf16: bool) -> Backbone:
    timm = need("timm", "timm")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise Refusal(f"timm has no model {name!r}; near ones: {near or 'none'}")
    net = timm.create_model(name, pretrained=False)
    settings = net.pretrained_cfg
    if not (repo := settings.get("hf_hub_id")):
        raise Refusal(
            f"timm:{name} has no weights on the hub, and others would be pickled: choose another model"
        )
    path = download(repo, revision, ["model.safetensors"]) / "model.safetensors"
    from safetensors.torch import load_file

    net.load_state_dict(load_file(path))
    net.reset_classifier(0)
    content = name.encode() + hash_of([path])
    shape = _square(size, settings["input_size"][1:])
    return Backbone(net, net.forward, content, shape, settings["mean"], settings["std"], bf16)


def _open_clip(name: str, size: int | None, bf16: bool) -> Backbone:
    open_clip = need("open_clip", "openclip")
    model, _, tag = name.partition("/")
    settings = open_clip.get_pretrained_cfg(model, tag)
    if not settings:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise Refusal(f"openclip:{name}: open_clip knows for {model!r} the tags: {tags}")
    with refusing(f"openclip:{name} cannot be had", (OSError, ValueError)):
        path = Path(open_clip.download_pretrained(settings))
    if path.suffix != ".safetensors":
        raise Refusal(f"openclip:{name} has no safetensors weights: choose another tag")
    net = open_clip.create_model(model, pretrained=str(path), require_pretrained=True)
    mean, std = settings.get("mean") or CLIP_MEAN, settings.get("std") or CLIP_STD
    return Backbone(
        net,
        net.encode_image,
        name.encode() + hash_of([path]),
        _square(size, net.visual.image_size),
        mean,
        std,
        bf16,
    )
