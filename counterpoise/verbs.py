"""What the command line does with a run that is there: looking at it, measuring it, taking things home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from counterpoise.terminal import bytes_text, fidelity_table, out, print_verdict, seconds_text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RunPath = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]


# --- looking at runs -----------------------------------------------------------------------------------------


def status(path: RunPath, as_json: AsJson = False) -> None:
    """What is done in a run directory. Example: counterpoise status runs/digits"""
    from counterpoise import pipeline
    from counterpoise.rundir import Run

    made = Run.open(path)
    rows = pipeline.status(made)
    if as_json:
        print(
            json.dumps(
                {"path": str(path), "recipe": made.json("recipe.json")["recipe"]["name"], "stages": rows}
            )
        )
        return
    table = Table(box=None)
    for column in ("stage", "files", "size", "last written"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows:
        age = "-" if row["age_s"] is None else f"{seconds_text(row['age_s'])} ago"
        table.add_row(row["stage"], str(row["files"] or "-"), bytes_text(row["bytes"]), age)
    out.print(table)


def report(path: RunPath, as_json: AsJson = False) -> None:
    """Print the verdict of a run and where its report lies. Example: counterpoise report runs/digits"""
    from counterpoise.rundir import Run

    print_verdict(Run.open(path), as_json)


def fidelity(
    path: RunPath,
    judge: Annotated[
        str,
        typer.Option(
            help="hf:NAME or a folder (transformers) | inception:FILE | cifar-resnet:FILE (safetensors)",
            show_default=False,
        ),
    ],
    synthesis: Annotated[
        str, typer.Option(help="Whose samples [default: those of every generator].", show_default=False)
    ] = "",
    draw: Annotated[int, typer.Option(help="Of which draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the kept samples of a run in the features of another network. Example: counterpoise fidelity runs/digits --judge inception:inception.safetensors"""
    from counterpoise.judging import judge_run

    found = judge_run(path, judge, synthesis, draw)
    if as_json:
        print(json.dumps(found))
        return
    for name, one in found.items():
        out.print(fidelity_table(name, one))
        for warning in one["val"]["all"]["warnings"]:
            out.print(f"note: {warning}", markup=False)


def doctor(as_json: AsJson = False) -> None:
    """What this machine has: versions, optional packages, cores, memory for the taking. Example: counterpoise doctor"""
    from counterpoise.doctor import checks

    rows = checks()
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        mark = "[green]ok[/green]" if row["ok"] else "[yellow]no[/yellow]"
        out.print(f"{mark}  {row['name']}: {escape(row['found'])}")


# --- taking things home --------------------------------------------------------------------------------------


def predict(
    path: RunPath,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Classify images with the chosen classifier of a run. Example: counterpoise predict runs/photos a.jpg b.jpg"""
    from counterpoise.delivery import Predictor

    rows = Predictor.open(path)(images)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
    for row in () if as_json else rows:
        said = (
            f"{row['label']} ({row['confidence']:.1%})"
            if row["label"] is not None
            else f"not read: {row['reason']}"
        )
        out.print(f"{row['image']}: {said}", markup=False, highlight=False)
    if any(row["label"] is None for row in rows):
        raise typer.Exit(1)


def export(
    path: RunPath,
    to: Annotated[str, typer.Option(help="imagefolder | parquet | diffusers | lora")],
    out_: Annotated[Path, typer.Option("--out", help="An empty or absent directory.", show_default=False)],
    arm: Annotated[
        str, typer.Option(help="Whose samples go in [default: the recommended arm's].", show_default=False)
    ] = "",
) -> None:
    """Write the balanced data set (real training images and kept samples), the generator as a diffusers pipeline, or what a
    text-to-image model has learnt: its adapters and words, for diffusers and for programs that read kohya's layout.

    Examples:

      counterpoise export runs/digits --to parquet --out balanced/

      counterpoise export runs/digits --to diffusers --arm diffusion --out generator/

      counterpoise export runs/photos --to lora --arm diff-mix --out photos_lora/
    """
    from counterpoise.delivery import FORMS, export_data, export_generator

    if to in FORMS:
        name = export_generator(path, out_, arm, to=to)
        out.print(f"the generator of {name} in {out_}; its README.md says how to sample", markup=False)
        return
    written = export_data(path, to, out_, arm)
    out.print(f"{written} images in {out_}", markup=False)
