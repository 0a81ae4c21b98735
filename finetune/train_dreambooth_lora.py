"""The trainer, for command lines written for diffusers' script of this name: see aliases.py."""

import sys
from collections.abc import Sequence

from core.config import parse
from core.errors import command
from finetune.aliases import translate
from finetune.settings import DreamBoothSettings
from finetune.train_dreambooth import LESS, train


@command(less=LESS)
def main(argv: Sequence[str] | None = None) -> None:
    words = translate(sys.argv[1:] if argv is None else argv, lora=True)
    train(*parse(DreamBoothSettings, words, "Fine-tune Stable Diffusion with LoRA."))


if __name__ == "__main__":
    sys.exit(main())
