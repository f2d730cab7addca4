import os
import signal
import time
from pathlib import Path

import pytest

from counterpoise.types import Refusal
from counterpoise.workers import inline, local


def note(folder, name):
    (Path(folder) / name).write_text(str(os.getpid()))


def die_once(folder, name):
    marker = Path(folder) / f"{name}.tried"
    if not marker.exists():
        marker.write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
    note(folder, name)


def die(folder, name):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(folder, name):
    raise Refusal("the disk is full")


def finished(numbers):
    """Sorted, without the heartbeats that a slow machine hears between them."""
    return sorted(number for number in numbers if number is not None)


def test_every_task_is_done_once_wherever_it_runs(tmp_path):
    tasks = [(note, (str(tmp_path), f"t{i}")) for i in range(6)]
    assert sorted(inline(tasks)) == list(range(6))
    with local(2) as work:
        assert finished(work(tasks)) == list(range(6))
        assert finished(work(tasks[:2])) == [0, 1]
    assert len(list(tmp_path.iterdir())) == 6
    assert {int(p.read_text()) for p in tmp_path.iterdir()} - {os.getpid()}


def test_a_worker_that_dies_is_replaced_and_its_task_done_again(tmp_path):
    with local(2) as work:
        assert finished(work([(die_once, (str(tmp_path), f"t{i}")) for i in range(2)])) == [0, 1]
    assert all((tmp_path / f"t{i}").exists() for i in range(2))


def test_a_task_that_always_kills_its_worker_is_given_up_with_its_name(tmp_path):
    with local(1) as work, pytest.raises(Refusal, match="died 3 times in a row while working on poison"):
        list(work([(die, (str(tmp_path), "poison"))]))


def test_refusals_come_back(tmp_path):
    with local(1) as work, pytest.raises(Refusal, match="disk is full"):
        list(work([(fail, (str(tmp_path), "x"))]))


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    import subprocess
    import sys

    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_workers import note, sleep
from counterpoise.workers import local
if __name__ == "__main__":
    with local(1) as work:
        list(work([(note, ({str(tmp_path)!r}, "pid")), (sleep, (60, "x"))]))
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)])
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
        assert parent.poll() is None
    time.sleep(0.2)
    worker = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the worker is still there 10 s after its parent was killed")


def sleep(seconds, name):
    time.sleep(seconds)
