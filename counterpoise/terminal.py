"""What the terminal shows: progress bars, the verdict table, sizes and times in words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from counterpoise.flags import flag, own_flags
from counterpoise.types import Refusal

if TYPE_CHECKING:
    from counterpoise.rundir import Run

out = Console()
err = Console(stderr=True)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, float, int], None]]:
    """A bar per stage, on standard error."""
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=quiet) as shown:
        known: dict[str, Any] = {}

        def tell(stage: str, done: float, total: int) -> None:
            if stage not in known:
                known[stage] = shown.add_task(stage, total=total)
            shown.update(known[stage], completed=done, total=total)

        yield tell


def print_verdict(made: Run, as_json: bool) -> None:
    if not made.has("verdict.json"):
        if made.has("data/facts.json") and not made.json("data/facts.json")["sizes"]["test"]:
            raise Refusal(
                f"{made.path} has no test image, so nothing can be proven: take its samples home with `counterpoise export "
                f"{made.path} --to imagefolder --arm ARM --out FOLDER`"
            )
        raise Refusal(
            f"{made.path} has no verdict yet: run its command again to go on (see `counterpoise status {made.path}`)"
        )
    verdict = made.verdict
    if as_json:
        print(json.dumps(verdict | {"report": str(made / "report.html")}))
        return
    out.print(verdict_table(verdict, made.metrics["arms"]))
    out.print(f"\n[bold]{escape(verdict['headline'])}[/bold]")
    out.print(escape(verdict["recommendation"]["sentence"]))
    out.print(f"report: {made / 'report.html'}", markup=False)


def fidelity_table(name: str, found: dict[str, Any]) -> Table:
    """Samples against validation, band by band; real training rows, measured alike, in the last row of each."""
    table = Table(box=None, title=name, title_justify="left")
    columns = ("fd", "kid", "precision", "recall", "density", "coverage")
    for column in ("band", "rows", "samples", *columns):
        table.add_column(column, justify="left" if column in ("band", "rows") else "right")
    for rows, key in (("samples", "val"), ("train", "train_against_val")):
        for band, one in found[key].items():
            values = ["-" if one.get(column) is None else f"{one[column]:.3f}" for column in columns]
            table.add_row(band, rows, str(one["n_fake"]), *values)
    return table


def verdict_table(verdict: dict[str, Any], arms: dict[str, Any]) -> Table:
    """Every arm's mean per slice, and its difference on all classes to what it is held against."""
    table = Table(box=None)
    slices = verdict["family"]["slices"]
    against = verdict["family"]["against"]
    told = {row["arm"]: row for row in verdict["comparisons"] if row["slice"] == "all"}
    table.add_column("arm")
    for name in slices:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column(f"all, against {against}", justify="right")
    table.add_column("verdict")
    for arm, found in arms.items():
        means = [found["mean"].get("balanced_accuracy" if name == "all" else name, 0.0) for name in slices]
        row = told.get(arm)
        gap = (
            ""
            if row is None
            else f"{100 * row['mean']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        )
        said = (
            (row.get("verdict") or found["role"]) if row else "opponent" if arm == against else found["role"]
        )
        style = {"helps": "green", "hurts": "red", "opponent": "bold"}.get(said, "")
        table.add_row(arm, *(f"{100 * mean:.1f}" for mean in means), gap, said, style=style)
    return table


def seconds_text(value: float) -> str:
    return (
        f"{value:.0f} s"
        if value < 120
        else f"{value / 60:.0f} min"
        if value < 7200
        else f"{value / 3600:.1f} h"
    )


def bytes_text(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def print_estimate(found: dict[str, Any], to: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    out.print_json(json.dumps(found["recipe"]))
    out.print(
        f"into {to}: {found['images']} images listed, {found['trainings']} trainings of {found['steps']} steps, "
        f"{found['samples_at_most']} samples at most; about {bytes_text(found['bytes'])} and {seconds_text(found['seconds'])} of work "
        f"on {found['workers']} processes. Nothing was made.",
        markup=False,
    )


def print_flags(function: Callable[..., Any]) -> None:
    table = Table(title=f"Flags of the recipe {function.__name__}", title_justify="left", box=None)
    table.add_column("flag", style="cyan")
    table.add_column("default")
    for parameter in own_flags(function):
        table.add_row(flag(parameter), str(parameter.default))
    out.print(inspect.getdoc(function) or "", markup=False)
    out.print(table)
