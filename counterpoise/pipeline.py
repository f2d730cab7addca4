"""The pipeline is this table. Stages meet only on disk; to resume is to run the same command again."""

from __future__ import annotations

import importlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoise import workers
from counterpoise.nets.words import homonyms
from counterpoise.rundir import MARKER, Run
from counterpoise.types import Refusal, describe

if TYPE_CHECKING:
    from counterpoise.recipe import Recipe
    from counterpoise.study import Study


@dataclass(frozen=True)
class Stage:
    name: str
    reads: str
    writes: tuple[str, ...]  # what lies below the run directory when it has begun
    over: str  # what it is parallel over
    uses: tuple[str, ...]  # recipe fields that decide its result


# fmt: off
STAGES = (
    Stage("intake",   "the source",                       ("data",),                              "images",  ("data",)),
    Stage("audit",    "data/train; of test labels and hashes", ("audit.json", "classes.parquet", "quarantine.parquet"), "-", ()),
    Stage("teach",    "train, val, pool",                 ("features", "teach"),                  "trials",  ("network", "training", "fits", "trials.seed", "trials.draws", "data.glossary")),
    Stage("fit",      "train, val, pool",                 ("generators", "codes"),               "draws",   ("synthesis",)),
    Stage("tutor",    "train, val, selected of earlier rounds", ("tutors",),                      "draws",   ("synthesis[].tutor",)),
    Stage("plan",     "audit, tutor, train",              ("plan",),                              "draws",   ("rows_per_shard", "synthesis[].budget", "synthesis[].pairing", "synthesis[].prompts")),
    Stage("generate", "plan, generator, tutor",           ("samples",),                           "shards",  ("rows_per_batch", "synthesis[].guides", "synthesis[].generator.sampler", "synthesis[].generator.steps", "synthesis[].generator.guides")),
    Stage("score",    "samples, tutor, train",                 ("scores",),                            "shards",  ("synthesis[].scores",)),
    Stage("select",   "samples, scores",                  ("selected", "embedded"),               "draws",   ("synthesis[].select",)),
    Stage("measure",  "train, val, teacher, selected",    ("fidelity",),                          "draws",   ()),
    Stage("train",    "train, val, selected",             ("train",),                             "trials",  ()),
    Stage("evaluate", "classifiers, data/test (only here)", ("evaluate", "metrics.json", "verdict.json"), "trials", ("arms", "trials.n")),
    Stage("deliver",  "the chosen classifier, val",       ("classifier",),                        "-",       ()),
    Stage("report",   "all of it",                        ("report.html", "report.json"),         "-",       ("name",)),
)
# fmt: on
FACTS = "data/facts.json"  # of the classes, when intake is done
SAMPLED = "evaluate"  # has begun when all samples are there
NAMES = tuple(stage.name for stage in STAGES)
JUDGING = NAMES[NAMES.index("measure") :]  # cannot be done for class names alone
ROUND = ("tutor", "plan", "generate", "score", "select")  # done again while a tutor finds that it pays


def steps_of(stage: str) -> Sequence[Any]:
    return importlib.import_module(f"counterpoise.stages.{stage}").STEPS


def begun(run: Run, field: str) -> str | None:
    """The earliest stage that uses a recipe field and has artefacts already."""
    plain = re.sub(r"\[[^]]*\]", "[]", field)  # whichever fit, arm or synthesis it belongs to
    matches = [
        (len(used), -number, stage)
        for number, stage in enumerate(STAGES)
        for used in stage.uses
        if plain == used or plain.startswith((used + ".", used + "["))
    ]
    if not matches:
        return None
    stage = max(matches, key=lambda match: match[:2])[2]  # the one that says it most precisely
    later = STAGES[STAGES.index(stage) :]
    return stage.name if any(run.has(name) for other in later for name in other.writes) else None


def set_aside(run: Run, stage: str) -> Path | None:
    """Move a stage's artefacts and all that came after out of the way (`--redo`)."""
    if stage not in NAMES:
        raise Refusal(f"there is no stage {stage!r}; stages are {', '.join(NAMES)}")
    names = {name for stage_ in STAGES[NAMES.index(stage) :] for name in stage_.writes}
    if (
        stage in ROUND
    ):  # later rounds stand on what is made anew; in the first the tutor has seen real rows only
        folders = [
            name for stage_ in STAGES if stage_.name in ROUND for name in stage_.writes if name not in names
        ]
        names |= {
            f"{folder}/{path.name}"
            for folder in folders
            for path in (run / folder).glob("round_*")
            if path.name != "round_0"
        }
    return run.set_aside(sorted(names))


Progress = Callable[[str, float, int], None]  # stage, done (with parts of units), all


def execute(
    recipe: Recipe,
    to: str | Path,
    processes: int = 0,
    until: str = "report",
    progress: Progress | None = None,
    command: str = "",
) -> Run:
    """Run a recipe into a directory, or go on where it stopped. `processes` 0 works in this process."""
    from counterpoise.study import Study

    run = Run.create(to, describe(recipe), begun)
    study = Study.open(run.path)
    study.check_source()
    known = run.has(FACTS)
    if not run.has(SAMPLED):  # else what lies outside is needed no more
        check_ready(recipe, study.called if known else None, study.told_names if known else None)
    run.tell_no_more()
    study_of.cache_clear()
    if command:
        run.put_json("command.json", {"command": command})
    with _workers(processes) as work:
        for stage in _until(study, until):
            for step in range(len(steps_of(stage))):
                _do(study, stage, step, work, progress or _silent)
            if stage == NAMES[0] and not known:
                check_ready(recipe, study.called, study.told_names)
                _warn_of_homonyms(study)
    return run


