"""`osteon app`: models to play with, compare, train and judge, in the browser.

This file only wires: each tab is a file in panels/.
"""

import importlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
import httpx
from starlette.middleware import Middleware

from core.errors import Parser, UserError, at_least_1, command
from core.families import FAMILIES, resolve
from panels import arena, data, latent, look, playground, reports, side_by_side, spoken, train
from panels.drawing import draw
from panels.serving import NoDotfiles, go_straight, render_undisturbed
from panels.tasks import tasks_of
from panels.wish import Wish
from panels.workbench import Workbench

TABS = {
    "Playground": playground.tab,
    "Side by side": side_by_side.tab,
    "Latent": latent.tab,
    "Arena": arena.tab,
    "Train": train.tab,
    "Data": data.tab,
    "Reports": reports.tab,
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EMBEDDED = "models/sd2-mini"
MAX_WAITING = 200  # requests in the queue
MAX_UPLOAD = "20mb"
PATIENCE = 60.0  # seconds for an answer of our own server
CACHE_SECONDS = (3600, 86400)  # look every hour, delete copies of pictures older than a day

render_undisturbed()


def build(bench: Workbench) -> gr.Blocks:
    """The page over a project."""
    with gr.Blocks(
        title="Osteon", analytics_enabled=False, fill_width=True, delete_cache=CACHE_SECONDS
    ) as page:
        gr.HTML(look.HEADER + spoken.REGION)
        train.notice(bench, page)
        for title, tab in TABS.items():
            with gr.Tab(title):
                tab(bench, page)
        gr.api(bench.model_names, api_name="models")
        gr.api(bench.report_names, api_name="reports")
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=8)


def launch(
    root: Path,
    host: str = "127.0.0.1",
    port: int | None = 7860,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    early: bool = False,
) -> tuple[gr.Blocks, str]:
    """Start the server in the background; returns the page and its address.

    Args:
        port: None takes the first free one from 7860 on.
        early: load what the first picture needs before anyone is told the address.

    Raises UserError for a server that cannot start, and for an address that others can reach
    without user and password.
    """
    if (share or host not in LOOPBACK) and auth is None:
        raise UserError("Others could reach the app; give --user NAME and --password WORD too.")
    bench = Workbench(root.resolve())
    page = build(bench)
    go_straight(*LOOPBACK, host)
    try:
        _, local, public = page.launch(**_options(root.resolve(), host, port, share, auth))
    except (OSError, httpx.HTTPError) as error:
        page.close()
        raise UserError(why(error, host, port)) from None
    if share and not public:
        page.close()
        raise UserError("No public link could be made; leave out --share, or see to the network.")
    rouse(local, auth)
    if early:
        warm(bench)
    return page, public or local


def _options(
    root: Path, host: str, port: int | None, share: bool, auth: tuple[str, str] | None
) -> dict[str, Any]:
    """Of Gradio's server: what it may serve and take, and what it may tell."""
    pictures = root / "reports" / "playground"
    return {
        "server_name": host,
        "server_port": port,
        "share": share,
        "auth": auth,
        "prevent_thread_lock": True,
        "quiet": True,
        "show_error": False,
        "allowed_paths": [str(pictures)],
        "max_file_size": MAX_UPLOAD,
        "strict_cors": True,
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": ["api"],
        "app_kwargs": {
            "openapi_url": None,  # it would be told without a password
            "middleware": [Middleware(NoDotfiles, folder=pictures)],
        },
        "_frontend": False,  # skips a self-test of 3 s that a busy machine fails
        "theme": look.theme(),
        "css": look.CSS,
        "head": spoken.SCRIPT,
    }


def why(error: Exception, host: str, port: int | None) -> str:
    """What kept the server from starting."""
    if "empty port" not in str(error):
        return f"The server could not start: {error}."
    state = "No port is free" if port is None else f"Port {port} of {host} is taken"
    return f"{state}, or {host} is not this computer's; give another --port or --host."


def rouse(address: str, auth: tuple[str, str] | None) -> None:
    """Ask for what every visitor asks for first: made once, it is kept, and on a busy machine its
    making outlasts a client's patience. Where it fails, the first visitor waits for it."""
    with (
        suppress(httpx.HTTPError, LookupError, ValueError),
        httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as visitor,
    ):
        if auth:
            visitor.post("login", data={"username": auth[0], "password": auth[1]})
        for place in ("", "config", "gradio_api/info"):
            visitor.get(place)
        asked = visitor.post("gradio_api/call/models", json={"data": []}).json()  # by the queue
        visitor.get(f"gradio_api/call/models/{asked['event_id']}")


def warm(bench: Workbench) -> None:
    """Load what diffusion and the copy test run on, and the embedded base, which is small; draw a
    picture by the way that visitors' go, previews and all."""
    resolve(FAMILIES["dreambooth"].sampler)
    importlib.import_module("compare.copies")
    if EMBEDDED in bench.model_names():
        tasks = tasks_of(bench, EMBEDDED, Wish(count=1, steps=2), "never")
        with TemporaryDirectory() as folder:
            for _ in draw(bench.resident, tasks, Path(folder)):
                pass


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="osteon app", description="Models to play with, compare, train and judge.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=at_least_1, default=7860)
    parser.add_argument("--root", type=Path, default=Path(), help="folder of runs/ and reports/")
    parser.add_argument("--share", action="store_true", help="a public link through gradio.live")
    parser.add_argument("--user", help="name to log in with (needed with --share or --host)")
    parser.add_argument(
        "--password", help="or set OSTEON_PASSWORD, which other programs cannot read off this line"
    )
    given = parser.parse_args(argv)
    if given.port >= 2**16:
        raise UserError(f"--port {given.port} is none; ports end at 65535.")
    if not given.root.is_dir():
        raise UserError(f"--root {given.root} is not a folder.")
    password = given.password or os.environ.get("OSTEON_PASSWORD")
    if bool(given.user) != bool(password if given.user else given.password):
        raise UserError("--user and --password (or OSTEON_PASSWORD) go together.")
    os.chdir(given.root)  # commands name runs/ and data/ relative to the project
    auth = (given.user, password) if given.user else None
    print("Loading the libraries and the small model", flush=True)
    # Now: it would hold up every answer for seconds if it came with the first picture
    importlib.import_module("torch")
    page, address = launch(Path.cwd(), given.host, given.port, given.share, auth, early=True)
    print(f"Osteon is at {address}  (Ctrl-C stops it)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
