"""What the server hands out, beyond Gradio's own rules."""

import os
import re
from pathlib import Path
from typing import Any

from gradio.blocks import BlocksConfig
from starlette.responses import PlainTextResponse

ASKED = re.compile(r"/file[=/](.*)", re.DOTALL)
"""What a path asks Gradio for, by its name for files and by the older one."""


def go_straight(*hosts: str) -> None:
    """Let requests to `hosts`, which are this computer, pass by the proxy that HTTP_PROXY names."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    named = [name.strip() for name in known.split(",") if name.strip()]
    if "*" not in named:
        hosts_too = dict.fromkeys([*named, *hosts])
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(hosts_too)


def render_undisturbed() -> None:
    """Make what `gr.render` shows appear whatever else goes on.

    Gradio 6.31 ends a render with a walk over all of a visitor's components, for those whose first
    value is a function. An event that replaces one meanwhile adds to them, and the render fails
    with "dictionary changed size" (as in its issue 9991). Ours have no such values: no walk.
    """
    attach = BlocksConfig.attach_load_events

    def attach_to_whole_pages(config: BlocksConfig, rendered_in: Any = None) -> None:
        if rendered_in is None:
            attach(config)

    BlocksConfig.attach_load_events = attach_to_whole_pages


class NoDotfiles:
    """ASGI middleware: of `folder`, whose files Gradio serves, none that is hidden."""

    def __init__(self, app: Any, folder: Path) -> None:
        self.app, self.folder = app, folder.resolve()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        found = ASKED.search(scope.get("path", ""))
        hidden = found is not None and self._hides(Path(found[1]))
        answer = PlainTextResponse("Not served.", 403) if hidden else self.app
        await answer(scope, receive, send)

    def _hides(self, asked: Path) -> bool:
        """Whether it is hidden by its name, or by that of the file which a link leads to."""
        try:
            places = [asked.absolute(), asked.resolve()]
        except (OSError, RuntimeError, ValueError):  # a ring of links, or no path at all
            return True
        within = [p.relative_to(self.folder) for p in places if p.is_relative_to(self.folder)]
        return any(part.startswith(".") for place in within for part in place.parts)
