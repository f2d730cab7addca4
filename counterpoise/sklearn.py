"""Over-samplers for imbalanced-learn: the generators and pairings of the recipes, behind `fit_resample(X, y)`.

`sampling_strategy` and `random_state` mean what they mean everywhere in imbalanced-learn. Real rows come first in what
is returned, untouched, and the samples behind them, class by class. After that `source_indices_` (n_samples_new,) holds
for every row returned the row of `X` that it is or that it started from; -1 for a sample that came from noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
from imblearn.over_sampling.base import BaseOverSampler
from imblearn.utils import check_target_type
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from counterpoise.data.nonleaky import Mirror
from counterpoise.data.pixels import Rows
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.losses import ClassBalancing
from counterpoise.generators.feature_diffusion import FeatureDiffusion
from counterpoise.generators.generator import Context, Failed, Lesson
from counterpoise.generators.latent_mixture import LatentMixture
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.generators.transfer import Translation
from counterpoise.proposals.pairings import FromLarger, FromNoise, SameClass, TrainRows
from counterpoise.seeding import derive
from counterpoise.types import Refusal

FROM_NOTHING = -1  # in source_indices_

# What parameters may be, in scikit-learn's terms.
SHARED = BaseOverSampler._parameter_constraints
COUNT, WEIGHT = Interval(Integral, 1, None, closed="left"), Interval(Real, 0, None, closed="left")


@dataclass(kw_only=True, eq=False, repr=False)
class _Sampler(BaseOverSampler):
    """What the samplers share: a lesson from (X, y), a plan that meets `sampling_strategy_`, and samples in batches."""

    sampling_strategy: Any = "auto"
    random_state: Any = None
    rows_per_batch: ClassVar[int] = 1024

    def _fit_resample(self, X: Any, y: np.ndarray) -> tuple[Any, np.ndarray]:
        dense = X.toarray() if sparse.issparse(X) else X
        classes, labels = np.unique(y, return_inverse=True)
        wanted = np.array([self.sampling_strategy_.get(name, 0) for name in classes.tolist()])
        rows, seed = self._rows(dense), int(check_random_state(self.random_state).randint(2**31))
        train = TrainRows(np.arange(len(rows)), labels, None, rows.reshape(len(rows), -1))
        plan = self._pairing()(wanted, train, seed).to_pylist()
        made = np.empty((len(plan), *rows.shape[1:]), rows.dtype)
        if plan:
            self._fill(made, Lesson(Rows.of(rows), labels, None, [str(name) for name in classes]), plan, seed)
        sources = [FROM_NOTHING if row["source_id"] is None else int(row["source_id"]) for row in plan]
        self.source_indices_ = np.concatenate([np.arange(len(rows)), np.array(sources, np.int64)])
        new = self._like(made, dense)
        still = dense.min(0) == dense.max(
            0
        )  # the least deviation there would betray a sample to a classifier
        new[:, still] = dense[0][still]
        return _stacked(X, new), np.concatenate([y, np.repeat(classes, wanted)])

    def _fill(self, made: np.ndarray, lesson: Lesson, plan: list[dict], seed: int) -> None:
        generator = self._generator()
        context = Context(lambda ids: lesson.rows.raw(np.array(ids, np.int64)))
        with TemporaryDirectory() as name:
            folder = Path(name)
            generator.fit(lesson, folder, derive("fit", seed))
            sample, finish = generator.load(folder, context), self._finish(generator, folder)
            for first in range(0, len(plan), self.rows_per_batch):  # a plan has one strength here
                answers = sample(plan[first : first + self.rows_per_batch])
                for answer in answers:
                    if isinstance(answer, Failed):
                        raise Refusal(f"{type(self).__name__} could not make a sample: {answer}")
                made[first : first + len(answers)] = finish(np.stack(answers))

    def _rows(self, X: np.ndarray) -> np.ndarray:
        """As the rows of a study: uint8 pixels (n, h, w, c), or float32 features (n, d)."""
        # Around its mean first: what varies far from zero, as years or ids do, would be rounded away.
        self._offset = X.mean(0, dtype=np.float64) if X.dtype.itemsize > 4 else np.zeros(())
        return (
            (X - self._offset).astype(np.float32) if self._offset.ndim else X.astype(np.float32, copy=False)
        )

    def _like(self, rows: np.ndarray, X: np.ndarray) -> np.ndarray:
        """And back. Whole numbers are rounded."""
        rows = rows + self._offset if self._offset.ndim else rows
        if X.dtype.kind in "iub":
            low, high = (0, 1) if X.dtype.kind == "b" else (np.iinfo(X.dtype).min, np.iinfo(X.dtype).max)
            rows = np.rint(rows).clip(low, high)
        return rows.astype(X.dtype, copy=False)

    def _finish(self, generator: Any, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
        """What a generator's samples need to be rows."""
        return lambda samples: samples

    def _generator(self) -> Any:
        raise NotImplementedError

    def _pairing(self) -> Any:
        return FromNoise()


