"""Work on many images at once: over processes, with a progress bar, stopped cleanly by Ctrl-C."""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

from core.errors import Interrupted, UserError

Result = TypeVar("Result")
CHUNK = 4  # items a worker takes at a time; Ctrl-C waits for the chunks handed out
PER_PROCESS = 32  # fewer items than this are not worth another process


def spread(
    function: Callable[[Any], Result], items: Sequence[Any], workers: int | None, label: str
) -> list[Result]:
    """[function(item) for item in items], over processes where that pays.

    Args:
        function: importable by name (or a partial of such), so that other processes find it.
        workers: at most that many processes; None means one per core.
        label: stands before the progress bar.

    Raises:
        Interrupted: Ctrl-C; what `function` has written stays.
        UserError: a worker was killed.
    """
    tasks = [
        (start, items[start : start + CHUNK], function) for start in range(0, len(items), CHUNK)
    ]
    processes = min(workers or os.cpu_count() or 1, math.ceil(len(items) / PER_PROCESS))
    results: dict[int, list[Result]] = {}
    bar = tqdm(total=len(items), desc=label, unit="image", dynamic_ncols=True, mininterval=0.5)
    with bar:
        try:
            for start, done in _run(tasks, processes):
                results[start] = done
                bar.update(len(done))
        except KeyboardInterrupt:
            raise Interrupted(
                "Stopped. What is finished stays, and the same command goes on."
            ) from None
    return [result for start in sorted(results) for result in results[start]]


def _run(tasks: list[Any], processes: int) -> Iterator[tuple[int, list[Any]]]:
    """Results of the tasks as they come, from this process or from a pool."""
    if processes <= 1:
        yield from map(_chunk, tasks)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        with _ctrl_c_ignored():  # inherited by the workers: they finish what is handed out
            futures = [pool.submit(_chunk, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "A worker process was killed (out of memory?); the same command with --workers 1 goes "
            "on."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunk(task: tuple[int, Sequence[Any], Callable[[Any], Any]]) -> tuple[int, list[Any]]:
    start, items, function = task
    return start, [function(item) for item in items]


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
