"""From what a visitor asks, or from what a picture says, to what the models are to draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from panels import look, wildcards
from panels.catalogue import Model, pick
from panels.drawing import Task, label_height
from panels.history import mix_of, mixed_in, options_of
from panels.label import WHEN
from panels.wish import FieldError, Wish, at
from panels.workbench import Workbench

MOST_STEPS = 1000  # noise levels of the models' own schedules
DTYPES = ("fp32", "fp16", "bf16")
NEUTRAL = ("", "newest", 1.0, None)
"""What a setting may say that changes nothing, so that a model need not know it."""
FIELDS = ("negative", "steps", "guidance", "scheduler", "lora_scale")
"""Settings for which the Playground has fields."""


def tasks_of(bench: Workbench, name: str | None, wish: Wish, label: str) -> list[Task]:
    """One per seed of the wish, by the model called `name`. Raises FieldError for what is not
    there.

    Args:
        label: when pictures get a visible mark, one of `label.WHEN`.
    """
    models = bench.models()
    with at("model"):
        model = pick(models, name)
    if label not in WHEN:
        raise FieldError("label", f"The visible label is {', '.join(WHEN)}, not '{label}'.")
    loras = {pick(models, run): scale for run, scale in wish.loras.items()}
    tasks = []
    for seed in wish.seeds:
        with at("prompt"):
            prompt = wildcards.expand(wish.prompt, seed, bench.wildcards)
        mark = is_marked(label, [model, *loras], prompt)
        tasks.append(Task(model, seed, prompt, wish.options, loras, mark))
    return tasks


def task_of(facts: Mapping[str, Any], model: Model, models: Sequence[Model]) -> Task:
    """What draws a picture again, from its facts (`history.read_facts`). The limits of the app's
    fields do not hold: `osteon generate` has none.

    Raises UserError for a LoRA run that is not here, or settings out of all bounds.
    """
    options, mix, dtype = options_of(facts), mix_of(facts), facts.get("dtype", "fp32")
    steps = options.get("steps", 1)
    if not isinstance(steps, int | float) or not 1 <= steps <= MOST_STEPS:
        raise UserError(f"This picture asks for steps {steps}; they must be 1 to {MOST_STEPS}.")
    if dtype not in DTYPES:
        raise UserError(f"This picture asks for the arithmetic {dtype}, not {', '.join(DTYPES)}.")
    loras = {_run(models, name): scale for name, scale in mixed_in(facts).items()}
    prompts = " ".join(text for text, _ in mix.prompts) if mix else facts["prompt"]
    return Task(
        model,
        facts["seed"],
        facts["prompt"],
        options,
        needs=frozenset(name for name, value in options.items() if value not in NEUTRAL),
        loras=loras,
        label=label_height(facts) > 0 or is_marked(WHEN[0], [model, *loras], prompts),
        mix=mix,
        dtype=dtype,
    )


def wish_of(task: Task) -> Wish:
    """What to fill into the Playground's fields for one picture. Raises UserError for what is
    outside their limits."""
    known = {name: task.options[name] for name in FIELDS if name in task.options}
    loras = {run.name: scale for run, scale in task.loras.items()}
    return Wish(task.prompt, seed=task.seed, count=1, loras=loras, **known)


def without_field(task: Task) -> list[str]:
    """What made a picture and the Playground has no field for, in words."""
    others = {name: task.options[name] for name in sorted(task.needs) if name not in FIELDS}
    if task.dtype != DTYPES[0]:
        others["dtype"] = task.dtype
    return [f"{look.ROWS.get(name, name).lower()} {value}" for name, value in others.items()]


def _run(models: Sequence[Model], name: str) -> Model:
    """A run by what the command line called it. Raises UserError if it is not here."""
    same = (model for model in models if Path(name) in (Path(model.name), model.folder))
    return next(same, None) or pick([*models], name)


def is_marked(label: str, models: list[Model], prompt: str) -> bool:
    """Whether a picture gets the visible mark."""
    return label == "always" or (label != "never" and look.are_radiographs(models, prompt))
