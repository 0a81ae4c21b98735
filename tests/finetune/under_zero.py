"""Run by torchrun: the real trainer under configs/accelerate/deepspeed.yaml, on the CPU.

accelerate reads that configuration for GPUs only, so it is told here that they are there.
"""

import os
import sys
from pathlib import Path

import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType

ROOT = Path(__file__).resolve().parents[2]


def take(config: Path) -> None:
    """Set the environment as `accelerate launch --config_file` does."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    for name, value in yaml.safe_load(config.read_text())["deepspeed_config"].items():
        os.environ[f"ACCELERATE_DEEPSPEED_{name.upper()}"] = str(value)


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    state = Accelerator(cpu=True).state  # shared by every Accelerator of this process
    take(ROOT / "configs" / "accelerate" / "deepspeed.yaml")
    state.distributed_type = PartialState().distributed_type = DistributedType.DEEPSPEED
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision(os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    plugin.select(_from_accelerator_state=True)
    state.deepspeed_plugins = {"default": plugin}
    from finetune.train_dreambooth import main

    sys.exit(main())
