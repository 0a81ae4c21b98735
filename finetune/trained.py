"""What of a pipeline is trained: chosen, counted, held in checkpoints and averages."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from core.ema import Ema
from core.sharding import gathered
from finetune.adapters import attach
from finetune.models import Denoiser
from finetune.optimisers import look, switches
from finetune.settings import DreamBoothSettings


class Trained:
    """The trained parameters of a module by name."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}

    def __len__(self) -> int:
        """Numbers, not tensors."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def here(self) -> int:
        """Numbers that this process holds."""
        return sum(local(parameter).numel() for parameter in self.parameters.values())

    @property
    def in_parts(self) -> bool:
        """Whether each process holds a part of them (FSDP2)."""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters.values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Raises KeyError unless `state` names the same parameters."""
        if state.keys() != self.parameters.keys():
            raise KeyError(f"other parameters: {sorted(state.keys() ^ self.parameters.keys())[:4]}")
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])


def local(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of it."""
    own = parameter.detach()
    return own.to_local() if isinstance(own, DTensor) else own


def freeze(denoiser: Denoiser, settings: DreamBoothSettings) -> Trained:
    """Leave gradients only to what is trained: adapters, whole networks, a new word."""
    denoiser.requires_grad_(False)
    unet = denoiser.unet if settings.unet else None
    text_encoder = denoiser.text_encoder if settings.text_encoder else None
    if settings.lora is not None:
        attach(unet, text_encoder, settings.lora, settings.seed)
    else:
        for network in (unet, text_encoder):
            if network is not None:
                network.requires_grad_(True)
    if settings.token is not None and denoiser.text_encoder is not None:
        words = denoiser.text_encoder.get_input_embeddings()
        words.table.requires_grad_(False)  # also where the rest of the text encoder is trained
        words.vectors.requires_grad_(True)
    return Trained(denoiser)


def groups(trained: Trained, settings: DreamBoothSettings) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser: a new word learns faster, and does not decay."""
    vectors = [p for name, p in trained.parameters.items() if name.endswith(".vectors")]
    others = [p for name, p in trained.parameters.items() if not name.endswith(".vectors")]
    found = [{"params": others, "lr": settings.optim.lr}] if others else []
    if settings.token is not None:
        found.append({"params": vectors, "lr": settings.token.lr, "weight_decay": 0.0})
    return found


@contextmanager
def as_sampled(
    trained: Trained, ema: Ema | None, optimiser: torch.optim.Optimizer, whole: Denoiser
) -> Iterator[None]:
    """For a while `whole` is what samplers get: no dropout, averaged weights where they are kept,
    all of them where `trained` is in parts. All processes must enter.
    """
    parameters = list(trained.parameters.values())
    whole.eval()
    with torch.no_grad():
        others = ema is not None or switches(optimiser)  # of the way back none is exact by itself
        current = [parameter.clone() for parameter in parameters] if others else []
        look(optimiser, training=False)
        if ema is not None:
            ema.copy_to(parameters)
        if trained.in_parts:
            Trained(whole).load_state_dict(gathered(trained.state_dict()))
        yield
        look(optimiser, training=True)
        for parameter, value in zip(parameters, current, strict=False):
            parameter.copy_(value)
    whole.train()
