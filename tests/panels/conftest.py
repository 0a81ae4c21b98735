"""One small project and one server over it for all tests of this folder; a smaller one of files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client
from PIL import Image

from app import launch
from core.files import write_json, write_jsonl
from core.images import write_png
from panels.workbench import Workbench
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