def _stacked(X: Any, new: np.ndarray) -> Any:
    """Real rows above new ones: a sparse X stays of its kind."""
    if sparse.issparse(X):
        return sparse.vstack([X, type(X)(new)], format=X.format)
    return np.concatenate([X, new])


@dataclass(kw_only=True, eq=False, repr=False)
class TranslationSampler(_Sampler):
    """Fill classes up with rows of larger classes, moved to the mean of the class wanted.

    What a row has of its own is kept, in the leading directions of the covariance within classes, which all of them
    share (feature transfer learning, Yin et al. 2019). There is nothing to train: it takes seconds.

    Parameters
    ----------
    neighbours : int or None, default=3
        Of how many larger classes, the nearest by their means, rows are moved; None: of all. A class with no larger one
        uses its own rows.
    energy : float or None, default=0.95
        The share of the variance within classes that the kept directions hold; None keeps all.

    Examples
    --------
    >>> import numpy as np
    >>> from counterpoise.sklearn import TranslationSampler
    >>> from sklearn.datasets import make_classification
    >>> X, y = make_classification(200, weights=[0.9], random_state=0)
    >>> sampler = TranslationSampler(random_state=0)
    >>> X_filled, y_filled = sampler.fit_resample(X, y)
    >>> np.bincount(y).tolist(), np.bincount(y_filled).tolist()
    ([180, 20], [180, 180])
    """

    neighbours: int | None = 3
    energy: float | None = 0.95
    _parameter_constraints: ClassVar[dict] = {
        **SHARED,
        "neighbours": [COUNT, None],
        "energy": [Interval(Real, 0, 1, closed="right"), None],
    }

    def _generator(self) -> Translation:
        return Translation(energy=self.energy)

    def _pairing(self) -> FromLarger:
        return FromLarger(neighbours=self.neighbours)


