"""What the server hands out, beyond Gradio's own rules."""

from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse


class NoDotfiles:
    """ASGI middleware: of `folder`, whose files Gradio serves, none that is hidden."""

    def __init__(self, app: Any, folder: Path) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asked = Path(scope.get("path", "").partition("file=")[2]).absolute()
        hidden = asked.is_relative_to(self.folder) and any(
            part.startswith(".") for part in asked.relative_to(self.folder).parts
        )
        answer = PlainTextResponse("Not served.", 403) if hidden else self.app
        await answer(scope, receive, send)
