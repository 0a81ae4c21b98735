"""What a user may get wrong, said in one line; how every command ends."""

import argparse
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
STOPPED = "\nStopped. The same command goes on from what is on disk."
OF_THE_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EEXIST,
}
"""What a disk refuses, wherever it is met: no fault of the program."""
DASHED = re.compile(r"[–—]+([A-Za-z][\w.]*)(=.*)?", re.DOTALL)  # "—rank", "–rank=8"
CURLED = re.compile(r"[“„][^\s“”]*")  # “a, where the shell cut “a dog”
AT_HOME = re.compile(r"^(--\w+=)?([^/=~]*=)?~/")  # ~/x, --out=~/x, NAME=~/x, --base=NAME=~/x


class UserError(Exception):
    """Bad input. The message is one clear sentence that names the remedy."""


class Interrupted(Exception):
    """The user stopped the work and everything worth keeping is on disk."""


class Parser(argparse.ArgumentParser):
    """Of a command line; what is wrong with it is an error of the user like any other."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, with a home folder where no shell puts one: behind a "="."""
        words = sys.argv[1:] if args is None else args
        check_pasted(words)
        home = os.path.expanduser("~/")
        words = [AT_HOME.sub(lambda found: found[0][:-2] + home, word) for word in words]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help lists what may be said).")


def check_pasted(words: Sequence[str]) -> None:
    """Raise UserError for dashes and quotes that web pages set in place of those typed."""
    for word in words:
        if dashed := DASHED.fullmatch(word):
            raise UserError(f"{word} begins with a dash of a web page; write --{dashed[1]}.")
        value = word.partition("=")[2] if word.startswith("--") else word
        if CURLED.fullmatch(value):
            raise UserError(
                f"{value} has the curly quotes of a web page; write straight ones, as in "
                '"a photo of ...".'
            )


def at_least_1(text: str) -> int:
    """Of a flag that counts something; an `add_argument` type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' should be a whole number, at least 1")
    return int(text)


def command(
    main: Callable[..., None] | None = None, *, less: str = "a smaller batch needs less"
) -> Any:
    """Turn `main` into a command: errors of the user end in one line and exit code 2.

    Args:
        less: what to do where memory does not suffice.
    """
    if main is None:
        return functools.partial(command, less=less)

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except Interrupted as stop:
            _leave(f"\n{stop}", EXIT_INTERRUPTED)
        except UserError as error:
            _leave(f"error: {error}", EXIT_BAD_INPUT)
        except (KeyboardInterrupt, Exception) as error:
            if _by_hand(error):
                _leave(STOPPED, EXIT_INTERRUPTED)
            told = _of_machine(error, less)
            if told is None:
                raise
            _leave(f"error: {told}", EXIT_BAD_INPUT)

    return wrapped


def _leave(told: str, code: int) -> NoReturn:
    print(told, file=sys.stderr)
    sys.exit(code)


def _by_hand(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it; what it hits while a library loads can come wrapped."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _of_machine(error: BaseException, less: str) -> str | None:
    """A sentence where disk or memory are at fault; None for faults of the program."""
    text = " ".join(str(error).split())
    short = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this
    if short or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"Memory does not suffice ({text[:200]}); {less}. What was saved is kept."
    found = re.search(r"\(os error (\d+)\)", text)  # as safetensors words it
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    if number not in OF_THE_DISK:
        return None
    place = getattr(error, "filename", None)
    why = f"{place}: {os.strerror(number)}" if place else os.strerror(number)
    return f"{why}; mend that and run it again."
