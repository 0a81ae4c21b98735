"""Prompt sets: text files with one prompt a line, JSON lines, or the captions of a prepared set."""

from pathlib import Path

from core.errors import UserError
from core.files import lines_of, read_jsonl
from core.sets import is_set, open_set


def read_prompts(source: str | Path) -> list[str]:
    """Prompts of a .txt file (blank lines and # comments left out), a .jsonl file (`prompt` or
    `text`), or a prepared set ("data/x:test": its captions).

    Raises UserError if there is none.
    """
    text = str(source)
    path = Path(text)
    if path.is_dir() and not is_set(path):
        raise UserError(f"{path} is a folder without set.json; give a prompts file.")
    if is_set(path) or not path.suffix:
        prompts = [caption for caption in open_set(text).captions if caption]
    elif not path.is_file():
        raise UserError(f"{path} is not there; give a text file with one prompt a line.")
    elif path.suffix == ".jsonl":
        prompts = [str(row.get("prompt") or row.get("text") or "") for row in read_jsonl(path)]
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text; save it as such.") from None
        lines = (line.strip() for line in lines_of(text))
        prompts = [line for line in lines if line and not line.startswith("#")]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise UserError(f"{source} holds no prompt; write one a line.")
    return prompts
