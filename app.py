"""`osteon app`: the playground, models side by side, and the reports, in the browser.

This file only wires: each tab is a file in panels/. Models are loaded on the first picture.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr

from core.errors import UserError, command
from panels import look, playground, reports, side_by_side
from panels.workbench import Workbench

TABS = {
    "Playground": playground.tab,
    "Side by side": side_by_side.tab,
    "Reports": reports.tab,
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_WAITING = 200  # requests in the queue
MAX_UPLOAD = "20mb"
CACHE_SECONDS = (3600, 86400)  # look every hour, delete copies of pictures older than a day


def build(root: Path) -> gr.Blocks:
    """The page over the project in `root`."""
    bench = Workbench(root.resolve())
    with gr.Blocks(
        title="Osteon", analytics_enabled=False, fill_width=True, delete_cache=CACHE_SECONDS
    ) as page:
        gr.HTML(look.HEADER)
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
) -> tuple[gr.Blocks, str]:
    """Start the server in the background; returns the page and its address.

    Args:
        port: None takes the first free one from 7860 on.

    Raises UserError for a port that is taken, and for an address that others can reach without
    user and password.
    """
    if (share or host not in LOOPBACK) and auth is None:
        raise UserError("Others could reach the app; give --user NAME and --password WORD too.")
    pictures = root.resolve() / "reports" / "playground"
    options: dict[str, Any] = {
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
        "_frontend": False,  # skips a self-test of 3 s that a busy machine fails
        "theme": look.theme(),
        "css": look.CSS,
    }
    page = build(root)
    try:
        _, local, public = page.launch(**options)
    except OSError:
        raise UserError(f"Port {port} is taken; give another with --port.") from None
    if share and not public:
        page.close()
        raise UserError("No public link could be made; leave out --share, or see to the network.")
    return page, public or local


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="osteon app", description="The playground, models side by side, and the reports."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--root", type=Path, default=Path(), help="folder of runs/ and reports/")
    parser.add_argument("--share", action="store_true", help="a public link through gradio.live")
    parser.add_argument("--user", help="name to log in with (needed with --share or --host)")
    parser.add_argument("--password")
    given = parser.parse_args(argv)
    if not given.root.is_dir():
        raise UserError(f"--root {given.root} is not a folder.")
    if bool(given.user) != bool(given.password):
        raise UserError("--user and --password go together.")
    os.chdir(given.root)  # commands name runs/ and data/ relative to the project
    auth = (given.user, given.password) if given.user else None
    page, address = launch(Path.cwd(), given.host, given.port, given.share, auth)
    print(f"Osteon is at {address}  (Ctrl-C stops it)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
