"""The command line. It parses, calls and prints; `--help` and `status` import no torch.

`run` takes the flags of its recipe, too: they are the keyword parameters of the recipe's function.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from counterpoise.flags import find_recipe, parse_flags, recipe_names
from counterpoise.terminal import (
    bytes_text,
    err,
    out,
    print_estimate,
    print_flags,
    print_verdict,
    progress_bars,
    seconds_text,
)
from counterpoise.types import Refusal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Unevenly filled image data in, an honest verdict on synthetic data out.",
    epilog="Try: [bold]counterpoise run digits --cut exp:50[/bold]   then open runs/digits/report.html",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RunPath = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]
DataArgument = Annotated[
    str,
    typer.Argument(
        help="digits | an image folder | a .csv/.jsonl/.parquet manifest | hub:NAME", show_default=False
    ),
]


def main() -> None:
    """Entry point: a Refusal is printed without a traceback and exits with 2."""
    try:
        app()
    except Refusal as refusal:
        err.print(f"[red bold]refused:[/red bold] {escape(str(refusal))}")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped; run the same command again to go on")
        sys.exit(130)


# --- run -----------------------------------------------------------------------------------------------------


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)
def run(
    ctx: typer.Context,
    data: Annotated[str, typer.Argument(help=DataArgument.__metadata__[0].help, show_default=False)] = "",
    recipe: Annotated[
        str, typer.Option(help="Which study to run; see `counterpoise recipes`.")
    ] = "baselines",
    to: Annotated[
        Path | None, typer.Option(help="The run directory [default: runs/DATA].", show_default=False)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Working resolution in pixels [default: from the images, at most 64].", show_default=False
        ),
    ] = None,
    colour: Annotated[str, typer.Option(help="auto | grey | rgb")] = "auto",
    cut: Annotated[
        str, typer.Option(help="Thin out train: exp:FACTOR | step:FACTOR | few:K | group:NAME:SHARE | none")
    ] = "none",
    val: Annotated[
        float, typer.Option(help="Validation per class, where the data has none: a share below 1, or images.")
    ] = 0.15,
    test: Annotated[
        float, typer.Option(help="Test per class, where the data has none: a share below 1, or images.")
    ] = 0.25,
    together: Annotated[
        bool, typer.Option(help="Keep all images of a group (a patient) in one split.")
    ] = False,
    data_seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    trials: Annotated[int, typer.Option(help="Paired trials per arm.")] = 10,
    draws: Annotated[
        int | None,
        typer.Option(
            help="How often cut and samples are drawn anew [default: the recipe decides].", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the trials.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes; 0 works in this one [default: one per core].", show_default=False),
    ] = None,
    redo: Annotated[
        str, typer.Option(help="Move the artefacts of this stage and all later ones aside first.")
    ] = "",
    smoke: Annotated[
        bool, typer.Option(help="The recipe's small twin: shows that it runs, proves nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print recipe, counts, disk and time; make nothing.")
    ] = False,
    as_json: AsJson = False,
    help_: Annotated[
        bool, typer.Option("--help", "-h", help="Show this and the recipe's own flags.")
    ] = False,
) -> None:
    """From images to a verdict. To resume, run the same command again.

    Examples:

      counterpoise run digits --cut exp:50

      counterpoise run photos/ --backbone hf:google/mobilenet_v2_1.0_224

      counterpoise run photos/ --cut few:5 --trials 20 --to runs/five --dry-run
    """
    if help_ or not data:
        _help(ctx, recipe, explicit="--recipe" in sys.argv)
    from counterpoise.data.sources import open_source
    from counterpoise.data.splits import Holdout, parse_cut
    from counterpoise.pipeline import default_processes, execute, set_aside
    from counterpoise.recipe import Data, Recipe, Trials
    from counterpoise.rundir import Run
    from counterpoise.types import build

    function = find_recipe(recipe)
    flags = parse_flags(function, ctx.args)
    source = open_source(data)
    holdout = build(Holdout, {"val": _amount(val), "test": _amount(test), "together": together})
    made_of = {"source": source, "size": size, "colour": colour, "cut": parse_cut(cut), "holdout": holdout}
    study: Recipe = function(
        build(Data, made_of | {"seed": data_seed}),
        build(Trials, {"n": trials, "draws": draws or 1, "seed": seed}),
        **flags,
        **({} if draws is None else {"draws": draws}),
        smoke=smoke,
    )
    to = to or Path("runs") / (Path(data.split(":")[-1]).name or "data")
    if dry_run:
        from counterpoise.estimate import estimate

        print_estimate(estimate(study), to, as_json)
        return
    if redo:
        moved = set_aside(Run.open(to), redo)
        err.print(f"moved aside: {moved}" if moved else f"nothing of {redo} or later was there")
    with progress_bars(quiet=as_json) as progress:
        made = execute(
            study,
            to,
            default_processes() if workers is None else workers,
            progress=progress,
            command=_command(),
        )
    print_verdict(made, as_json)


def _command() -> str:
    import shlex

    return shlex.join(["counterpoise", *sys.argv[1:]])


def _amount(value: float) -> int | float:
    return int(value) if value >= 1 else value


def _help(ctx: typer.Context, recipe: str, explicit: bool) -> None:
    command = ctx.command
    out.print(command.get_help(ctx), markup=False, highlight=False)
    names = ", ".join(recipe_names())
    if not explicit:
        out.print(f"\nRecipes: {names}. Their own flags: counterpoise run --recipe NAME --help", markup=False)
    else:
        print_flags(find_recipe(recipe))
    raise typer.Exit


# --- recipes -------------------------------------------------------------------------------------------------


@app.command()
def recipes(
    name: Annotated[str, typer.Argument(help="One recipe, with its flags.")] = "", as_json: AsJson = False
) -> None:
    """List the recipes, or show one with its flags. Example: counterpoise recipes baselines"""
    if name:
        print_flags(find_recipe(name))
        return
    rows = {n: (inspect.getdoc(find_recipe(n)) or "").split("\n")[0] for n in recipe_names()}
    if as_json:
        print(json.dumps(rows))
        return
    for recipe, line in rows.items():
        out.print(f"[cyan]{recipe}[/cyan]  {escape(line)}")


# --- looking at runs -----------------------------------------------------------------------------------------


@app.command()
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


@app.command()
def audit(
    data: DataArgument,
    to: Annotated[
        Path | None, typer.Option(help="Where to keep it [default: runs/DATA-audit].", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes [default: one per core].", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Open every image; count, hash and compare them. Example: counterpoise audit photos/"""
    from counterpoise.data.sources import open_source
    from counterpoise.data.splits import Holdout
    from counterpoise.pipeline import default_processes, execute
    from counterpoise.recipe import Data, Trials
    from counterpoise.types import build

    study = find_recipe("baselines")(
        build(Data, {"source": open_source(data), "holdout": Holdout()}), Trials()
    )
    to = to or Path("runs") / f"{Path(data.split(':')[-1]).name or 'data'}-audit"
    with progress_bars(quiet=as_json) as progress:
        made = execute(
            study, to, default_processes() if workers is None else workers, until="audit", progress=progress
        )
    found = made.json("audit.json")
    if as_json:
        print(json.dumps(found))
        return
    table = Table(box=None)
    for column in ("class", "train", "val", "test", "bin"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in made.table("classes.parquet").to_pylist():
        table.add_row(
            escape(row["name"][:60]), str(row["train"]), str(row["val"]), str(row["test"]), row["bin"]
        )
    out.print(table)
    out.print(
        f"{found['images']} images, {found['quarantined']} in quarantine, imbalance factor {found['imbalance']:.1f}; "
        f"duplicates {len(found['duplicates'])}, leaks across splits {len(found['leaks'])}, "
        f"same pixels under two labels {len(found['conflicts'])}"
    )
    for note in found["notes"]:
        out.print(f"note: {note}", markup=False)


@app.command()
def report(path: RunPath, as_json: AsJson = False) -> None:
    """Print the verdict of a run and where its report lies. Example: counterpoise report runs/digits"""
    from counterpoise.rundir import Run

    print_verdict(Run.open(path), as_json)


@app.command()
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


@app.command()
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


@app.command()
def export(
    path: RunPath,
    to: Annotated[str, typer.Option(help="imagefolder | parquet")],
    out_: Annotated[Path, typer.Option("--out", help="An empty or absent directory.", show_default=False)],
    arm: Annotated[
        str, typer.Option(help="Whose samples go in [default: the recommended arm's].", show_default=False)
    ] = "",
) -> None:
    """Write the balanced data set: real training images and kept samples. Example: counterpoise export runs/digits --to parquet --out balanced/"""
    from counterpoise.delivery import export_data

    written = export_data(path, to, out_, arm)
    out.print(f"{written} images in {out_}", markup=False)
