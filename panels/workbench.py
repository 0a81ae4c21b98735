"""What the tabs share: the project's folder, the model in memory, and what is to be said often."""

from dataclasses import dataclass, field
from pathlib import Path

from core.images import list_images
from panels import look
from panels.catalogue import Model, find_models, find_reports, prompts_in
from panels.resident import Resident


@dataclass(frozen=True)
class Workbench:
    """One project, opened in the app."""

    root: Path
    """Absolute; holds models/, runs/ and reports/."""
    resident: Resident = field(default_factory=Resident)

    @property
    def pictures(self) -> Path:
        """Where pictures made in the app go. Of the project's folders only this one is served."""
        return self.root / "reports" / "playground"

    @property
    def wildcards(self) -> Path:
        """Lists that prompts may name."""
        return self.root / "prompts" / "wildcards"

    def presets(self) -> list[tuple[str, str]]:
        """(label, prompt) of every line in prompts/*.txt."""
        files = sorted((self.root / "prompts").glob("*.txt"))
        return [(f"{file.stem}: {line}", line) for file in files for line in prompts_in(file)]

    def outside(self) -> list[Path]:
        """Plain folders of pictures by others: outside/<name>/."""
        found = sorted((self.root / "outside").glob("*/"))
        return [folder for folder in found if list_images(folder)]

    def sets(self) -> list[str]:
        """Prepared sets: "data/<name>"."""
        return sorted(f"data/{file.parent.name}" for file in self.root.glob("data/*/set.json"))

    def models(self) -> list[Model]:
        return find_models(self.root)

    def reports(self) -> list[Path]:
        return find_reports(self.root)

    def model_names(self) -> list[str]:
        """Of all models, as /playground and /side_by_side take them."""
        return [model.name for model in self.models()]

    def report_names(self) -> list[str]:
        """Of all reports, as /report takes them."""
        return [path.parent.name for path in self.reports()]


def nothing_yet() -> str:
    """What to do where no model is to be found."""
    return look.empty(
        "There is no model here yet",
        "In a terminal, in the project's folder, run one of these. Then reload this page.",
        {
            "make demo": "See all of it in miniature, in ten minutes on two cores: "
            "fine-tuned models, a GAN, a VAE and a report.",
            "osteon train dreambooth --config configs/dreambooth/species_lora_mini.yaml "
            "--data DATA --run_dir runs/NAME": "Or fine-tune on pictures of your own "
            "(DATA is a folder of images):",
            "osteon doctor": "Or see what is missing:",
        },
    )


def choices(models: list[Model]) -> list[tuple[str, str]]:
    """(label, name) of all models, for a list to choose from."""
    return [(f"{model.label} · {model.family.title}", model.name) for model in models]
