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
from itertools import takewhile

from core.complaints import kind_of, leaf_names, needs_value, switches
from core.errors import UserError, check_pasted
from core.sets import open_set
from finetune.settings import DreamBoothSettings, Prior

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
    "adam_weight_decay": "optim.weight_decay",
    "max_grad_norm": "optim.clip_norm",
    "snr_gamma": "min_snr_gamma",
    "rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "validation_prompt": "preview_prompts",
    "validation_steps": "preview_every",
}
"""Theirs: ours."""
TRACKERS = ("none", "tensorboard", "wandb", "trackio")
PRIOR = "it needs --with_prior_preservation"
PREVIEW = "it needs --validation_prompt"
LORA = "it needs --rank, without which every weight is trained"
STEADY = "--lr_scheduler constant has no warm-up, constant_with_warmup has"
WHY = {
    "resume_from_checkpoint": "the same command always goes on",
    "enable_xformers_memory_efficient_attention": "PyTorch's own attention is as good",
    "center_crop": "always so",
    "push_to_hub": "osteon export --push OWNER/NAME does it when asked",
    "output_kohya_format": "osteon export writes that format too",
    "skip_save_text_encoder": "only what was trained is saved",
    "pre_compute_text_embeddings": "done wherever the text encoder is frozen",
    "dataloader_num_workers": "images are decoded once",
    "set_grads_to_none": "always so",
    "allow_tf32": "--mixed_precision bf16 is faster still",
    "class_data_dir": PRIOR,
    "class_prompt": PRIOR,
    "num_class_images": PRIOR,
    "prior_loss_weight": PRIOR,
    "validation_steps": PREVIEW,
    "validation_epochs": f"{PREVIEW}, and no --validation_steps",
    "num_validation_images": PREVIEW,
    "lora_alpha": LORA,
    "lora_dropout": LORA,
    "use_dora": LORA,
    "lr_warmup_steps": STEADY,
    "lr_num_cycles": "cosine_with_restarts falls once here, without a restart",
    "lr_power": "polynomial decay has power 1 here",
    "adam_epsilon": "epsilon is 1e-8 here",
    "num_train_epochs": "--max_train_steps says how long",
    "optimizer": "it takes AdamW or prodigy",
    "use_8bit_adam": "--optimizer names another one",
    "report_to": f"it takes one of: {', '.join(TRACKERS)}",
    "train_data_dir": "--data is its name here",
    "placeholder_token": "--token.name is its name here, with --lora null --unet false",
    "initializer_token": "--token.initialiser is its name here",
    "num_vectors": "--token.vectors is its name here",
}
"""Why an option that was not read has no effect."""
KOHYA = {
    "network_dim": "--rank (lora.rank)",
    "network_alpha": "--lora_alpha (lora.alpha)",
    "network_dropout": "--lora_dropout (lora.dropout)",
    "unet_lr": "--learning_rate (optim.lr)",
    "text_encoder_lr": "--learning_rate (optim.lr), for all that is trained",
    "optimizer_type": "--optimizer (optim.name)",
    "max_train_epochs": "--num_train_epochs",
    "save_every_n_steps": "--checkpointing_steps (checkpoint_every)",
    "reg_data_dir": "--class_data_dir (prior.folder)",
    "concepts_list": "--concepts '[{data: ..., prompt: ...}]'",
    "dataset_config": "--concepts '[{data: ..., prompt: ...}]'",
    "enable_bucket": "--buckets true",
    "shuffle_caption": "--caption_shuffle true",
    "caption_dropout_rate": "--caption_dropout",
}
"""Options of sd-scripts and of older forks: what does the same here."""
WHY |= {name: f"here it is {ours}" for name, ours in KOHYA.items()}
LEAVES = leaf_names(DreamBoothSettings)
GROUPS = {name.partition(".")[0] for name in LEAVES if "." in name}  # --token null
SWITCHES = switches(DreamBoothSettings)
OURS = {"config", "dry_run", "print_config", *LEAVES, *GROUPS}
DEFAULTS = {"size": "512", "checkpoint_every": "500", "optim.lr": "5e-6"}
LORA_DEFAULTS = {"optim.lr": "5e-4", "lora.rank": "4"}
"""Of their scripts, where ours are others."""
WARMUP = "500"  # steps; their default where the schedule has a warm-up


