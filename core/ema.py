"""Exponential moving average of weights, with warm-up."""

from collections.abc import Iterable

import torch


class Ema:
    """Average of parameters: decay rises as (1 + step) / (10 + step) up to `decay`.

    The warm-up lets short runs forget their first steps (Keras, EDM and diffusers do the same).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.averages = [p.detach().clone().float() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[torch.nn.Parameter], step: int) -> None:
        """Blend in the parameters after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [p.detach().float() for p in parameters]
        torch._foreach_lerp_(self.averages, current, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for parameter, average in zip(parameters, self.averages, strict=True):
            parameter.copy_(average)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        return {"averages": self.averages}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
