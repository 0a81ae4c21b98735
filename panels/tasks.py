"""From what a visitor asks to what the models are to draw."""

from panels import look, wildcards
from panels.catalogue import Model, pick
from panels.drawing import Task
from panels.wish import Wish
from panels.workbench import Workbench


def tasks_of(bench: Workbench, name: str | None, wish: Wish, label: str) -> list[Task]:
    """One per seed of the wish, by the model called `name`. Raises UserError for what is not there.

    Args:
        label: when pictures get a visible mark, one of `label.WHEN`.
    """
    models = bench.models()
    model = pick(models, name)
    loras = {pick(models, run): scale for run, scale in wish.loras.items()}
    tasks = []
    for seed in wish.seeds:
        prompt = wildcards.expand(wish.prompt, seed, bench.wildcards)
        mark = is_marked(label, [model, *loras], prompt)
        tasks.append(Task(model, seed, prompt, wish.options, loras, mark))
    return tasks


def is_marked(label: str, models: list[Model], prompt: str) -> bool:
    """Whether a picture gets the visible mark."""
    return label == "always" or (label != "never" and look.are_radiographs(models, prompt))