def check_ready(
    recipe: Recipe,
    classes: Sequence[str] | None,
    cells: Callable[[str], Sequence[str]] | None = None,
) -> None:
    """Refuse what generators and scores need from outside the run and cannot get, before anything long begins.

    `classes` are none as long as nobody knows them; `cells` are what the generator of a synthesis counts as its classes.
    """
    if hasattr(recipe.network, "ready"):
        recipe.network.ready(classes)
    for fit in recipe.fits:
        if fit.tuning is not None:
            recipe.network.hears(fit.tuning.templates, classes)
    for item in recipe.synthesis:
        if item.prompts is not None:
            item.prompts.ready(classes if cells is None else cells(item.name))
        if hasattr(item.generator, "ready"):
            item.generator.ready(classes if cells is None else cells(item.name))
        for _, score in item.scores:
            if hasattr(score, "ready"):
                score.ready(classes)


def _warn_of_homonyms(study: Study) -> None:
    """Text models take the first meaning that comes to them."""
    recipe = study.recipe
    if not (
        any(fit.tuning for fit in recipe.fits)
        or any(item.generator.reads_prompts for item in recipe.synthesis)
    ):
        return
    for name, senses in homonyms(study.classes, dict(recipe.data.glossary)).items():
        warnings.warn(
            f"class {name!r} may be {' or '.join(senses)}: say which with --gloss '{name}={name}, {senses[0]}'",
            stacklevel=2,
        )


def _until(study: Study, last: str) -> Iterator[str]:
    """The stages in order, those of a round again for as long as a tutor has to be taught or samples are planned."""
    for stage in NAMES[: NAMES.index(last) + 1]:
        if stage in JUDGING and not study.facts["sizes"]["test"]:
            return
        yield stage
        if stage == ROUND[-1]:
            begin = [steps_of(one)[0] for one in ROUND[:2]]
            while any(not study.run.has(unit) for step in begin for unit in step.units(study)):
                yield from ROUND


def fit_here(path: str | Path, progress: Progress | None = None) -> None:
    """Train the missing generators of a run in this process: under torchrun, all ranks of it do the same ones together."""
    study = study_of(str(path))
    if not study.run.has(FACTS):
        raise Refusal(f"{path} has no data yet: make it with `counterpoise run ... --until teach` first")
    for number in range(len(steps_of("fit"))):
        _do(study, "fit", number, workers.inline, progress or _silent)


def _do(study: Study, stage: str, number: int, work: workers.Workers, progress: Progress) -> None:
    units = steps_of(stage)[number].units(study)
    missing = [unit for unit in units if not study.run.has(unit)]
    started = time.time()
    progress(stage, len(units) - len(missing), len(units))
    tasks = [(work_on, (str(study.run.path), stage, number, unit)) for unit in missing]
    done, left = len(units) - len(missing), set(missing)
    for index in work(tasks):
        if index is not None:
            done += 1
            left.discard(missing[index])
        progress(stage, done + study.run.told(left), len(units))
    if missing and os.environ.get("RANK", "0") == "0":  # of torchrun's processes one keeps the log
        seconds = round(time.time() - started, 3)
        study.run.log(
            {"stage": stage, "step": number, "units": len(missing), "seconds": seconds, "at": started}
        )


def work_on(path: str, stage: str, step: int, unit: str) -> None:
    """Make one unit, wherever this process is."""
    _one_thread()
    study = study_of(path)
    try:
        steps_of(stage)[step].work(study, unit)
    finally:
        study.run.tell_no_more(unit)


@lru_cache(maxsize=1)
def study_of(path: str) -> Study:
    from counterpoise.study import Study

    return Study.open(path)


@lru_cache(maxsize=1)
def _one_thread() -> None:
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's, where this process was not begun by us


@contextmanager
def _workers(processes: int) -> Iterator[workers.Workers]:
    with workers.local(processes) if processes else nullcontext(workers.inline) as work:
        yield work


def _silent(stage: str, done: float, total: int) -> None:
    pass


def status(run: Run) -> list[dict[str, Any]]:
    """Per stage: whether it has begun and what lies there. Needs neither torch nor the recipe's parts."""
    rows = []
    for stage in STAGES:
        folder = [run / name for name in stage.writes]
        files = [path for path in folder if path.is_file()]
        for path in folder:
            if path.is_dir():
                files += [file for file in path.rglob("*") if file.is_file()]
        newest = max((file.stat().st_mtime for file in files), default=None)
        rows.append(
            {
                "stage": stage.name,
                "files": len(files),
                "bytes": sum(file.stat().st_size for file in files),
                "age_s": None if newest is None else round(time.time() - newest, 1),
            }
        )
    return rows


def default_processes() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


__all__ = [
    "MARKER",
    "NAMES",
    "STAGES",
    "Stage",
    "begun",
    "default_processes",
    "execute",
    "fit_here",
    "set_aside",
    "status",
]
