"""What a user may get wrong, said in one line; how every command ends."""

import argparse
import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
OF_THE_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
}
"""What a disk refuses, wherever it is met: no fault of the program."""


class UserError(Exception):
    """Bad input. The message is one clear sentence that names the remedy."""


class Interrupted(Exception):
    """The user stopped the work and everything worth keeping is on disk."""


class Parser(argparse.ArgumentParser):
    """Of a command line; what is wrong with it is an error of the user like any other."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help lists what may be said).")


def at_least_1(text: str) -> int:
    """Of a flag that counts something; an `add_argument` type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' should be a whole number, at least 1")
    return int(text)


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Turn `main` into a command: errors of the user end in one line and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        except Interrupted as stop:
            print(f"\n{stop}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except (KeyboardInterrupt, Exception) as error:
            if _by_hand(error):
                print("\nStopped. The same command goes on from what is on disk.", file=sys.stderr)
                sys.exit(EXIT_INTERRUPTED)
            number = _of_system(error)
            if number not in OF_THE_DISK:
                raise
            place = getattr(error, "filename", None)
            told = f"{place}: {os.strerror(number)}" if place else os.strerror(number)
            print(f"error: {told}; mend that and run it again.", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)

    return wrapped


def _of_system(error: BaseException) -> int | None:
    """The system's error number; safetensors has it in its message only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _by_hand(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it; what it hits while a library loads can come wrapped."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
