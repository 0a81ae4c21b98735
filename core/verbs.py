"""One `osteon` command run by another, as a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import EXIT_INTERRUPTED, Interrupted, UserError
from core.files import read_json


def run_verb(words: Sequence[str], what: str) -> None:
    """Run `osteon WORDS` to its end; what it prints is seen.

    Raises Interrupted after Ctrl-C, UserError if it failed; `what` names it.
    """
    stopped = "Stopped. The same command goes on from here."
    process = subprocess.Popen([sys.executable, "-m", "core.cli", *words])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise Interrupted(stopped) from None
    if code == EXIT_INTERRUPTED:
        raise Interrupted(stopped)
    if code:
        raise UserError(f"{what} ended with code {code}; mend the cause above and rerun.")


def is_finished(run: Path) -> bool:
    """Whether training that run has come to its end."""
    return (run / "run.json").exists() and read_json(run / "run.json").get("status") == "finished"
