"""One `osteon` command run by another, as a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, Interrupted, UserError
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


def try_verb(words: Sequence[str]) -> None:
    """Dry-run `osteon WORDS`, and print nothing of its plan.

    Raises UserError in its own words for what it refuses; what else it said goes to stderr.
    """
    command = [sys.executable, "-m", "core.cli", *words, "--dry_run"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == EXIT_INTERRUPTED:
        raise Interrupted("Stopped. Nothing was written.")
    if done.returncode:
        refused = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if done.returncode == EXIT_BAD_INPUT and refused:
            raise UserError(refused[-1].removeprefix("error: "))
        print(done.stderr, file=sys.stderr)
        raise UserError(f"A dry run ended with code {done.returncode}; mend the cause above.")


def is_finished(run: Path) -> bool:
    """Whether training that run has come to its end."""
    return (run / "run.json").exists() and read_json(run / "run.json").get("status") == "finished"
