"""weights/ of a run: the autoencoder in safetensors, and its shape in JSON."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from core.errors import UserError
from core.files import atomic_folder, atomic_path, read_json, write_json
from vae.networks import Vae

FILE = "vae.safetensors"


def save_weights(model: Vae, path: Path) -> None:
    """One safetensors file."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def save_model(model: Vae, config: dict[str, Any], folder: Path) -> None:
    """Write vae.safetensors and config.json (keywords of `Vae`)."""
    with atomic_folder(folder) as temporary:
        save_weights(model, temporary / FILE)
        write_json(temporary / "config.json", config)


def load_model(folder: Path, device: str) -> Vae:
    """Read what `save_model` wrote, in eval mode. Raises UserError if it is not all there."""
    if not (folder / FILE).exists():
        raise UserError(
            f"{folder} holds no model yet; train on (weights are written with each checkpoint)."
        )
    model = Vae(**read_json(folder / "config.json"))
    model.load_state_dict(load_file(folder / FILE))
    return model.to(device).eval()
