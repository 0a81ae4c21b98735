"""Weights kept at several steps of one run: each is what a run that ended there would have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.errors import UserError
from core.images import to_array
from core.runs import kept_weights, trained_steps
from finetune.adapters import FILE
from finetune.sample import load_sampler, switch_sampler
from finetune.settings import DreamBoothSettings, Lora, Optim, Token
from finetune.train_dreambooth import train

Make = Callable[..., DreamBoothSettings]

PROMPTS = ["a ramp", "a ramp"]


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param(None, marks=pytest.mark.slow, id="every weight"),
        pytest.param(Lora(rank=2), id="LoRA"),
    ],
)
def test_a_kept_step_is_the_run_that_ended_there(
    settings: Make, tmp_path: Path, lora: Lora | None
) -> None:
    values = {"lora": lora, "text_encoder": True, "optim": Optim(lr=1e-2, schedule="constant")}
    long = settings(**values, steps=3, keep_weights=(1, 2))
    train(long)
    short = settings(**values, steps=2, run_dir=str(tmp_path / "short"))
    train(short)
    run = Path(long.run_dir)
    assert [*kept_weights(run)] == ["newest", "1", "2", "3"]
    assert kept_weights(run)["3"] == kept_weights(run)["newest"]
    assert [trained_steps(run, name) for name in ("newest", "1", "2")] == [3, 1, 2]

    sampler = load_sampler(run, "cpu")
    names = ("newest", 2, 1, 3)
    drawn = {n: to_array(sampler([0, 1], PROMPTS, steps=2, weights=n)) for n in names}
    again = to_array(sampler([0, 1], PROMPTS, steps=2))
    wanted = to_array(load_sampler(tmp_path / "short", "cpu")([0, 1], PROMPTS, steps=2))
    np.testing.assert_array_equal(drawn[2], wanted)
    np.testing.assert_array_equal(again, drawn["newest"])
    np.testing.assert_array_equal(drawn[3], drawn["newest"])
    assert len({picture.tobytes() for picture in drawn.values()}) == 3
    with pytest.raises(UserError, match="newest, 1, 2, 3"):
        sampler([0], ["a ramp"], steps=2, weights=4)


def test_averages_of_two_steps_by_hand(settings: Make, tmp_path: Path) -> None:
    """The decay rises: 1 / 10, then 2 / 11. An adapter's second half begins at 0. Previews are
    drawn by the average, too."""
    values = {"lora": Lora(rank=2), "optim": Optim(lr=0.1), "steps": 2, "keep_weights": (1,)}
    values |= {"preview_every": 2, "preview_seeds": (0,)}
    found = []
    for name, decay in (("plain", None), ("averaged", 0.9)):
        run = tmp_path / name
        train(settings(**values, ema_decay=decay, run_dir=str(run)))
        found += [load_file(run / each / FILE) for each in ("weights-000001", "weights")]
    first, second, average, newest = found
    ups = [name for name in first if "lora_B" in name]
    assert ups
    for name in ups:
        torch.testing.assert_close(average[name], 0.9 * first[name])
        wanted = 2 / 11 * average[name] + 9 / 11 * second[name]
        torch.testing.assert_close(newest[name], wanted, rtol=1e-4, atol=1e-6)
    sheets = [tmp_path / name / "previews/step-000002.png" for name in ("plain", "averaged")]
    assert sheets[0].read_bytes() != sheets[1].read_bytes()


BOTH = "a new word and LoRA"
MORE: dict[str, dict[str, Any]] = {
    "a new word": {"unet": False, "lora": None},
    BOTH: {"lora": Lora(rank=2)},
    "another schedule": {"lora": Lora(rank=2), "token": None, "zero_terminal_snr": True},
}


@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=[pytest.mark.slow] * (name != BOTH)) for name in MORE]
)
def test_so_is_one_that_adds_more_than_adapters(settings: Make, tmp_path: Path, kind: str) -> None:
    """On a base that is a run's itself, and kept weights too."""
    whole = settings(lora=None, steps=2, keep_weights=(1,), run_dir=str(tmp_path / "whole"))
    train(whole)
    fixed = {"prompt": "a <wing>", "token": Token("<wing>", "a", lr=0.1), "optim": Optim(lr=1e-2)}
    values = fixed | {"base": str(tmp_path / "whole" / "weights")} | MORE[kind]
    long = settings(**values, steps=3, keep_weights=(2,))
    train(long)
    short = settings(**values, steps=2, run_dir=str(tmp_path / "short"))
    train(short)
    prompts = ["a <wing>", "a <wing>"]
    sampler = load_sampler(Path(long.run_dir), "cpu")
    newest = to_array(sampler([0, 1], prompts, steps=2))
    drawn = to_array(sampler([0, 1], prompts, steps=2, weights=2))
    wanted = to_array(load_sampler(tmp_path / "short", "cpu")([0, 1], prompts, steps=2))
    np.testing.assert_array_equal(drawn, wanted)
    again = to_array(sampler([0, 1], prompts, steps=2))
    np.testing.assert_array_equal(again, newest)
    assert (again != drawn).any()
    with pytest.raises(UserError, match="newest, 2, 3"):
        sampler([0], prompts[:1], steps=2, weights=1)
    assert switch_sampler(sampler, tmp_path / "whole") is None


def test_a_base_in_memory_is_itself_again(settings: Make, tmp_path: Path) -> None:
    own = settings(lora=None, steps=2, keep_weights=(1,), optim=Optim(lr=1e-2))
    train(own)
    sampler = load_sampler(Path(own.run_dir), "cpu")
    first = to_array(sampler([0], ["a ramp"], steps=2))
    sampler([0], ["a ramp"], steps=2, weights=1)
    switched = switch_sampler(sampler, Path(own.run_dir))
    assert switched is not None
    np.testing.assert_array_equal(to_array(switched([0], ["a ramp"], steps=2)), first)


def test_a_step_may_be_picked_after_loras_were_mixed_in(settings: Make, tmp_path: Path) -> None:
    """Under adapters the networks' weights have other names."""
    own = settings(lora=None, steps=2, keep_weights=(1,), optim=Optim(lr=1e-2))
    train(own)
    weights = Path(own.run_dir) / "weights"
    tuned = settings(base=str(weights), lora=Lora(rank=2), steps=1, run_dir=str(tmp_path / "lora"))
    train(tuned)
    sampler = load_sampler(Path(own.run_dir), "cpu")
    alone = to_array(sampler([0], ["a ramp"], steps=2, weights=1))
    sampler([0], ["a ramp"], steps=2, loras={tuned.run_dir: 1.0})
    again = to_array(sampler([0], ["a ramp"], steps=2, weights=1))
    np.testing.assert_array_equal(again, alone)
    switched = switch_sampler(sampler, Path(tuned.run_dir))
    assert switched is not None
    wanted = load_sampler(Path(tuned.run_dir), "cpu")([0], ["a ramp"], steps=2)
    np.testing.assert_array_equal(to_array(switched([0], ["a ramp"], steps=2)), to_array(wanted))


def test_a_mixed_in_lora_that_goes_on_is_loaded_anew(
    settings: Make, base: Path, tmp_path: Path
) -> None:
    values = {"lora": Lora(rank=2), "optim": Optim(lr=1e-1), "run_dir": str(tmp_path / "lora")}
    sampler = load_sampler(base, "cpu")
    drawn = []
    for steps in (1, 3):
        train(settings(**values, steps=steps))
        mixed = sampler([0], ["a ramp"], steps=2, loras={values["run_dir"]: 1.0})
        drawn.append(to_array(mixed).tobytes())
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("kept", ["weights-000001", "weights-000003", "best", "weights"])
def test_weights_that_diverged_are_told_as_such(settings: Make, captioned: Path, kept: str) -> None:
    """Not by a file that would not load back, as no number is equal to itself there."""
    step = int(kept.removeprefix("weights-")) if "-" in kept else 0
    own = settings(
        data=str(captioned), prompt=None, steps=1 if kept == "weights" else 4, lora=Lora(rank=2),
        optim=Optim(lr=1e30), checkpoint_every=0, keep_weights=(step,) if step else (),
        validate_every=int(kept == "best"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"is not finite.* another --run_dir .*a lower learning"):
        train(own)
    assert not (Path(own.run_dir) / kept).exists()
