"""Run by torchrun: a few updates over two processes, checked and saved by the first.

torchrun --nproc_per_node 2 tests/gan/two_processes.py OUT.safetensors
"""

import sys

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from core.parallel import part_of, part_ways
from gan.batches import Batch, draw_numbers
from gan.settings import WganGpSettings
from gan.steps import Players, critic_step, generator_step, make_players

SETTINGS = WganGpSettings(data="", run_dir="", size=32, width=4, z_dim=6, critic_steps=2)
BATCHES = (5, 2, 1)  # the last leaves a process without images


def few_steps(accelerator: Accelerator) -> Players:
    """Three steps. BatchNorm is fixed: its statistics would be each process's own."""
    torch.manual_seed(0)
    players = make_players(SETTINGS, accelerator)
    players.generator.eval()
    for step, count in enumerate(BATCHES):
        real = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        numbers = draw_numbers(SETTINGS, step, count) | {"real": real}
        parts = {name: part_of(tensor, accelerator) for name, tensor in numbers.items()}
        share = len(parts["real"]) / count
        batch = Batch(labels=None, changes=None, share=share, **parts)
        for k in range(SETTINGS.critic_steps):
            critic_step(players, batch, k, SETTINGS, accelerator)
        generator_step(players, batch, SETTINGS, accelerator)
    return players


@torch.no_grad()
def outcome(players: Players) -> dict[str, torch.Tensor]:
    """What the players make and say now."""
    images = players.generator(torch.randn(4, 6, generator=torch.Generator().manual_seed(9)))
    return {"images": images, "scores": players.critic(images)}


if __name__ == "__main__":
    both = Accelerator(cpu=True)
    assert both.num_processes == 2
    trained = few_steps(both)
    for parameter in [*trained.generator.parameters(), *trained.critic.parameters()]:
        first, second = both.gather(parameter.detach()[None])
        assert torch.equal(first, second)
    if both.is_main_process:
        save_file(outcome(trained), sys.argv[1])
    part_ways(both)
