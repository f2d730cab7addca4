"""Where units are worked on: in this process, or in spawned ones on this machine.

An engine only places work and restarts what died; what is done is decided by the directory alone.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol

from counterpoise.types import Refusal

#: A task is a module-level function and its arguments, so that it can be sent to another process.
Task = tuple[Callable[..., None], tuple]

HEARTBEAT_S = 1.0
MOST_DEATHS = 3  # in a row, with nothing finished in between: more would go on for ever


class Workers(Protocol):
    def __call__(self, tasks: Sequence[Task]) -> Iterator[int | None]:
        """Do all tasks; yield the number of each as it is finished, and None now and then while nothing is."""
        ...


def inline(tasks: Sequence[Task]) -> Iterator[int]:
    """One after the other, here."""
    for index, (function, arguments) in enumerate(tasks):
        function(*arguments)
        yield index


@contextmanager
def local(processes: int) -> Iterator[Workers]:
    """Spawned processes on this machine, one thread each, kept for the whole run."""
    pool = _pool(processes)

    def work(tasks: Sequence[Task]) -> Iterator[int | None]:
        nonlocal pool
        left = dict.fromkeys(range(len(tasks)))
        deaths = 0  # since the last task that was finished
        while left:
            running: dict[Future, int] = {}
            try:
                for index in left:
                    function, arguments = tasks[index]
                    running[pool.submit(function, *arguments)] = index
                while running:
                    done, _ = wait(running, HEARTBEAT_S, return_when=FIRST_COMPLETED)
                    if not done:
                        yield None
                    for future in done:
                        future.result()
                        index = running.pop(future)
                        del left[index]
                        deaths = 0
                        yield index
            except BrokenProcessPool:  # a worker was killed: whatever it had not committed is done again
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool(processes)
                deaths += 1
                if deaths >= MOST_DEATHS:
                    names = ", ".join(str(tasks[index][1][-1]) for index in list(left)[:3])
                    raise Refusal(
                        f"worker processes died {deaths} times in a row while working on {names}: "
                        "out of memory? Run again with fewer --workers; what is done stays done"
                    ) from None
            finally:
                for future in running:
                    future.cancel()

    try:
        yield work
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(processes: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare, initargs=(os.getpid(),))


def _prepare(parent: int) -> None:
    """One thread per process; and no orphans: a killed parent cannot say goodbye, so its children watch for it."""
    os.environ["OMP_NUM_THREADS"] = "1"

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
