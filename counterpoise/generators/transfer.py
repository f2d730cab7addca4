"""Generators of features that learn class means and one shared covariance, and nothing else: what diffusion has to beat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file, save

from counterpoise.diffusion.checkpoints import refusing_full_disk
from counterpoise.diffusion.start import row_noise
from counterpoise.generators.fitted import CONFIG, WEIGHTS, digest, refuse_another
from counterpoise.generators.generator import Context, Failed, Lesson, Row, Sampler
from counterpoise.generators.moments import Moments, feature_width
from counterpoise.rundir import commit
from counterpoise.types import describe, fingerprint, part


class _OfMoments:
    """Learns the moments of the training rows; a seed has no part in that."""

    learns: ClassVar[bool] = True
    takes_guides: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = False
    spaces: ClassVar[tuple[str, ...]] = ("features",)
    own_space: ClassVar[bool] = False

    def fit(self, lesson: Lesson, out: Path, seed: int) -> None:
        config = {"channels": feature_width(lesson.rows), "classes": list(lesson.classes)}
        identity = fingerprint(config | {"data": digest(lesson)})
        if not refuse_another(out, identity):
            arrays = Moments.of(lesson.rows, lesson.labels, len(lesson.classes)).arrays()
            with refusing_full_disk(out):
                commit(out / WEIGHTS, lambda file: file.write(save(arrays, {"identity": identity})))
        told = {"generator": describe(self)} | config
        with refusing_full_disk(out):
            commit(out / CONFIG, lambda file: file.write(json.dumps(told, indent=2).encode()))
        lesson.hear(1.0)


@part
class ClassGaussian(_OfMoments):
    """m_y + L eps: a Gaussian around every class mean, with the within-class covariance L L^T that all of them share."""

    def load(self, out: Path, ctx: Context) -> Sampler:
        moments = opened(out)

        def sample(rows: Sequence[Row]) -> list[np.ndarray | Failed]:
            noise = row_noise([row["seed"] for row in rows], moments.mean.shape).numpy()
            labels = [row["label"] for row in rows]
            return list((moments.means[labels] + noise @ moments.root.T).astype(np.float32))

        return sample


@part
class Translation(_OfMoments):
    """The source moved to the class wanted: m_y + Q Q^T (x - m_source) (Yin et al. 2019, FTL).

    Q are the directions that hold `energy` of the within-class variance; with None, all, a source of the same class
    stays as it is.
    """

    energy: Annotated[float, Field(gt=0, le=1)] | None = 0.95

    def load(self, out: Path, ctx: Context) -> Sampler:
        moments = opened(out)
        return lambda rows: list(moments.moved(rows, ctx, self.energy))


def opened(out: Path) -> Moments:
    path = out / WEIGHTS
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Moments:
    """`changed` is not read: what was fitted anew is opened anew."""
    return Moments.from_arrays(load_file(path))
