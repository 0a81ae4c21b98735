"""An image that cannot be read stops every trainer before it begins, its dry run too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from finetune import train_base
from finetune.base_settings import BaseSettings
from gan import train_wgan_gp
from gan.settings import WganGpSettings
from tests.finetune.tiny import write_images
from vae import train_vae
from vae.settings import VaeSettings


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("train", "kind"),
    [
        (train_wgan_gp.train, WganGpSettings),
        (train_vae.train, VaeSettings),
        (train_base.train, BaseSettings),
    ],
    ids=["wgan-gp", "vae", "base"],
)
def test_a_broken_image_is_named(
    train: Callable[..., None], kind: Any, dry_run: bool, tmp_path: Path
) -> None:
    data = write_images(tmp_path / "data", captions=True)
    victim = next(data.rglob("*3.png"))
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(UserError, match=r"3.png: not a readable image .*; replace or remove it"):
        train(kind(data=str(data), run_dir=str(tmp_path / "run")), dry_run)
    assert not (tmp_path / "run").exists()
