"""One small project and one server over it for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gradio_client import Client

from app import launch
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
def client(address: str, tmp_path: Path) -> Client:
    patient = {"timeout": 120}  # on a machine that trains beside the tests
    return Client(address, verbose=False, download_files=tmp_path, httpx_kwargs=patient)
