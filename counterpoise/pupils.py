"""What one trial is taught from, what it ends as, and the validation rows that it is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from counterpoise.classifiers import mixing
from counterpoise.classifiers.claims import claimed
from counterpoise.classifiers.decoupling import Rows as Labelled
from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.training import Lesson, Training, features_of
from counterpoise.data.pixels import Rows
from counterpoise.gathering import origins_of, real_of, rows_of
from counterpoise.recipe import Fit
from counterpoise.study import Study
from counterpoise.trialfiles import file_of


@dataclass(frozen=True, eq=False)
class Pupil:
    """What one trial of one fit is taught from: real rows, pseudo-labelled ones behind them, synthetic ones last."""

    fit: Fit
    n_classes: int
    rows: Rows
    labels: np.ndarray  # (n,), or (n, classes) if some of them are soft
    groups: np.ndarray | None
    synthetic: np.ndarray
    pseudo: int = 0  # rows of the pool that were given a label
    wanted: np.ndarray | None = None  # (synthetic rows,) the class of each, whatever its label claims
    views: int = 0  # rows that show the images of those before them once more

    @classmethod
    def of(cls, study: Study, fit: Fit, trial: int) -> Pupil:
        draw = study.draw_of(trial)
        if fit.own:
            real = real_of(study, draw, fit.synthesis)
            return cls(fit, len(study.classes), *real, np.zeros(len(real[1]), bool))
        shown = None if fit.start else fit.synthesis  # what it began with is not shown again
        rows, labels, groups, synthetic = rows_of(study, draw, shown, views=fit.views)
        if fit.by_cell and groups is not None:
            groups = np.where(groups < 0, groups, labels * len(study.groups) + groups)
        wanted, classes = labels[synthetic], len(study.classes)
        if fit.mix is not None and shown is not None:
            labels = claimed(labels, origins_of(study, draw, shown), fit.mix.claims, classes)
        views = int((~synthetic).sum()) - len(study.draw_rows(draw))
        pupil = cls(fit, classes, rows, labels, groups, synthetic, wanted=wanted, views=views)
        if fit.pool is None:
            return pupil
        groups = study.group_ids("pool")
        file = file_of(study, fit.pool.teacher, trial)
        net, seen = file.network(study, trial), study.vectors("pool", draw)
        features = seen if net is None else features_of(net, Rows.of(seen)).numpy()
        pool = study.vectors("pool", draw, fit.synthesis)
        kept, guessed = fit.pool(file.head(trial, fit.pool.teacher).logits(features))
        return pupil._and(pool, kept, guessed, None if groups is None else groups[kept])

    def _and(
        self, pool: np.ndarray, kept: np.ndarray, guessed: np.ndarray, groups: np.ndarray | None
    ) -> Pupil:
        """With these rows of the pool between the real and the synthetic ones."""
        real, behind = int((~self.synthetic).sum()), sum(map(len, self.rows.arrays))
        labels = self.labels
        if labels.ndim != guessed.ndim:
            labels, guessed = (mixing.soft(some, self.n_classes) for some in (labels, guessed))
        return replace(
            self,
            rows=Rows.of(*self.rows.arrays, pool, order=np.insert(self.rows.order, real, behind + kept)),
            labels=np.concatenate([labels[:real], guessed, labels[real:]]),
            groups=None if self.groups is None or groups is None else np.insert(self.groups, real, groups),
            synthetic=np.insert(self.synthetic, real, np.zeros(len(kept), bool)),
            pseudo=len(kept),
        )

    @cached_property
    def weights(self) -> np.ndarray:
        weights, mix, real = np.ones(len(self.labels)), self.fit.mix, ~self.synthetic
        if mix is None:
            return weights
        if self.wanted is None:
            return mix(weights[real], weights[~real])
        again = np.arange(
            self.images, self.images + self.views
        )  # what is rare stays so, however often it is shown
        counted = np.delete(mixing.hard(self.labels)[real], again)
        return mix(weights[real], weights[~real], (counted, self.wanted))

    @property
    def images(self) -> int:
        """Real rows, each once; they are the first."""
        return int((~self.synthetic).sum()) - self.pseudo - self.views

    @property
    def real(self) -> np.ndarray:
        """Where the real rows and other views of them lie in the arrays."""
        return np.array(self.rows.order[: self.images + self.views])

    @property
    def matrix(self) -> np.ndarray:
        """All rows of all arrays, one below the other; a single one without a copy, unless it lies on disk."""
        arrays = [array for array in self.rows.arrays if len(array)] or self.rows.arrays[:1]
        return np.concatenate(arrays) if len(arrays) > 1 else np.require(arrays[0], requirements="W")

    @cached_property
    def laid_out(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels and groups where their rows lie in that matrix."""
        length, order = sum(map(len, self.rows.arrays)), self.rows.order
        labels = np.zeros((length, *self.labels.shape[1:]), self.labels.dtype)
        labels[order] = self.labels
        if self.groups is None:
            return labels, None
        groups = np.zeros(length, np.int64)
        groups[order] = self.groups
        return labels, groups

    @property
    def targets(self) -> np.ndarray:
        """Soft labels (n, classes) float32."""
        return mixing.soft(self.labels, self.n_classes)

    def labelled(self, features: np.ndarray) -> Labelled:
        """What second stages see: one label per row."""
        real = np.arange(len(self.labels)) < self.images
        return Labelled(features, mixing.hard(self.labels), self.groups, real)

    def within(self, matrix: np.ndarray) -> Labelled:
        """The same, of features of the whole matrix."""
        order = self.rows.order
        whole = np.array_equal(order, np.arange(len(matrix)))
        return self.labelled(matrix if whole else matrix[order])

    @property
    def told(self) -> dict[str, int]:
        return {} if self.fit.pool is None else {"pseudo_labels": self.pseudo}

    def stream(self, steps: int, batch: int, seed: int) -> np.ndarray:
        return mixing.stream(self.fit.sampler, self.labels, self.weights, steps, batch, seed, self.groups)

    def lesson(self, training: Training, seed: int, patches_seed: int) -> Lesson:
        """All that a network is taught from."""
        return Lesson(
            self.rows,
            torch.from_numpy(self.targets),
            None if self.groups is None else torch.from_numpy(self.groups),
            self.stream(training.steps, training.batch, seed),
            lambda progress: torch.from_numpy(self.prior(progress)).float(),
            self.patches(training.steps, training.batch, patches_seed),
        )

    def prior(self, progress: float = 0.0) -> np.ndarray:
        """Label mass in rows, as the loader really yields it, pasted patches included (evidence rule 4)."""
        prior = self._drawn(progress) if self.fit.sampler.moves else self._always
        for change in self.fit.augment:
            if getattr(change, "partners", False):
                share = change.pasted(progress)
                prior = (1 - share) * prior + share * prior.sum() * self._patched
        return prior

    def _drawn(self, progress: float) -> np.ndarray:
        fit = self.fit
        return mixing.prior_of(fit.sampler, self.labels, self.weights, progress, self.groups, self.n_classes)

    @cached_property
    def _always(self) -> np.ndarray:
        return self._drawn(0.0)

    @cached_property
    def _patched(self) -> np.ndarray:
        """Label shares of the patches."""
        weights = mixing.patch_weights(self.labels, self.weights)
        return mixing.label_mass(self.labels, weights / weights.sum(), self.n_classes)

    def patches(self, steps: int, batch: int, seed: int) -> np.ndarray | None:
        """A second stream for augmentations that paste from tail-weighted images."""
        if not any(getattr(change, "partners", False) for change in self.fit.augment):
            return None
        weights = mixing.patch_weights(self.labels, self.weights)
        return mixing.stream(mixing.Instance(), self.labels, weights, steps, batch, seed, self.groups)


