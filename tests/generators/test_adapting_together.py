"""Several processes of torchrun adapt a model as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import text_to_image
from safetensors.torch import load_file

PROGRAM = """
import sys
from pathlib import Path

import numpy as np

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.stopping import EarlyStop
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.generator import Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion

base, out, adapt = sys.argv[1:]
rows = np.random.default_rng(0).integers(0, 256, (18, 32, 32, 3), dtype=np.uint8)
captions = ["by day" if row % 2 else None for row in range(18)]
lesson = Lesson(Rows.of(rows), np.arange(18) % 3, None, ["fox", "oak", "8"], captions=captions)
StableDiffusion(
    base=base,
    adapt=eval(adapt),
    schooling=Schooling(steps=6, batch=4, lr=1e-3, bf16=False),
).fit(lesson, Path(out), seed=1)
"""


def ended(out) -> list[int]:
    """At which looks at the rows put aside."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "aside" in row]


ADAPTS = {
    "texts": ("sd", 'Adapt(rank=2, flip=True, templates=("my {name}",), captioned=0.5)'),
    "early stop": ("sd", "Adapt(rank=2, stop=EarlyStop(share=0.4, every=1, patience=1))"),
    "text towers and a prior": ("sdxl", 'Adapt(rank=2, places=("attention", "text"), prior=0.5)'),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", ADAPTS)
def test_two_processes_of_torchrun_learn_what_one_learns(which, tmp_path):
    kind, adapt = ADAPTS[which]
    base = text_to_image.save(tmp_path / "base", kind=kind)
    (tmp_path / "fit.py").write_text(PROGRAM)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    together = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    found = []
    for name, how in (("one", []), ("two", together)):
        command = [sys.executable, *how, str(tmp_path / "fit.py"), str(base), str(tmp_path / name), adapt]
        subprocess.run(command, env=env, check=True, timeout=250)
        found.append(load_file(tmp_path / name / "weights.safetensors"))
    one, two = found
    assert ended(tmp_path / "one") == ended(tmp_path / "two")
    assert bool(ended(tmp_path / "one")) == (which == "early stop")
    assert len(one) > 4
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-4
