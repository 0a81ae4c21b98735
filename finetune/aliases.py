"""Command lines written for diffusers' train_dreambooth.py and train_dreambooth_lora.py.

    accelerate launch finetune/train_dreambooth.py --pretrained_model_name_or_path BASE \
        --instance_data_dir DIR --instance_prompt TEXT --max_train_steps 400 --output_dir runs/x ...

One table says what an option is called here; one that has no meaning here is named in a warning.
Without --rank every weight of the UNet is trained, as by diffusers' script of that name;
finetune/train_dreambooth_lora.py takes what was written for its namesake.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from core.config import leaf_names
from core.images import list_images
from finetune.settings import DreamBoothSettings

SIGN = "--pretrained_model_name_or_path"
"""Every such command line has it, and none of ours."""
NAMES = {
    "pretrained_model_name_or_path": "base",
    "revision": "revision",
    "instance_data_dir": "data",
    "instance_prompt": "prompt",
    "class_data_dir": "prior.folder",
    "class_prompt": "prior.prompt",
    "num_class_images": "prior.count",
    "prior_loss_weight": "prior.weight",
    "output_dir": "run_dir",
    "seed": "seed",
    "resolution": "size",
    "train_text_encoder": "text_encoder",
    "max_train_steps": "steps",
    "checkpointing_steps": "checkpoint_every",
    "checkpoints_total_limit": "checkpoints_kept",
    "gradient_checkpointing": "gradient_checkpointing",
    "learning_rate": "optim.lr",
    "lr_scheduler": "optim.schedule",
    "lr_warmup_steps": "optim.warmup",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_weight_decay": "optim.weight_decay",
    "max_grad_norm": "optim.clip_norm",
    "snr_gamma": "min_snr_gamma",
    "rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "validation_prompt": "preview_prompts",
    "validation_steps": "preview_every",
    "report_to": "tracker",
}
"""Theirs: ours."""
READ = (
    "with_prior_preservation",
    "use_dora",
    "offset_noise",
    "use_8bit_adam",
    "optimizer",
    "train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "validation_epochs",
    "mixed_precision",
    "allow_tf32",
    "scale_lr",
    "num_validation_images",
)
"""Read by `settings_of`: they have no single counterpart."""
ALREADY = {
    "resume_from_checkpoint": "the same command always goes on",
    "enable_xformers_memory_efficient_attention": "PyTorch's own attention is as good",
    "center_crop": "always so",
    "push_to_hub": "osteon export writes the folder to upload",
    "output_kohya_format": "osteon export writes that format too",
    "skip_save_text_encoder": "only what was trained is saved",
    "pre_compute_text_embeddings": "done wherever the text encoder is frozen",
    "dataloader_num_workers": "images are decoded once",
    "set_grads_to_none": "always so",
}
"""Without effect, as it is done anyway."""
OURS = {"config", "dry_run", "print_config", *leaf_names(DreamBoothSettings)}
DEFAULTS = {"resolution": "512", "checkpointing_steps": "500", "learning_rate": "5e-6"}
LORA_DEFAULTS = {"learning_rate": "5e-4"}
"""Of their scripts, where ours are others."""


def translate(argv: Sequence[str], lora: bool = False) -> list[str]:
    """Our words for theirs; a command line of ours comes back as it is. Warns on stderr.

    Args:
        lora: it was written for train_dreambooth_lora.py.
    """
    words = [part for word in argv for part in (word.split("=", 1) if _is_flag(word) else [word])]
    if SIGN not in words:
        return list(argv)
    ours, given = _pairs(words)
    for name in [name for name in given if name not in NAMES and name not in READ]:
        why = ALREADY.get(name, "it has no meaning here")
        print(f"warning: --{name} is left out: {why}.", file=sys.stderr)
        del given[name]
    return [word for pair in settings_of(given, lora).items() for word in pair] + ours


def settings_of(given: dict[str, str], lora: bool) -> dict[str, str]:
    """Their options by name -> ours by flag. Hands precision on to Accelerate."""
    lora = lora or "rank" in given
    given = DEFAULTS | (LORA_DEFAULTS if lora else {}) | given
    if lora:
        given.setdefault("rank", "4")
    ours = {NAMES[name]: value for name, value in given.items() if name in NAMES}
    if lora:
        ours.setdefault("lora.alpha", given["rank"])  # as there
    else:
        ours["lora"] = "null"
    if given.get("with_prior_preservation", "false") != "true":
        ours = {name: value for name, value in ours.items() if not name.startswith("prior.")}
    betas = [ours.pop("beta1", "0.9"), ours.pop("beta2", "0.999")]
    ours["optim.betas"] = f"[{', '.join(betas)}]"
    if given.get("use_8bit_adam") == "true":
        ours["optim.name"] = "adamw8bit"
    elif given.get("optimizer", "AdamW").lower() == "prodigy":
        ours["optim.name"] = "prodigy"
    if given.get("use_dora") == "true":
        ours["lora.kind"] = "dora"
    if given.get("offset_noise") == "true":
        ours["noise_offset"] = "0.1"  # as there
    if "preview_prompts" in ours:
        ours["preview_prompts"] = f"[{_quoted(ours['preview_prompts'])}]"
        seeds = range(int(given.get("num_validation_images", "4")))
        ours["preview_seeds"] = str(list(seeds))
    _spread_batch(given, ours)
    if "mixed_precision" in given:
        os.environ["ACCELERATE_MIXED_PRECISION"] = given["mixed_precision"]
    return {f"--{name}": value for name, value in ours.items()}


def _spread_batch(given: dict[str, str], ours: dict[str, str]) -> None:
    """Theirs is the batch of one process and one piece; ours that of a whole update."""
    pieces = int(given.get("gradient_accumulation_steps", "1"))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch = int(given.get("train_batch_size", "4")) * pieces * processes
    ours["batch"], ours["accumulate"] = str(batch), str(pieces)
    if given.get("scale_lr") == "true":
        ours["optim.lr"] = str(float(ours["optim.lr"]) * batch)
    images = len(list_images(Path(given.get("instance_data_dir", "."))))
    epoch = -(-images // batch)  # steps
    ours.setdefault("steps", str(epoch * int(given.get("num_train_epochs", "1"))))
    if "preview_prompts" in ours:
        epochs = given.get("validation_epochs")
        ours.setdefault("preview_every", str(epoch * int(epochs)) if epochs else "100")


def _pairs(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Words of our own (with a dot or a name of ours alone), and their options by name."""
    ours: list[str] = []
    theirs: dict[str, str] = {}
    place = 0
    while place < len(words):
        word = words[place]
        bare = place + 1 == len(words) or words[place + 1].startswith("--")
        value = "true" if bare else words[place + 1]
        name = word.removeprefix("--")
        if name in OURS and name not in NAMES:
            ours += [word] if bare else [word, value]
        else:
            theirs[name] = value
        place += 1 if bare else 2
    return ours, theirs


def _is_flag(word: str) -> bool:
    return word.startswith("--") and "=" in word


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
