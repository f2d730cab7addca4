"""Where does a study's advice change? The baselines on digits, cut to tails of different steepness.

    python examples/how_uneven.py --to runs/how_uneven --factors 5 50

For each imbalance factor: the plain arm, the strongest cheap one, the synthetic candidate, and what is recommended.
Stopped halfway, the same command goes on. `--smoke` shows that it runs and proves nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import counterpoise as cp
from counterpoise.recipes.baselines import baselines


def study(factor: int, to: Path, trials: int, workers: int, smoke: bool) -> cp.Run:
    data = cp.Data(
        cp.open_source("digits"), cut=cp.parse_cut(f"exp:{factor}"), holdout=cp.Holdout(val=0.15, test=0.25)
    )
    return cp.run(
        baselines(data, cp.Trials(n=trials, draws=trials), smoke=smoke), to / f"exp_{factor}", workers
    )


def line(factor: int, run: cp.Run) -> str:
    verdict, arms = run.verdict, run.metrics["arms"]
    candidate = next(name for name, arm in arms.items() if arm["role"] == "candidate")
    shown = (verdict["plain"], verdict["opponent"], candidate)
    cells = [f"{name} {100 * arms[name]['mean']['balanced_accuracy']:.1f}" for name in shown]
    return f"{factor:>6}  " + "".join(f"{cell:<24}" for cell in cells) + verdict["recommendation"]["action"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("runs/how_uneven"))
    parser.add_argument("--factors", type=int, nargs="+", default=[5, 50])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    print(f"{'factor':>6}  {'plain':<24}{'strongest cheap arm':<24}{'candidate':<24}recommendation")
    for factor in asked.factors:
        print(line(factor, study(factor, asked.to, asked.trials, asked.workers, asked.smoke)), flush=True)


if __name__ == "__main__":  # workers are spawned: they import this file again
    main()