@dataclass(kw_only=True, eq=False, repr=False)
class FeatureDiffusionSampler(_Sampler):
    """Fill classes up with rows of a diffusion model that learns from all of them.

    A residual network learns to denoise standardised rows of every class (Karras et al. 2022). A sample comes from
    noise, or with `strength` below 1 from a row of a larger class that is moved to the class wanted, as
    `TranslationSampler` moves it, and noised part of the way. Made for features of a pretrained network.

    Parameters
    ----------
    fit_steps : int, default=400
        How long it learns, in steps of 1,024 rows.
    strength : float, default=1.0
        How far up the noise levels a sample starts: 1 is noise alone, and nothing is left of any row.
    neighbours : int or None, default=3
        With `strength` below 1: as for `TranslationSampler`.
    balance : float, default=0.0
        The weight tau of the class-balancing regulariser (Qin et al. 2023), which helps rare classes at the cost of
        large ones, and doubles the time of a fit; 0 leaves it out.
    sampling_steps : int, default=6
        Noise levels that a sample comes down.

    Examples
    --------
    >>> import numpy as np
    >>> from counterpoise.sklearn import FeatureDiffusionSampler
    >>> from sklearn.datasets import make_classification
    >>> X, y = make_classification(200, weights=[0.9], random_state=0)
    >>> sampler = FeatureDiffusionSampler(fit_steps=10, random_state=0)
    >>> X_filled, y_filled = sampler.fit_resample(X, y)
    >>> np.bincount(y).tolist(), np.bincount(y_filled).tolist()
    ([180, 20], [180, 180])
    """

    fit_steps: int = 400
    strength: float = 1.0
    neighbours: int | None = 3
    balance: float = 0.0
    sampling_steps: int = 6
    _parameter_constraints: ClassVar[dict] = {
        **SHARED,
        "fit_steps": [COUNT],
        "strength": [Interval(Real, 0, 1, closed="both")],
        "neighbours": [COUNT, None],
        "balance": [WEIGHT],
        "sampling_steps": [Interval(Integral, 1, 1000, closed="both")],
    }

    def _generator(self) -> FeatureDiffusion:
        return FeatureDiffusion(
            schooling=replace(FeatureDiffusion().schooling, steps=self.fit_steps),
            balance=ClassBalancing(tau=self.balance) if self.balance else None,
            steps=self.sampling_steps,
        )

    def _pairing(self) -> FromNoise | FromLarger:
        return FromNoise() if self.strength == 1 else FromLarger(self.neighbours, self.strength)


