"""Killed anywhere and run again: the same result, with any number of workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies import outcome

COMMAND = ["run", "digits", "--cut", "exp:30", "--smoke", "--trials", "2", "--steps", "6", "--width", "4"]


def start(to: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "counterpoise", *COMMAND, "--to", str(to), "--workers", str(workers)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, start_new_session=True
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    to = tmp_path_factory.mktemp("undisturbed") / "run"
    started = time.monotonic()
    process = start(to, 2)
    assert process.wait(240) == 0, process.stderr.read().decode()
    process.stderr.close()
    return outcome(to), time.monotonic() - started


def storm(to: Path, seconds: float, kills: int, rng: random.Random) -> int:
    """Run, kill at a random moment (the driver, or one of its workers), run again; at last let it finish."""
    done = 0
    while done < kills:
        process = start(to, rng.choice([0, 1, 2]))
        try:
            process.wait(rng.uniform(0.1, 0.6) * seconds)
            process.stderr.close()
            break  # it finished before its turn
        except subprocess.TimeoutExpired:
            pass
        done += 1
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        if children and rng.random() < 0.3:
            os.kill(int(rng.choice(children)), signal.SIGKILL)
            time.sleep(0.5)
        process.kill()
        process.wait()
        process.stderr.close()
    process = start(to, 1)
    assert process.wait(240) == 0, process.stderr.read().decode()
    process.stderr.close()
    return done


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.timeout(1500)
def test_killed_at_random_moments_the_result_is_that_of_an_undisturbed_run(undisturbed, tmp_path, kills):
    expected, seconds = undisturbed
    done = storm(tmp_path / "run", seconds, kills, random.Random(kills))
    assert done, "nothing was killed: the moments are too late"
    found = outcome(tmp_path / "run")
    assert sorted(found) == sorted(expected)
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing
