"""Command lines written for diffusers' scripts run unchanged."""

import os
import re
from pathlib import Path

import pytest

from core.complaints import leaf_names
from core.config import parse
from core.errors import UserError
from core.runs import read_metrics
from finetune import train_dreambooth, train_dreambooth_lora
from finetune.aliases import KOHYA, NAMES, WHY, translate
from finetune.settings import DreamBoothSettings, Lora
from tests.trainers import run_facts

# From diffusers' examples/dreambooth/README.md, with our folders in place of theirs
FULL = (
    "--pretrained_model_name_or_path={base} --train_text_encoder --instance_data_dir={data} "
    "--class_data_dir={out}/class --output_dir={out}/run --with_prior_preservation "
    "--prior_loss_weight=1.0 --instance_prompt=a@photo@of@sks@dog --class_prompt=a@photo@of@dog "
    "--resolution=32 --train_batch_size=1 --use_8bit_adam --gradient_checkpointing "
    "--learning_rate=2e-6 --lr_scheduler=constant --lr_warmup_steps=0 --num_class_images=2 "
    "--max_train_steps=2 --sample_batch_size 4 --adam_beta2 0.99 --snr_gamma 5"
)
LORA = (
    "--pretrained_model_name_or_path={base} --instance_data_dir={data} --output_dir={out}/run "
    "--instance_prompt a@photo@of@sks@dog --resolution=32 --train_batch_size=1 "
    "--gradient_accumulation_steps=2 --checkpointing_steps=1 --learning_rate=1e-4 "
    "--report_to none --lr_scheduler=constant --lr_warmup_steps=0 --max_train_steps=2 "
    "--validation_prompt=A@photo@of@sks@dog@in@a@bucket --validation_epochs=1 --seed=7 "
    "--num_validation_images 2 --push_to_hub --mixed_precision no --tokenizer_name=x"
)

# Every option of both scripts (2023 to 2026) with a value that is not its default
BOTH_HAVE = (
    "revision=x variant=fp16 tokenizer_name=x class_data_dir=x class_prompt=x num_class_images=7 "
    "with_prior_preservation prior_loss_weight=0.5 output_dir=x seed=3 resolution=64 center_crop "
    "train_text_encoder train_batch_size=2 sample_batch_size=2 num_train_epochs=3 "
    "max_train_steps=7 checkpointing_steps=9 checkpoints_total_limit=2 gradient_checkpointing "
    "resume_from_checkpoint=latest gradient_accumulation_steps=2 learning_rate=1e-3 scale_lr "
    "lr_scheduler=cosine lr_warmup_steps=5 lr_num_cycles=2 lr_power=2 dataloader_num_workers=2 "
    "use_8bit_adam adam_beta1=0.8 adam_beta2=0.9 adam_weight_decay=0.1 adam_epsilon=1e-6 "
    "max_grad_norm=2 push_to_hub hub_token=x hub_model_id=x logging_dir=x allow_tf32 "
    "report_to=wandb validation_prompt=x num_validation_images=2 mixed_precision=bf16 "
    "prior_generation_precision=fp32 local_rank=0 enable_xformers_memory_efficient_attention "
    "pre_compute_text_embeddings tokenizer_max_length=70 text_encoder_use_attention_mask "
    "validation_images=x class_labels_conditioning=timesteps instance_prompt=y"
)
FULL_HAS = (
    f"{BOTH_HAVE} validation_steps=3 set_grads_to_none offset_noise snr_gamma=5 "
    "skip_save_text_encoder validation_scheduler=DDPMScheduler"
)
LORA_HAS = (
    f"{BOTH_HAVE} validation_epochs=3 rank=8 lora_alpha=2 lora_dropout=0.1 use_dora "
    "image_interpolation_mode=bicubic output_kohya_format optimizer=prodigy"
)


def words(line: str, base: Path, data: Path, out: Path) -> list[str]:
    filled = line.format(base=base, data=data, out=out)
    return [word.replace("@", " ") for word in filled.split(" ")]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def test_every_name_is_a_setting() -> None:
    assert set(NAMES.values()) <= set(leaf_names(DreamBoothSettings))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "asked", ["class_prompt=z", "with_prior_preservation class_prompt=z validation_prompt=z"]
)
def test_no_option_is_ignored_in_silence(
    plain: Path, capsys: pytest.CaptureFixture, asked: str, lora: bool
) -> None:
    """Each either changes what is trained or is named in a warning, alone and among others."""
    before = ["pretrained_model_name_or_path=x", f"instance_data_dir={plain}", *asked.split()]
    effects = {}
    for option in (LORA_HAS if lora else FULL_HAS).split():
        if option in before:
            continue
        found = []
        for line in (before, [*before, option]):
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
            ours = translate([f"--{word}" for word in line], lora)
            found.append((ours, os.environ["ACCELERATE_MIXED_PRECISION"]))
        warned = f"--{option.partition('=')[0]} is left out" in capsys.readouterr().err
        effects[option] = (found[0] != found[1]) + warned
    assert len(effects) > 50
    assert {option for option, count in effects.items() if count != 1} == set()


def test_what_is_refused_there_is_named_here(plain: Path, capsys: pytest.CaptureFixture) -> None:
    start = ["--pretrained_model_name_or_path", "x", "--instance_data_dir", str(plain)]
    for value, taken in (("all", "tensorboard"), ("wandb", "wandb"), ("comet_ml", None)):
        ours = translate([*start, "--report_to", value])
        assert (taken in ours) if taken else ("--tracker" not in ours)
        assert (f"--report_to {value} is taken" in capsys.readouterr().err) == (value == "all")
    with pytest.raises(UserError, match="needs --class_prompt"):
        translate([*start, "--with_prior_preservation"])
    translate([*start, "--optimizer", "lion", "--rank", "4", "--use_8bit_adam"])
    assert f"--optimizer is left out: {WHY['optimizer']}" in capsys.readouterr().err
    translate([*start, "--lr_scheduler", "cosine_with_restarts", "--lr_num_cycles", "3"])
    assert "falls once here, without a restart" in capsys.readouterr().err
    translate([*start, "--validation_images", "a.png", "b.png", "--use_dora"])
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [
        "--validation_images",
        "--use_dora",
    ]


def test_options_of_other_scripts_are_named_as_here(
    plain: Path, capsys: pytest.CaptureFixture
) -> None:
    """Every name that is pointed to is one of theirs or of ours."""
    start = ["--pretrained_model_name_or_path", "x", "--instance_data_dir", str(plain)]
    translate([*start, "--network_dim", "8", "--concepts_list", "concepts.json"])
    assert capsys.readouterr().err.splitlines() == [
        "warning: --network_dim is left out: here it is --rank (lora.rank).",
        "warning: --concepts_list is left out: here it is --concepts '[{data: ..., prompt: ...}]'.",
    ]
    theirs = {*(LORA_HAS + FULL_HAS).replace("=", " ").split(), *NAMES}
    for told in KOHYA.values():
        words = re.findall(r"--(\w+)|\((\w[\w.]*)\)", told)
        named = {name for pair in words for name in pair if name}
        assert named
        assert named <= theirs | set(leaf_names(DreamBoothSettings))
    ours = translate([*start, "--concepts", "[{data: y}]", "--prior", "null"])
    assert ours[-4:] == ["--concepts", "[{data: y}]", "--prior", "null"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "^--instance_data_dir is needed: name the folder of images to learn from.$"),
        (("--max_train_steps", "2"), "^--instance_data_dir is needed"),
        (("--dataset_name", "google/dreambooth"), "images of google/dreambooth .--dataset_name."),
        (("--train_data_dir", "dogs"), "the name here of --train_data_dir dogs"),
        (("--with_prior_preservation",), "^--instance_data_dir is needed"),
    ],
)
def test_a_command_line_without_images_is_refused(
    plain: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], said: str
) -> None:
    """Wherever it is typed: the working folder may hold images of its own."""
    monkeypatch.chdir(plain)
    with pytest.raises(UserError, match=said):
        translate(["--pretrained_model_name_or_path", "x", *more])


def test_our_name_of_the_images_does(plain: Path) -> None:
    ours = translate(["--pretrained_model_name_or_path=x", f"--data={plain}"])
    assert ours[ours.index("--data") + 1] == str(plain)
    assert ours[ours.index("--steps") + 1] == "2"  # five images in batches of four


@pytest.mark.parametrize("typed", ["—rank 8", "–rank=8", "--rank 8 –seed 1"])
def test_dashes_and_quotes_of_a_web_page_are_refused(plain: Path, typed: str) -> None:
    """Not swallowed into the value before them."""
    start = ["--pretrained_model_name_or_path", "x", "--instance_data_dir", str(plain)]
    with pytest.raises(UserError, match=r"a dash of a web page; write --(rank|seed)\.$"):
        translate([*start, "--instance_prompt", "a dog", *typed.split()])
    for prompt in ("“a dog”", "=“a dog”"):
        given = f"--instance_prompt {prompt}".replace(" =", "=").split()  # as shells cut it
        with pytest.raises(UserError, match="curly quotes of a web page"):
            translate([*start, *given])
    translate([*start, "--instance_prompt", "“Sue” – a dinosaur"])


def test_defaults_are_those_of_the_scripts(plain: Path) -> None:
    start = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={plain}"]

    def read(*more: str, lora: bool = False) -> dict[str, str]:
        ours = translate([*start, *more], lora)
        return dict(zip(ours[::2], ours[1::2], strict=True))

    assert "--optim.warmup" not in read()  # a constant schedule knows none
    assert read("--lr_scheduler=cosine")["--optim.warmup"] == "500"
    assert read("--validation_prompt=x")["--preview_every"] == "100"
    assert read("--validation_prompt=x", lora=True)["--preview_every"] == "100"  # 50 x 2 steps
    assert read("--num_train_epochs=3")["--steps"] == "6"  # five images in batches of four
    prior = ["--num_train_epochs=3", "--with_prior_preservation", "--class_prompt=x"]
    assert read(*prior)["--steps"] == "75"  # a hundred class images
    assert read(*prior, "--num_class_images=2")["--steps"] == "6"


def test_that_older_checkpoints_go_is_said(plain: Path, capsys: pytest.CaptureFixture) -> None:
    start = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={plain}"]
    kept = "only the newest checkpoint is kept; --checkpoints_total_limit N"
    for more, told in (
        (["--max_train_steps=1000"], True),
        (["--max_train_steps=999"], False),
        (["--max_train_steps=1000", "--checkpoints_total_limit=1"], False),
        (["--max_train_steps=1000", "--checkpointing_steps=0"], False),
    ):
        translate([*start, *more])
        assert (kept in capsys.readouterr().err) == told


def test_a_constant_schedule_has_no_warm_up(plain: Path, capsys: pytest.CaptureFixture) -> None:
    """There it is ignored in silence, here it is named; none at all needs no word."""
    start = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={plain}"]
    for schedule in ([], ["--lr_scheduler", "constant"]):
        ours = translate([*start, *schedule, "--lr_warmup_steps", "500"])
        assert "--optim.warmup" not in ours
        assert "--lr_warmup_steps is left out: --lr_scheduler constant" in capsys.readouterr().err
    for steps, schedule in (("0", "constant"), ("500", "constant_with_warmup")):
        ours = translate([*start, "--lr_scheduler", schedule, "--lr_warmup_steps", steps])
        assert ours[ours.index("--optim.warmup") + 1] == steps
        settings = parse(DreamBoothSettings, [*ours, "--run_dir=x"], "").settings
        assert settings.optim.warmup == int(steps)
        assert not capsys.readouterr().err


def test_prompts_are_what_was_typed(plain: Path) -> None:
    start = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={plain}", "--output_dir=x"]
    for text in ("#1 dog", "a photo: it's a dog", "- dogs", "[dog, cat]", '"so"'):
        given = [f"--{name}_prompt={text}" for name in ("instance", "class", "validation")]
        ours = translate([*start, "--with_prior_preservation", *given])
        settings = parse(DreamBoothSettings, ours, "").settings
        assert (settings.prompt, settings.prior.prompts) == (text, [text])
        assert settings.preview_prompts == (text,)


@pytest.mark.parametrize(
    "line",
    [
        *("train_batch_size=x", "train_batch_size=0", "gradient_accumulation_steps=2.5"),
        *("num_train_epochs=1.5", "validation_epochs=x", "num_validation_images=-1"),
        *("num_class_images=many", "learning_rate=fast"),
    ],
)
def test_a_count_that_is_none_is_refused(plain: Path, line: str) -> None:
    start = f"pretrained_model_name_or_path=x instance_data_dir={plain} scale_lr class_prompt=x "
    start += "with_prior_preservation validation_prompt=x"
    name, _, value = line.partition("=")
    with pytest.raises(UserError, match=f"^--{name} {value} should be a .*number above 0.$"):
        translate([f"--{word}" for word in (*start.split(), line)])


@pytest.mark.parametrize("name", ["instance_prompt", "class_prompt", "class_data_dir"])
@pytest.mark.parametrize("joined", [True, False])
def test_an_empty_text_is_refused(plain: Path, name: str, joined: bool) -> None:
    """As a shell's variable that is not set leaves it; not taken as "true"."""
    given = [f"--{name}="] if joined else [f"--{name}", ""]
    start = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={plain}"]
    with pytest.raises(UserError, match=f"--{name} is given nothing"):
        translate([*start, "--with_prior_preservation", *given])


def test_a_switch_of_ours_needs_no_value(plain: Path) -> None:
    """As sd-scripts write it; another option without its value is refused."""
    start = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={plain}", "--output_dir=x"]
    ours = translate([*start, "--cache_latents", "--buckets", "--max_train_steps", "2"])
    settings = parse(DreamBoothSettings, ours, "").settings
    assert settings.cache_latents
    assert settings.buckets
    for name, example in (("rank", "4"), ("instance_prompt", "TEXT"), ("learning_rate", "0.5")):
        with pytest.raises(UserError, match=f"^--{name} needs a value, as in --{name} {example}$"):
            translate([*start, f"--{name}", "--train_text_encoder"])


def test_images_in_the_home_folder_are_counted(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(plain.parent))
    for name in ("instance_data_dir", "data"):
        ours = translate(["--pretrained_model_name_or_path=x", f"--{name}=~/{plain.name}"])
        assert ours[ours.index("--data") + 1] == str(plain)


@pytest.mark.parametrize("part", ["", ":train"])
def test_epochs_of_a_prepared_set(captioned: Path, part: str) -> None:
    start = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={captioned}{part}"]
    ours = translate([*start, "--num_train_epochs=3", "--validation_prompt=x"], lora=True)
    assert ours[ours.index("--steps") + 1] == "6"  # five images in batches of four
    assert ours[ours.index("--preview_every") + 1] == "100"


def test_a_full_command_line(
    base: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = [word for word in words(FULL, base, plain, tmp_path) if word != "--use_8bit_adam"]
    ours = translate(given)
    settings = parse(DreamBoothSettings, ours, "").settings
    assert settings.lora is None
    assert settings.text_encoder
    assert settings.gradient_checkpointing
    assert (settings.prompt, settings.prior.prompt) == ("a photo of sks dog", "a photo of dog")
    assert (settings.prior.count, settings.prior.folder) == (2, f"{tmp_path}/class")
    assert (settings.size, settings.batch, settings.optim.lr) == (32, 1, 2e-6)
    assert (settings.optim.betas, settings.min_snr_gamma) == ((0.9, 0.99), 5.0)
    assert settings.checkpoint_every == 500
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == ["warning: --sample_batch_size is left out: it has no meaning here."]
    train_dreambooth.main(given)
    assert run_facts(tmp_path / "run")["steps"] == 2
    assert (tmp_path / "run" / "weights" / "unet").is_dir()
    eight = parse(DreamBoothSettings, translate([*given, "--use_8bit_adam"]), "").settings
    assert eight.optim.name == "adamw8bit"


def test_a_lora_command_line(
    base: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = words(LORA, base, plain, tmp_path)
    settings = parse(DreamBoothSettings, translate(given, lora=True), "").settings
    assert settings.lora == Lora(rank=4, alpha=4.0)
    assert (settings.batch, settings.accumulate, settings.seed) == (2, 2, 7)
    assert settings.preview_prompts == ("A photo of sks dog in a bucket",)
    assert (settings.preview_every, settings.preview_seeds) == (3, (0, 1))
    assert settings.prior is None
    warned = capsys.readouterr().err
    assert "--push_to_hub is left out: osteon export" in warned
    assert "--tokenizer_name is left out" in warned
    train_dreambooth_lora.main(given)
    assert len(read_metrics(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "weights" / "pytorch_lora_weights.safetensors").exists()


def test_rank_means_lora_and_epochs_become_steps(base: Path, plain: Path, tmp_path: Path) -> None:
    start = ["--pretrained_model_name_or_path", str(base), "--instance_data_dir", str(plain)]
    given = [*start, "--instance_prompt", "x", "--output_dir", str(tmp_path / "r"), "--rank", "16"]
    more = ["--num_train_epochs", "3", "--mixed_precision", "fp16", "--optim.clip_norm", "2"]
    settings = parse(DreamBoothSettings, translate([*given, *more]), "").settings
    assert settings.lora == Lora(rank=16, alpha=16.0)
    assert settings.steps == 6  # five images in batches of four, three times
    assert settings.optim.lr == 5e-4
    assert settings.optim.clip_norm == 2.0
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "fp16"


def test_our_own_command_line_is_left_alone() -> None:
    own = ["--config", "a.yaml", "--optim.lr=1", "--dry_run"]
    assert translate(own) == own