def translate(argv: Sequence[str], lora: bool = False) -> list[str]:
    """Our words for theirs; a command line of ours comes back as it is. Warns on stderr.

    Args:
        lora: it was written for train_dreambooth_lora.py.

    Raises UserError for one that cannot be meant so.
    """
    check_pasted(argv)  # before a dash that is none is taken for a value
    words = [part for word in argv for part in (word.split("=", 1) if _is_flag(word) else [word])]
    if SIGN not in words:
        return list(argv)
    ours, given = _pairs(words)
    _check_data(given)
    settings = settings_of(given, lora)
    for name in given:
        why = WHY.get(name, "it has no meaning here")
        print(f"warning: --{name} is left out: {why}.", file=sys.stderr)
    return [word for pair in settings.items() for word in pair] + ours


def _check_data(given: dict[str, str]) -> None:
    """Raise UserError where no folder of images is named, with what to do about another name."""
    if "instance_data_dir" in given:
        return
    remedy = "name the folder of images to learn from"
    if hub := given.get("dataset_name"):
        remedy = f"save the images of {hub} (--dataset_name) in a folder, and name that"
    elif folder := given.get("train_data_dir"):
        remedy = f"that is the name here of --train_data_dir {folder}"
    raise UserError(f"--instance_data_dir is needed: {remedy}.")


def settings_of(given: dict[str, str], lora: bool) -> dict[str, str]:
    """Their options by name -> ours by flag. What is read leaves `given`; what stays has no effect.

    Hands precision on to Accelerate.
    """
    lora = lora or "rank" in given
    ours = DEFAULTS | (LORA_DEFAULTS if lora else {"lora": "null"})
    unread = _without_effect(given, lora)
    for name in [name for name in given if name in NAMES and name not in unread]:
        ours[NAMES[name]] = given.pop(name)
    if lora:
        ours.setdefault("lora.alpha", ours["lora.rank"])  # as there
        if given.pop("use_dora", None):
            ours["lora.kind"] = "dora"
    _optimiser(given, ours)
    if given.pop("offset_noise", None):
        ours["noise_offset"] = "0.1"  # as there
    if given.get("report_to") == "all":
        print(
            "warning: --report_to all is taken as tensorboard; a run has one tracker.",
            file=sys.stderr,
        )
        given["report_to"] = "tensorboard"
    if given.get("report_to") in TRACKERS:
        ours["tracker"] = given.pop("report_to")
    _spread_batch(given, ours, lora)
    _all_checkpoints(ours)
    if ours.get("prior.prompt", "").startswith("["):  # one text, no list
        ours["prior.prompt"] = f"[{_quoted(ours['prior.prompt'])}]"
    if "mixed_precision" in given:
        os.environ["ACCELERATE_MIXED_PRECISION"] = given.pop("mixed_precision")
    return {f"--{name}": value for name, value in ours.items()}


def _without_effect(given: dict[str, str], lora: bool) -> set[str]:
    """Names of options that say more of what is not asked for.

    Raises UserError for prior preservation of no class.
    """
    lacking = set() if lora else {LORA}
    if given.pop("with_prior_preservation", None) is None:
        lacking.add(PRIOR)
    elif "class_prompt" not in given:
        raise UserError("--with_prior_preservation needs --class_prompt; say what the class is.")
    if "validation_prompt" not in given:
        lacking.add(PREVIEW)
    if given.get("lr_scheduler", "constant") == "constant" and given.get("lr_warmup_steps") != "0":
        lacking.add(STEADY)
    return {name for name, why in WHY.items() if why in lacking}


