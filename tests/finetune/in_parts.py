"""Run by torchrun: the real trainer under configs/accelerate/fsdp.yaml, on the CPU.

accelerate reads that configuration for GPUs only, so it is told here that they are there.
"""

import os
import sys
from pathlib import Path

import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

ROOT = Path(__file__).resolve().parents[2]


def take(config: Path) -> None:
    """Set the environment as `accelerate launch --config_file` does."""
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    for name, value in yaml.safe_load(config.read_text())["fsdp_config"].items():
        name = name.replace("transformer_layer_cls", "transformer_cls").upper()
        os.environ[name] = str(value)


if __name__ == "__main__":
    state = Accelerator(cpu=True).state  # shared by every Accelerator of this process
    take(ROOT / "configs" / "accelerate" / "fsdp.yaml")
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin()
    from finetune.train_dreambooth import main

    sys.exit(main())
