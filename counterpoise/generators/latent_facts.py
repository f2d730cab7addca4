"""What is told of a fitted latent mixture: numbers that show whether it has collapsed, and pictures where rows are pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from counterpoise.generators.generator import Lesson
from counterpoise.generators.mixture import ROWS_PER_CALL, LatentModel, as_tensor
from counterpoise.generators.moments import Moments
from counterpoise.generators.sheet import contact_sheet
from counterpoise.rundir import commit
from counterpoise.seeding import generator

SUMMARY, RECONSTRUCTIONS, COMPONENTS = "summary.json", "reconstructions.png", "components.png"
COLUMNS, SHOWN_CLASSES = 10, 20  # of the sheets
ACTIVE = 0.01  # a dimension whose code varies more than this over the rows is used (Burda et al. 2016)


def tell(
    model: LatentModel,
    codes: Moments,
    lesson: Lesson,
    out: Path,
    posterior: Literal["label", "soft"],
    energy: float,
) -> None:
    """Write down what the model makes of its own training rows. The summary comes last."""
    if lesson.rows.raw(np.arange(1)).ndim == 4:
        seen, drawn = _reconstructions(model, lesson), _components(model)
        commit(out / RECONSTRUCTIONS, lambda file: file.write(seen))
        commit(out / COMPONENTS, lambda file: file.write(drawn))
    found = summary(model, codes, lesson, posterior, energy)
    commit(out / SUMMARY, lambda file: file.write(json.dumps(found, indent=2).encode()))


@torch.no_grad()
def summary(
    model: LatentModel, codes: Moments, lesson: Lesson, posterior: Literal["label", "soft"], energy: float
) -> dict[str, Any]:
    classes, n = len(lesson.classes), len(lesson.rows)
    mu, variance = model.posteriors(lesson.rows)
    log_gamma = model.prior.log_responsibility(torch.from_numpy(mu).to(model.device)).cpu().double()
    entropy = -float((log_gamma.exp() * log_gamma).sum(1).mean())
    between = codes.counts @ (codes.means - codes.mean) ** 2 / n  # (latent,)
    return {
        "responsibility_entropy_nats": entropy,
        "responsibility_entropy_share": entropy / math.log(max(classes, 2)),
        "component_use_argmax": (np.bincount(log_gamma.argmax(1), minlength=classes) / n).tolist(),
        "component_use_mean": log_gamma.exp().mean(0).tolist(),
        "between_within_variance": float(between.sum() / max(np.trace(codes.within), 1e-12)),
        "mean_posterior_variance": float(variance.mean()),
        "active_dimensions": int((mu.var(0) > ACTIVE).sum()),
        "translation_rank": codes.rank(energy),
        "losses": _losses(model, lesson, posterior),
    }


def _losses(model: LatentModel, lesson: Lesson, posterior: Literal["label", "soft"]) -> dict[str, float]:
    """The terms of the ELBO over all training rows, one draw of a code each."""
    n, rng, sums = len(lesson.rows), generator("losses"), dict[str, float]()
    for first in range(0, n, ROWS_PER_CALL):
        picked = np.arange(first, min(first + ROWS_PER_CALL, n))
        x = model.vae.scaled(as_tensor(lesson.rows.raw(picked)).to(model.device))
        label = torch.from_numpy(lesson.labels[picked].astype(np.int64)).to(model.device)
        noise = torch.from_numpy(rng.standard_normal((len(picked), model.latent), np.float32)).to(
            model.device
        )
        for name, value in model.terms(x, label, noise, posterior).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(picked) / n
    return sums


def _reconstructions(model: LatentModel, lesson: Lesson) -> bytes:
    """Real pictures, and below them what their codes say."""
    raw = lesson.rows.raw(np.linspace(0, len(lesson.rows) - 1, COLUMNS).astype(np.int64))
    with torch.no_grad():
        mu, _ = model.vae.encode(model.vae.scaled(as_tensor(raw).to(model.device)))
    return contact_sheet([*raw, *_pictures(model, mu)], COLUMNS)


def _components(model: LatentModel) -> bytes:
    """Decoded draws of the first components, a line for each."""
    mean, variance = (values[:SHOWN_CLASSES, None] for values in (model.prior.mean, model.prior.variance))
    noise = generator("components").standard_normal((len(mean), COLUMNS, model.latent), np.float32)
    z = mean + variance.sqrt() * torch.from_numpy(noise).to(model.device)
    return contact_sheet(_pictures(model, z.flatten(0, 1)), COLUMNS)


@torch.no_grad()
def _pictures(model: LatentModel, z: Tensor) -> list[np.ndarray]:
    bytes_ = model.vae.restored(model.vae.decode(z)).round().clamp(0, 255).to(torch.uint8)
    return list(bytes_.permute(0, 2, 3, 1).cpu().numpy())
