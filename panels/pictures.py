"""What programs ask of the pictures made here. All raise UserError in words.

A picture goes by its place in reports/playground/, as `history` lists it: "my-run/000005-1f2e.png";
one by others by its place in the project: "outside/by-hand/1.png".
"""

from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import gradio as gr

from core.errors import UserError
from core.images import open_image
from panels import copies, history, look, wildcards
from panels.drawing import Picture
from panels.endpoints import endpoint
from panels.thumbnails import data_uri
from panels.viewer import difference, pair
from panels.workbench import Workbench

OUTSIDE = "outside"


def offer(bench: Workbench) -> None:
    """All of them as endpoints; called inside the page."""
    made = Pictures(bench)
    endpoint(made.presets, "presets")
    endpoint(made.wildcards, "wildcards")
    endpoint(made.history, "history")
    endpoint(made.settings, "picture_settings")
    endpoint(made.file, "picture_file")
    endpoint(made.nearest, "nearest")
    endpoint(made.two, "two_pictures")


@dataclass(frozen=True)
class Pictures:
    """Those of one project."""

    bench: Workbench

    def presets(self) -> list[dict[str, str]]:
        """Every "prompt" in prompts/*.txt, with a "label" that names its file."""
        return [{"label": label, "prompt": prompt} for label, prompt in self.bench.presets()]

    def wildcards(self) -> dict[str, list[str]]:
        """The lists that a prompt may name between double underscores, and their lines."""
        folder = self.bench.wildcards
        return {name: wildcards.lines(folder, name) for name in wildcards.names(folder)}

    def history(self) -> list[dict[str, Any]]:
        """The last pictures made here, newest first: "picture", "model", "seed", "prompt"."""
        return [
            {
                "picture": made.path.relative_to(self.bench.pictures).as_posix(),
                "model": made.model.name,
                "seed": made.facts["seed"],
                "prompt": made.facts["prompt"],
            }
            for made in history.newest(self.bench.pictures, self.bench.models())
        ]

    def settings(self, picture: str) -> dict[str, Any]:
        """What made a picture: its "model", all "settings" that its file carries, and the "command"
        that makes it again ("" for one between seeds, prompts or vectors)."""
        made = self._picture(picture)
        command = "" if history.is_mix(made.facts) else look.command(made)
        return {"model": made.model.name, "settings": made.facts, "command": command}

    def file(self, picture: str) -> gr.FileData:
        """A picture's own file: a PNG with its settings inside."""
        file = self._file(picture)
        return gr.FileData(path=str(file), orig_name=file.name)

    def nearest(self, picture: str) -> dict[str, Any]:
        """The training "image" that a picture resembles most (and its "thumbnail"), how much, and
        whether it is a "possible_copy"; {} where the training images are not here."""
        made = self._picture(picture)
        near = copies.nearest_of([made.model, *made.loras], self.bench.root, made.open())
        if near is None:
            return {}
        image = Path(near.image)
        inside = image.is_relative_to(self.bench.root)
        told = {"possible_copy": near.possible_copy, "words": near.words}
        place = image.relative_to(self.bench.root).as_posix() if inside else image.name
        return asdict(near) | told | {"image": place, "thumbnail": data_uri(open_image(image))}

    def two(self, first: str, second: str) -> dict[str, Any]:
        """Two pictures on one place as "html" (slider, flicker, difference); of one size, also by
        how much they differ: "mean", "most" (grey levels), "share" (of the pixels), "words"."""
        one, other = self._opened(first), self._opened(second)
        html = {"html": pair(one, other, (first, second))}
        if one.size != other.size:
            return html
        apart = difference(one, other)
        return html | apart._asdict() | {"words": apart.words}

    def _picture(self, name: str) -> Picture:
        """One made here, with what made it."""
        return history.picture_of(self._file(name), self.bench.models())

    def _opened(self, name: str) -> Any:
        """As its model drew it, or as others left it."""
        outside = PurePosixPath(name).parts[:1] == (OUTSIDE,)
        return open_image(self._file(name)) if outside else self._picture(name).open()

    def _file(self, name: str) -> Path:
        """Of a picture made here or by others; none that is hidden or lies elsewhere."""
        parts = PurePosixPath(name).parts
        home = self.bench.root if parts[:1] == (OUTSIDE,) else self.bench.pictures
        inside = home / OUTSIDE if home == self.bench.root else home
        file = home / name
        hidden = any(part.startswith(".") for part in parts)
        if hidden or not file.is_file() or not file.resolve().is_relative_to(inside.resolve()):
            raise UserError(f"There is no picture '{name}' here; /history lists them.")
        return file
