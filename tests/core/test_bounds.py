"""Numbers that mean nothing are refused, by name and in one sentence."""

from importlib import import_module
from typing import Any

import pytest

from core.bounds import BOUNDS, check_bounds
from core.complaints import leaf_names
from core.config import parse
from core.errors import UserError

RUN = ["--data=x", "--run_dir=y"]
SETTINGS = {
    "finetune.settings:DreamBoothSettings": [
        *(*RUN, "--prompt=a <x>", "--prior.prompt=a", "--optim.schedule=cosine"),
        *("--token.name=<x>", "--token.initialiser=bat"),
    ],
    "finetune.base_settings:BaseSettings": RUN,
    "gan.settings:WganGpSettings": RUN,
    "vae.settings:VaeSettings": RUN,
    "style.settings:StyleSettings": ["--content=x", "--style=y", "--run_dir=z"],
    "compare.encoder_settings:TrainEncoderSettings": ["--data=[x]"],
}
"""What has to be given, so that every group is there."""
OUT_OF = {
    "above 0": ("0", "-1", ".nan", ".inf"),
    "at least 1": ("0", "-3"),
    "0 or more": ("-1",),
    "from 0 to 1": ("-0.1", "1.1"),
    "at least 0 and below 1": ("-0.1", "1"),
    "between 0 and 1": ("0", "1"),
}


def settings_of(name: str) -> tuple[Any, type]:
    module, _, kind = name.partition(":")
    found = import_module(module)
    return found, getattr(found, kind)


def test_bounds_by_hand() -> None:
    assert {*OUT_OF} == {*BOUNDS}
    assert [BOUNDS["0 or more"](value) for value in (-1e-9, 0, 5)] == [False, True, True]
    assert [BOUNDS["from 0 to 1"](value) for value in (0, 1, 1.01)] == [True, True, False]
    assert [BOUNDS["between 0 and 1"](value) for value in (0, 0.5, 1)] == [False, True, False]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_number_of_a_table_is_held_to_its_bound(name: str) -> None:
    module, kind = settings_of(name)
    parse(kind, SETTINGS[name], "")
    tried = 0
    for bound, names in module.BOUNDS.items():
        assert {*names} <= {*leaf_names(kind)}
        for number in names:
            for value in OUT_OF[bound]:
                if value.startswith(".") and number in ("grow",):
                    continue  # a whole number
                text = f"[0.5, {value}]" if "betas" in number else value
                text = f"[{value}]" if number.endswith((".channels", "keep_weights")) else text
                with pytest.raises(UserError, match=f"^{number} must be {bound}, not ") as caught:
                    parse(kind, [*SETTINGS[name], f"--{number}={text}"], "")
                assert "\n" not in str(caught.value)
                tried += 1
    assert tried > 5


def test_what_is_null_is_in_order() -> None:
    _, kind = settings_of("finetune.settings:DreamBoothSettings")
    settings = parse(kind, [*RUN, "--lora=null"], "").settings
    assert settings.lora is None
    check_bounds(settings, {"above 0": ("lora.alpha", "token.lr", "min_snr_gamma")})
