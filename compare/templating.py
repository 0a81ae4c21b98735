"""Jinja environments over compare/templates: HTML escaped, plain text not. Each is made once, for
templates are compiled in it."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent / "templates"


@cache
def html_templates() -> Environment:
    """Everything a template prints is escaped unless marked safe."""
    return _environment(autoescape=True)


@cache
def text_templates() -> Environment:
    """For Markdown and plain text."""
    return _environment(autoescape=False)


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
