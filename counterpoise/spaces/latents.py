"""Pictures as latents of an autoencoder: what a text-to-image model diffuses.

Rows of a study have a size and colours of their own; the autoencoder is shown them at the size that its model was made
for, grey ones as colour, and what it makes of latents is brought back. Nothing here knows noise, labels or files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data.pixels import Rows
from counterpoise.nets.stable_diffusion import Autoencoder
from counterpoise.seeding import generator
from counterpoise.spaces.preview import SmallDecoder
from counterpoise.spaces.store import Store

PIXELS_AT_ONCE = 1 << 20  # go through the autoencoder: one picture of 1,024 pixels, or four of 512
KEPT_BYTES = 4 << 30  # of the latents that one autoencoder made: 64,000 pictures of 512 pixels
TAUGHT_PIXELS, TAUGHT = (
    1 << 22,
    (16, 256),
)  # of the pictures that a preview learns from; the fewest and most of them
PREVIEW = SmallDecoder()
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow has it
BLACK = 1  # the brightest value of a picture that shows nothing


@dataclass(frozen=True)
class Latents:
    """uint8 pictures (h, w, c) as x, latents of about unit variance."""

    autoencoder: Autoencoder
    preview: nn.Module | None  # latents => small pictures, about [-1, 1]
    shape: tuple[int, ...]  # of one x
    size: int  # of the pictures that the autoencoder sees
    own: tuple[int, int]  # channels and size of the rows
    guides: tuple[Any, ...] = ()  # latents have no limits to keep
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.size**2 > PIXELS_AT_ONCE:
            self.autoencoder.tile(math.isqrt(PIXELS_AT_ONCE))

    def into(self, rows: np.ndarray, labels: np.ndarray) -> Tensor:
        """The middle of what their latents may be: the same every time."""
        return self.posterior(rows)[0]

    def posterior(self, rows: np.ndarray, mirrored: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of their latents (n, *shape), on the CPU."""
        means, deviations = [], []
        for some in np.array_split(rows, max(1, -(-len(rows) // self._at_once))):
            shown = self._shown(some)
            mean, deviation = self.autoencoder.encode(shown.flip(-1) if mirrored else shown)
            means.append(mean.cpu())
            deviations.append(deviation.cpu())
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def back(self, x: Tensor, labels: np.ndarray) -> list[np.ndarray | str]:
        made: list[np.ndarray | str] = []
        for some in x.split(self._at_once):
            pictures = (self._as_rows(self.autoencoder.decode(some.to(self._device))) * 255).cpu()
            rows = pictures.nan_to_num().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            for picture, row in zip(pictures, rows.contiguous().numpy(), strict=True):
                made.append(
                    "not finite" if not picture.isfinite().all() else "black" if row.max() <= BLACK else row
                )
        return made

    def look(self, x: Tensor, labels: Tensor) -> Tensor:
        """(b, c, h, w) in [0, 1], about what `back` would make of x; gradients pass."""
        assert self.preview is not None
        return self._as_rows(self.preview(x)).clamp(0, 1)

    def sources(self, rows: Sequence[Mapping[str, Any]], ctx: Any) -> Tensor:
        """Each is encoded once, by whoever needs it first, and alone: its neighbours in a batch must not decide a bit."""
        ids, place = np.unique([row["source_id"] for row in rows], return_inverse=True)
        store = Store.of(f"latents-{self.digest}", KEPT_BYTES)
        known = store.rows(ctx.real(ids.tolist()), self._one_by_one)
        return torch.from_numpy(known[place]).unflatten(1, self.shape)

    def _one_by_one(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([self.posterior(row[None])[0].flatten(1).numpy() for row in rows])

    @cached_property
    def digest(self) -> str:
        """Of all that decides the latents of a row."""
        coder = self.autoencoder
        found = hashlib.blake2b(f"{self.size} {coder.scale} {coder.shift} {coder}".encode(), digest_size=16)
        for weight in coder.state_dict().values():
            found.update(weight.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    @property
    def _at_once(self) -> int:
        return max(1, PIXELS_AT_ONCE // self.size**2)

    @property
    def _device(self) -> torch.device:
        return next(self.autoencoder.parameters()).device

    def _shown(self, rows: np.ndarray) -> Tensor:
        """(n, h, w, c) uint8 => (n, 3, size, size) in [-1, 1]"""
        x = torch.from_numpy(np.array(rows)).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return _resized(x, self.size).clamp(-1, 1).expand(-1, 3, -1, -1)

    def _as_rows(self, pictures: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] => (n, c, h, w), about [0, 1], as rows of the study have them"""
        channels, size = self.own
        x = (_resized(pictures, size) + 1) / 2
        return x if channels == 3 else (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _resized(x: Tensor, size: int) -> Tensor:
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False)


# --- previews ------------------------------------------------------------------------------------------------


def taught(space: Latents, rows: Rows) -> dict[str, np.ndarray]:
    """The state of a preview that has learnt from some of these rows what the decoder makes of their latents."""
    few, most = TAUGHT
    n = min(len(rows), most, max(few, TAUGHT_PIXELS // space.size**2))
    picked = np.sort(generator("preview").permutation(len(rows))[:n])
    latents = space.into(rows.raw(picked), np.empty(0)).to(space._device)
    decode = torch.no_grad()(space.autoencoder.decode)
    found = PREVIEW(
        latents, lambda some: torch.cat([decode(one) for one in some.split(space._at_once)]), seed=0
    )
    return {name: value.cpu().numpy() for name, value in found.state_dict().items()}


def preview_of(state: Mapping[str, np.ndarray], device: torch.device) -> nn.Module:
    """The preview that such a state is of."""
    net = PREVIEW.net(state["linear.weight"].shape[1])
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return net.to(device).eval().requires_grad_(False)