def _optimiser(given: dict[str, str], ours: dict[str, str]) -> None:
    """Its name, betas and warm-up."""
    if given.get("optimizer", "").lower() in ("adamw", "prodigy"):
        ours["optim.name"] = given.pop("optimizer").lower()
    if ours.get("optim.name", "adamw") == "adamw" and given.pop("use_8bit_adam", None):
        ours["optim.name"] = "adamw8bit"
    betas = [given.pop("adam_beta1", "0.9"), given.pop("adam_beta2", "0.999")]
    ours["optim.betas"] = f"[{', '.join(betas)}]"
    if ours.get("optim.schedule", "constant") != "constant":
        ours.setdefault("optim.warmup", WARMUP)


def _spread_batch(given: dict[str, str], ours: dict[str, str], lora: bool) -> None:
    """Theirs is the batch of one process and one piece; ours that of a whole update. And what is
    counted in epochs there, in steps here.

    Raises UserError where a count is none.
    """

    def taken(name: str, default: str) -> int:
        return int(_number(name, given.pop(name, default), whole=True))

    pieces = taken("gradient_accumulation_steps", "1")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch = taken("train_batch_size", "4") * pieces * processes
    ours["batch"], ours["accumulate"] = str(batch), str(pieces)
    if given.pop("scale_lr", None):
        ours["optim.lr"] = str(_number("learning_rate", ours["optim.lr"]) * batch)
    ours["data"] = os.path.expanduser(ours["data"])  # no shell does it behind a "="
    images = len(open_set(ours["data"]))
    if "prior.prompt" in ours:
        count = ours.get("prior.count", str(Prior.count))
        images = max(images, int(_number("num_class_images", count, whole=True)))
    epoch = -(-images // batch)  # steps
    if "steps" not in ours:
        ours["steps"] = str(epoch * taken("num_train_epochs", "1"))
    if "preview_prompts" in ours:
        ours["preview_prompts"] = f"[{_quoted(ours['preview_prompts'])}]"
        ours["preview_seeds"] = str([*range(taken("num_validation_images", "4"))])
        if "preview_every" not in ours:
            counted = lora or "validation_epochs" in given
            every = epoch * taken("validation_epochs", "50") if counted else 100
            ours["preview_every"] = str(every)


def _all_checkpoints(ours: dict[str, str]) -> None:
    """Theirs are all kept where nothing else is said; say that ours are not."""
    counts = [ours["checkpoint_every"], ours["steps"]]
    every, steps = (int(count) if count.isdecimal() else 0 for count in counts)
    if "checkpoints_kept" not in ours and 0 < 2 * every <= steps:
        print(
            "warning: only the newest checkpoint is kept; --checkpoints_total_limit N keeps N.",
            file=sys.stderr,
        )


def _number(name: str, text: str, whole: bool = False) -> float:
    """What an option says. Raises UserError for another thing than a number above 0."""
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not value > 0:
        kind = "whole number" if whole else "number"
        raise UserError(f"--{name} {text} should be a {kind} above 0.")
    return value


def _pairs(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Words of our own (with a dot or a name of ours alone), and their options by name.

    Raises UserError for an empty text, and for an option without its value.
    """
    ours: list[str] = []
    theirs: dict[str, str] = {}
    place = 0
    while place < len(words):
        name = words[place].removeprefix("--")
        name = "instance_data_dir" if name == "data" else name  # its images are counted
        values = list(takewhile(lambda word: not word.startswith("--"), words[place + 1 :]))
        if name in OURS and name not in NAMES:
            ours += [words[place], *values]
        elif values and not any(values):  # as of a shell's variable that is not set
            raise UserError(f"--{name} is given nothing; say what, or leave it out.")
        elif not values and name in NAMES and NAMES[name] not in SWITCHES:
            raise UserError(needs_value(name, kind_of(DreamBoothSettings, NAMES[name])))
        else:
            theirs[name] = " ".join(values) or "true"
        place += 1 + len(values)
    return ours, theirs


def _is_flag(word: str) -> bool:
    return word.startswith("--") and "=" in word


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