def sharing(study: Study, fit: Fit, trials: list[int]) -> Iterator[dict[int, Pupil]]:
    """Trials with their pupils: those that read the same rows together, as one batched problem.

    Draws with rows of their own go one after the other: standardisation sees no row that a cut left out, and memory
    holds the samples of one draw.
    """
    apart = fit.synthesis is not None or study.recipe.data.cut is not None
    together: dict[int, list[int]] = {}
    for trial in trials:
        together.setdefault(study.draw_of(trial) if apart else 0, []).append(trial)
    for members in together.values():
        # Trials of one draw have the same rows, unless each has labels of its own for the pool.
        first = {trial: trial if fit.pool is not None else study.draw_of(trial) for trial in members}
        pupils = {key: Pupil.of(study, fit, key) for key in dict.fromkeys(first.values())}
        yield {trial: pupils[key] for trial, key in first.items()}


@dataclass(frozen=True, eq=False)
class Finished:
    """One trial of a fit, before its arms go their own ways."""

    trial: int
    net: nn.Module | None
    head: LinearHead
    train: Labelled
    prior: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)


def validation(study: Study, net: nn.Module | None, draw: int = 0, synthesis: str | None = None) -> Labelled:
    labels, groups = study.labels("val"), study.group_ids("val")
    vectors = study.vectors("val", draw, synthesis)
    return Labelled(vectors if net is None else features_of(net, Rows.of(vectors)).numpy(), labels, groups)
