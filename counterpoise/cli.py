"""The command line. It parses, calls and prints; `--help` and `status` import no torch.

`run` takes the flags of its recipe, too: they are the keyword parameters of the recipe's function.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from counterpoise import verbs
from counterpoise.flags import find_recipe, parse_flags, recipe_names
from counterpoise.terminal import (
    err,
    out,
    print_estimate,
    print_flags,
    print_verdict,
    progress_bars,
)
from counterpoise.types import Refusal
from counterpoise.verbs import AsJson, RunPath

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Unevenly filled image data in, an honest verdict on synthetic data out.",
    epilog="Try: [bold]counterpoise run digits --cut exp:50[/bold]   then open runs/digits/report.html",
)
DataArgument = Annotated[
    str,
    typer.Argument(
        help="digits | an image folder | a .csv/.jsonl/.parquet manifest | hub:NAME", show_default=False
    ),
]


def main() -> None:
    """Entry point: a Refusal is printed without a traceback and exits with 2."""
    warnings.showwarning = lambda message, *where: err.print(f"note: {message}", markup=False)
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
    recipe: Annotated[str, typer.Option(help="Which study to run; see `counterpoise recipes`.")] = "auto",
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
    gloss: Annotated[
        list[str] | None,
        typer.Option(
            help="What text models are told a class is: CLASS=WORDS, several times.", show_default=False
        ),
    ] = None,
    cut: Annotated[
        str, typer.Option(help="Thin out train: exp:FACTOR | step:FACTOR | few:K | group:NAME:SHARE | none")
    ] = "none",
    val: Annotated[
        float, typer.Option(help="Validation per class, where the data has none: a share below 1, or images.")
    ] = 0.15,
    test: Annotated[
        float, typer.Option(help="Test per class, where the data has none: a share below 1, or images.")
    ] = 0.25,
    pool: Annotated[
        str,
        typer.Option(
            help="Unlabelled images that generators and the pseudo-label arms may learn from: a folder of your own (or any "
            "other source; its labels are not read), or how many to put aside per class: a share below 1, or images."
        ),
    ] = "0",
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
    until: Annotated[str, typer.Option(help="Stop after this stage; the same command goes on.")] = "report",
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

      counterpoise run digits --cut exp:30:top=30:shuffled --pool 0.45 --no-flip

      counterpoise run photos/ --backbone hf:google/mobilenet_v2_1.0_224

      counterpoise run photos/ --cut few:5 --pool unsorted/ --trials 20 --to runs/five --dry-run
    """
    if help_ or not data:
        _help(ctx, recipe, explicit="--recipe" in sys.argv)
    from counterpoise.data.pooled import WithPool, open_pool
    from counterpoise.data.sources import open_source
    from counterpoise.data.splits import Holdout, parse_cut
    from counterpoise.pipeline import NAMES, default_processes, execute, set_aside
    from counterpoise.recipe import Data, Recipe, Trials
    from counterpoise.rundir import Run
    from counterpoise.types import build, refusing_settings

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Refusal(
            "`run` divides its work itself: under torchrun only the generators are trained together, with "
            "`torchrun -m counterpoise fit RUN` on a run that was made with `--until teach`"
        )
    if until not in NAMES:
        raise Refusal(f"there is no stage {until!r}; stages are {', '.join(NAMES)}")
    function = find_recipe(recipe)
    flags = parse_flags(function, ctx.args)
    source, aside = open_source(data), _number(pool)
    if aside is None:
        source = build(WithPool, {"source": source, "pool": open_pool(pool)})
    amounts = {"val": _amount(val), "test": _amount(test), "pool": _amount(aside or 0)}
    holdout = build(Holdout, amounts | {"together": together})
    glossary = dict(map(_gloss, gloss or ()))
    made_of = {
        "glossary": tuple(sorted(glossary.items())),
        "source": source,
        "size": size,
        "colour": colour,
        "cut": parse_cut(cut),
        "holdout": holdout,
    }
    with refusing_settings():
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
            until,
            progress,
            _command(),
        )
    if until == NAMES[-1] and made.has("verdict.json"):
        print_verdict(made, as_json)
    elif until == NAMES[-1]:
        name = [arm.name for arm in study.arms if arm.role == "candidate"][-1]
        err.print(
            f"samples are in {made.path}; without a test image nothing can be proven of them. To take them home: "
            f"counterpoise export {made.path} --to imagefolder --arm {name} --out pictures/",
            markup=False,
        )
    else:
        err.print(f"done up to {until}: {made.path}", markup=False)


def _command() -> str:
    import shlex

    return shlex.join(["counterpoise", *sys.argv[1:]])


def _gloss(text: str) -> tuple[str, str]:
    """
    >>> _gloss("crane=crane, a bird")
    ('crane', 'crane, a bird')
    """
    name, sign, words = text.partition("=")
    if not (sign and name.strip() and words.strip()):
        raise Refusal(f"--gloss says what a class is as CLASS=WORDS, found {text!r}")
    return name.strip(), words.strip()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _amount(value: float) -> int | float:
    return int(value) if 1 <= value < float("inf") else value


def _help(ctx: typer.Context, recipe: str, explicit: bool) -> None:
    command = ctx.command
    out.print(command.get_help(ctx), markup=False, highlight=False)
    names = ", ".join(recipe_names())
    if not explicit:
        out.print(f"\nRecipes: {names}. Their own flags: counterpoise run --recipe NAME --help", markup=False)
    else:
        print_flags(find_recipe(recipe))
    raise typer.Exit


@app.command()
def fit(path: RunPath) -> None:
    """Train the generators of a run, by this process or by all of torchrun's together.

    Examples:

      counterpoise run photos/ --recipe balanced_diffusion --until teach

      torchrun --nproc-per-node 4 -m counterpoise fit runs/photos
    """
    from counterpoise.pipeline import fit_here

    with progress_bars(quiet=False) as progress:
        fit_here(path, progress)


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


for verb in (verbs.status, verbs.report, verbs.fidelity, verbs.doctor, verbs.predict, verbs.export):
    app.command()(verb)