@dataclass(kw_only=True, eq=False, repr=False)
class LatentMixtureSampler(_Sampler):
    """Fill classes up with rows decoded from the codes of a deep generative mixture model.

    A variational autoencoder learns codes of all rows, with a classifier and one Gaussian per class over them (after
    Wang et al. 2023, DGCMM). Samples are made among the codes. What comes back are their *reconstructions*, rows like
    those of `X` that have lost what the codes do not hold, and so vary less than real ones. To train a classifier on
    the codes themselves, as the paper does, use the recipe `latent_mixture` instead.

    Parameters
    ----------
    fit_steps : int, default=2000
        How long it learns, in steps of 128 rows.
    start : {"own", "larger", "component"}, default="own"
        Where a sample begins: around the code of a row of its own class (the paper's Case 2), around that of a row of a
        larger class, moved to the class wanted (Case 1), or anywhere in the Gaussian of its class.
    neighbours : int or None, default=3
        With "larger": as for `TranslationSampler`.

    Examples
    --------
    >>> import numpy as np
    >>> from counterpoise.sklearn import LatentMixtureSampler
    >>> from sklearn.datasets import make_classification
    >>> X, y = make_classification(200, weights=[0.9], random_state=0)
    >>> sampler = LatentMixtureSampler(fit_steps=10, random_state=0)
    >>> X_filled, y_filled = sampler.fit_resample(X, y)
    >>> np.bincount(y).tolist(), np.bincount(y_filled).tolist()
    ([180, 20], [180, 180])
    """

    fit_steps: int = 2000
    start: str = "own"
    neighbours: int | None = 3
    _parameter_constraints: ClassVar[dict] = {
        **SHARED,
        "fit_steps": [COUNT],
        "start": [StrOptions({"own", "larger", "component"})],
        "neighbours": [COUNT, None],
    }

    def _generator(self) -> LatentMixture:
        return LatentMixture(fit_steps=self.fit_steps)

    def _pairing(self) -> FromNoise | SameClass | FromLarger:
        starts: dict[str, Any] = {
            "own": SameClass(),
            "larger": FromLarger(self.neighbours),
            "component": FromNoise(),
        }
        return starts[self.start]

    def _finish(self, generator: LatentMixture, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
        return generator.decoder(folder)


@dataclass(kw_only=True, eq=False, repr=False)
class PixelDiffusionSampler(_Sampler):
    """Fill classes up with pictures of a diffusion model that learns from all of them.

    Class-conditional diffusion on pixels (Karras et al. 2022), with the class-balancing regulariser of Qin et al. 2023.
    `X` is pictures (n, h, w) or (n, h, w, c), square and 8 to 64 pixels wide: bytes, or floats in [0, 1]. They are
    learnt from as bytes; shape and dtype come back as they came in.

    Parameters
    ----------
    fit_steps : int, default=3000
        How long it learns, in steps of 64 pictures. Few thousand suit small pictures; samples of fewer are blurs.
    balance : float, default=1.0
        The weight tau of the class-balancing regulariser; 0 leaves it out, and fits in half the time.
    guidance : float, default=1.0
        Scale of classifier-free guidance; 1 is none. More makes samples typical and alike.
    flip : bool, default=False
        Learn from mirrored pictures too: not for things that have a hand, such as digits.
    sampling_steps : int, default=20
        Noise levels that a sample comes down.

    Examples
    --------
    >>> from counterpoise.sklearn import PixelDiffusionSampler
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> X, y = digits.images[:150] / 16, digits.target[:150] == 3
    >>> sampler = PixelDiffusionSampler(fit_steps=2, sampling_steps=2, random_state=0)
    >>> X_filled, y_filled = sampler.fit_resample(X, y)
    >>> X.shape, X_filled.shape, y_filled.mean()
    ((150, 8, 8), (270, 8, 8), np.float64(0.5))
    """

    rows_per_batch: ClassVar[int] = 64

    fit_steps: int = 3000
    balance: float = 1.0
    guidance: float = 1.0
    flip: bool = False
    sampling_steps: int = 20
    _parameter_constraints: ClassVar[dict] = {
        **SHARED,
        "fit_steps": [COUNT],
        "balance": [WEIGHT],
        "guidance": [WEIGHT],
        "flip": ["boolean"],
        "sampling_steps": [Interval(Integral, 1, 1000, closed="both")],
    }

    def _generator(self) -> PixelDiffusion:
        return PixelDiffusion(
            schooling=replace(PixelDiffusion().schooling, steps=self.fit_steps),
            balance=ClassBalancing(tau=self.balance) if self.balance else None,
            augment=Mirror() if self.flip else None,
            guides=(CFG(scale=self.guidance),),
            steps=self.sampling_steps,
        )

    def _check_X_y(self, X: Any, y: Any, accept_sparse: Any = None) -> tuple[np.ndarray, np.ndarray, bool]:
        y, one_vs_all = check_target_type(y, indicate_one_vs_all=True)
        X, y = validate_data(self, X=X, y=y, reset=True, allow_nd=True)
        if X.ndim not in (3, 4) or X.shape[1] != X.shape[2]:
            raise Refusal(
                "pictures are (n, h, w) or (n, h, w, channels) and square, found the shape "
                f"{X.shape}: reshape flat rows, pad or crop others"
            )
        if X.dtype != np.uint8 and (X.dtype.kind != "f" or X.min() < 0 or X.max() > 1):
            raise Refusal(
                f"pictures are bytes or floats in [0, 1], found {X.dtype} from {X.min()} to {X.max()}: "
                "divide by the largest value there can be"
            )
        return X, y, one_vs_all

    def _rows(self, X: np.ndarray) -> np.ndarray:
        pixels = X if X.dtype == np.uint8 else np.rint(X * 255).astype(np.uint8)
        return pixels.reshape(*X.shape[:3], -1)

    def _like(self, rows: np.ndarray, X: np.ndarray) -> np.ndarray:
        pixels = rows.reshape(-1, *X.shape[1:])
        return pixels if X.dtype == np.uint8 else (pixels / 255).astype(X.dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.sparse = tags.input_tags.dataframe = False
        tags.input_tags.three_d_array = True
        return tags
