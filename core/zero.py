"""Gradients and moments in parts on several devices (DeepSpeed's ZeRO 2; Rajbhandari et al. 2020).

DeepSpeed's own checkpoints are pickles and are never used: moments are gathered into the state
that torch's AdamW would have, so that a run may go on with or without DeepSpeed.
"""

from typing import Any

import torch
from accelerate import Accelerator

from core.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


def prepare_zero(accelerator: Accelerator, clip_norm: float) -> None:
    """Have DeepSpeed train as the loops here do: float32 weights under autocast, torch's AdamW.

    Its own mixed precision would train copies in half precision, which averages, previews and
    files would then be made of.
    """
    plugin, precision = accelerator.deepspeed_plugin, accelerator.mixed_precision
    if plugin.zero_stage != 2 or precision not in ("no", "bf16"):
        raise UserError(
            "Of DeepSpeed there is ZeRO stage 2, in bf16 or without mixed precision; "
            "see configs/accelerate/deepspeed.yaml."
        )
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 1,  # for its logs only
        "gradient_clipping": clip_norm,  # 0: none
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": False},
        "torch_autocast": {
            "enabled": precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients are summed in float32
        },
    }


class ZeroState:
    """The state of DeepSpeed's optimiser as AdamW's own. All processes must ask for it."""

    def __init__(self, optimiser: Any) -> None:
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        self.optimiser = optimiser
        self.adamw: torch.optim.Optimizer = optimiser.optimizer
        self.groups = list(
            zip(
                self.adamw.param_groups,
                optimiser.bit16_groups,  # the weights
                optimiser.single_partition_of_fp32_groups,  # this process's part, flat
                strict=True,
            )
        )
        for _, weights, part in self.groups:
            if not self.adamw.state[part]:
                self.adamw.state[part] = {
                    "step": torch.zeros((), device=part.device),
                    **{name: torch.zeros_like(part) for name in MOMENTS},
                }
            # Done by DeepSpeed too, but after a first step and for the first group alone
            lazy_init_hp_params_optimizer_state(weights, part, self.adamw.state)

    def state_dict(self) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state as gathered

        state: dict[int, dict[str, torch.Tensor]] = {}
        groups = self.adamw.state_dict()["param_groups"]
        for saved, (_, weights, part) in zip(groups, self.groups, strict=True):
            saved["params"] = list(range(len(state), len(state) + len(weights)))
            for index, weight in zip(saved["params"], weights, strict=True):
                moments = {name: gathered(weight, name).cpu() for name in MOMENTS}
                state[index] = {"step": self.adamw.state[part]["step"], **moments}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """To be called when the weights have been loaded: DeepSpeed's copies are made of them."""
        from deepspeed.utils import safe_set_full_optimizer_state

        for saved, (group, weights, part) in zip(tree["param_groups"], self.groups, strict=True):
            group |= {name: value for name, value in saved.items() if name != "params"}
            for index, weight in zip(saved["params"], weights, strict=True):
                self.adamw.state[part]["step"].copy_(tree["state"][index]["step"])
                for name in MOMENTS:
                    safe_set_full_optimizer_state(weight, tree["state"][index][name], name)
        self.optimiser.refresh_fp32_params()
