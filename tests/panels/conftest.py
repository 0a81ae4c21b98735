"""One small project and one server over it for all tests of this folder; a smaller one of files."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradio_client import Client
from PIL import Image

from app import launch
from core.files import write_json, write_jsonl
from core.images import write_png
from panels.workbench import Workbench
from tests.panels.browser import CHROMIUM, LONG, QUIET, kept
from tests.panels.project import make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # the networks are too small to share
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def address(project: Path) -> Iterator[str]:
    """Of a server on a free port."""
    page, address = launch(project, port=None)
    yield address
    page.close()


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """data/birds of six images, the last two equal but for a pixel; two sets of samples."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (32, 32), np.uint8) for _ in range(5)]
    pictures.append(pictures[4].copy())
    pictures[5][0, 0] ^= 1
    folder = tmp_path / "data/birds"
    for number, pixels in enumerate(pictures):
        write_png(Image.fromarray(pixels), folder / f"train/{number}.png")
    rows = [
        {"file_name": f"{n}.png", "text": f"bird {n} <b>", "view": "PA", "findings": ["x", str(n)]}
        for n in range(6)
    ]
    write_jsonl(folder / "train/metadata.jsonl", rows)
    rejected = [{"file": "bad<.png", "reason": "empty file"}]
    write_json(folder / "set.json", {"mode": "L", "rejected": rejected})
    for run in ("one", "two"):
        for seed in range(3):
            image = Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))
            write_png(image, tmp_path / f"runs/{run}/samples/default/{seed:06d}.png")
    return Workbench(tmp_path)


@pytest.fixture
def client(address: str, tmp_path: Path) -> Client:
    patient = {"timeout": 120}  # on a machine that trains beside the tests
    return Client(address, verbose=False, download_files=tmp_path, httpx_kwargs=patient)


@pytest.fixture
def page(address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The app's page, 400 pixels wide; fails on errors in the console and on requests to anywhere
    else.

    How it looked at the end, and before another tab was opened, is kept in build/screenshots.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("apt-get install chromium-headless-shell")
    troubles: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.set_default_timeout(LONG)
        page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith((address, "data:", "blob:")) else troubles.append(r.url)
            ),
        )
        page.goto(address)
        numbers = itertools.count()
        page.keep = lambda: page.screenshot(
            path=kept(request.node.name, next(numbers)), full_page=True
        )
        page.troubles = troubles
        yield page
        page.keep()
        browser.close()
    assert troubles == []
