"""Latent spaces to look at: `osteon latent {interpolate,walk,arithmetic,project,map} --run R ...`.

A point of the space is written as a seed (3), the mean of seeds (1,5,9 or 0-4), a name given by
--save, or a picture (its nearest vector). Results lie in runs/<name>/latent/.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from core.curves import scatter
from core.device import pick_device
from core.errors import Parser, UserError, at_least_1, command
from core.families import family_of, load_sampler
from core.films import write_gif, write_mp4
from core.generate import SETTINGS_KEY, read_seeds
from core.images import fit, from_array, grid, open_image, write_png
from core.latent import KINDS, combine, path, plane, project
from core.seeds import image_noise
from core.sets import open_set
from core.vectors import read_vector, write_vector

STARTS = 64  # random vectors among which a projection begins
BATCH = 64
DIFFERENCE_GAIN = 3  # times as bright as it is


class Space:
    """A run's latent space: its points by what people call them, and images of them."""

    def __init__(
        self, run: Path, device: str, steps: int, truncation: float = 1.0, label: str = ""
    ) -> None:
        """`steps`: of projecting a picture; `label`: class that a conditional run is to draw.

        Raises UserError for a family without latents.
        """
        self.run = run
        self.sampler = cast(Any, load_sampler(run, device))
        if not hasattr(self.sampler, "from_latents"):
            raise UserError(
                f"{run} is of the family '{family_of(run)}', which has no latent vectors to walk "
                "among; give a run of wgan-gp or vae."
            )
        if label and not getattr(self.sampler, "classes", None):
            raise UserError(f"{run} has no classes, so no --label.")
        asked = {"label": label} if label else {}
        self.images_of = partial(self.sampler.from_latents, **asked)
        self.device, self.steps, self.truncation = device, steps, truncation
        self.d: int = self.sampler.latent_dim

    @cached_property
    @torch.no_grad()
    def shape(self) -> torch.Size:
        """Of one image: C, H, W."""
        images: torch.Tensor = self.images_of(self._device(torch.zeros(1, self.d)))
        return images.shape[1:]

    def point(self, text: str) -> torch.Tensor:
        """d numbers, on the CPU. Raises UserError for what is no seed, name or picture."""
        if text.replace(",", "").replace("-", "").isdigit():
            return self.truncation * image_noise(read_seeds(text), (self.d,)).mean(0)
        if Path(text).is_file():
            return self.project(Path(text))[0]
        return read_vector(self.run, text)

    def pixels(self, picture: Path) -> torch.Tensor:
        """A picture as the model sees them, C x H x W in [0, 1], on the device."""
        channels, side, _ = self.shape
        image = fit(open_image(picture, "L" if channels == 1 else "RGB"), side)
        tensor = torch.from_numpy(np.array(image)).float() / 255
        return self._device(tensor[None] if channels == 1 else tensor.permute(2, 0, 1))

    def project(self, picture: Path) -> tuple[torch.Tensor, float]:
        """The vector of a picture, and its residual; an encoder's answer is where it begins."""
        target = self.pixels(picture)
        starts = self._device(image_noise(range(STARTS), (self.d,)))
        if hasattr(self.sampler, "to_latents"):
            with torch.no_grad():
                starts = self.sampler.to_latents(target[None])
        vector, residual = project(self.images_of, target, starts, self.steps)
        return vector.cpu(), residual

    @torch.no_grad()
    def draw(self, latents: torch.Tensor) -> list[Image.Image]:
        """... x d -> Pillow images, in that order."""
        images = []
        for part in latents.reshape(-1, self.d).split(BATCH):
            pixels = self.images_of(self._device(part)).clamp(0, 1)
            grey = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
            images += from_array(grey.cpu().numpy())
        return images

    def _device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device)


def interpolate(space: Space, arguments: argparse.Namespace) -> list[Path]:
    """One row of pictures per pair of points, and the way through all as a film."""
    points = torch.stack([space.point(text) for text in _several(arguments.points)])
    rows = path(points, arguments.steps, arguments.kind)
    images = space.draw(rows)
    written = [_picture(grid(images, arguments.steps + 1), space, arguments)]
    return written + _film(images, space, arguments)


def walk(space: Space, arguments: argparse.Namespace) -> list[Path]:
    """A closed way through points as a film; with --plane, a square of pictures."""
    points = torch.stack([space.point(text) for text in arguments.points])
    if arguments.plane:
        through = None if space.d == 2 else points[:2]
        if through is not None and len(through) < 2:
            raise UserError("--plane needs two --points that give its directions.")
        square = plane(space.d, arguments.steps, through)
        return [_picture(grid(space.draw(square), arguments.steps), space, arguments)]
    ways = path(points, arguments.steps, arguments.kind, closed=True)[:, :-1]
    return _film(space.draw(ways), space, arguments)


def arithmetic(space: Space, arguments: argparse.Namespace) -> list[Path]:
    """Pictures of the groups' mean vectors, and last that of the formula's."""
    groups: dict[str, torch.Tensor] = {}
    for text in arguments.group:
        name, equals, members = text.partition("=")
        if not equals or not members:
            raise UserError(f"--group '{text}' is not like name=1,5,9.")
        parts = [members] if _are_seeds(members) else members.split(",")
        groups[name] = torch.stack([space.point(part) for part in parts]).mean(0)
    vector = combine(arguments.formula, groups)
    sheet = grid(space.draw(torch.stack([*groups.values(), vector])), len(groups) + 1)
    written = [_picture(sheet, space, arguments)]
    if arguments.save:
        written.append(write_vector(space.run, arguments.save, vector, arguments.formula))
    print(f"From left to right: {', '.join(groups)}; {arguments.formula}")
    return written


def find(space: Space, arguments: argparse.Namespace) -> list[Path]:
    """Picture, its projection and their difference side by side; the vector by name."""
    target = space.pixels(arguments.image)
    vector, residual = space.project(arguments.image)
    with torch.no_grad():
        nearest = space.images_of(vector[None].to(target.device))[0]
    difference = DIFFERENCE_GAIN * (target - nearest).abs()
    rows = torch.stack([target, nearest, difference]).clamp(0, 1)
    images = from_array((rows * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    written = [_picture(grid(images, 3), space, arguments, residual=residual)]
    name = arguments.save or arguments.image.stem
    written.append(write_vector(space.run, name, vector, str(arguments.image)))
    print(
        f"Picture, projection, {DIFFERENCE_GAIN} x difference. Residual {residual:.4f} "
        "(root mean squared error, of 1)."
    )
    return written


def show_map(space: Space, arguments: argparse.Namespace) -> list[Path]:
    """Encoded images as points of a plane, beside the principal components of their pixels."""
    if not hasattr(space.sampler, "to_latents"):
        raise UserError(f"{space.run} has no encoder; osteon latent map needs a run of vae.")
    from sklearn.decomposition import PCA

    images = open_set(arguments.data)
    pixels = torch.stack([space.pixels(file) for file in images.paths])
    with torch.no_grad():
        codes = torch.cat([space.sampler.to_latents(part) for part in pixels.split(BATCH)]).cpu()
    flat = PCA(2, random_state=0)
    encoded = codes.numpy() if space.d == 2 else flat.fit_transform(codes.numpy())
    plain = flat.fit_transform(pixels.flatten(1).cpu().numpy())
    title = "encoded" if space.d == 2 else f"encoded ({space.d} numbers, main two directions)"
    colours = [str(row.get(arguments.colour, "")) for row in images.rows]
    file = _place(space, arguments, "png")
    scatter({title: encoded, "pixels (PCA)": plain}, colours, file)
    return [file]


COMMANDS: dict[str, tuple[Callable[[Space, argparse.Namespace], list[Path]], str]] = {
    "interpolate": (interpolate, "rows of pictures between points, and a film"),
    "walk": (walk, "a closed way through points as a film, or a plane of pictures"),
    "arithmetic": (arithmetic, "sums and differences of groups of images"),
    "project": (find, "the vector nearest to a real picture"),
    "map": (show_map, "encoded images in the plane, PCA beside (vae)"),
}


def _are_seeds(text: str) -> bool:
    return text.replace(",", "").replace("-", "").isdigit()


def _several(points: Sequence[str]) -> Sequence[str]:
    if len(points) < 2:
        raise UserError("--points needs two or more.")
    return points


def _place(space: Space, arguments: argparse.Namespace, suffix: str) -> Path:
    return space.run / "latent" / f"{arguments.name or arguments.verb}.{suffix}"


def _picture(sheet: Image.Image, space: Space, arguments: argparse.Namespace, **facts: Any) -> Path:
    """Written with what made it inside."""
    said = {k: v for k, v in vars(arguments).items() if v is not None}
    text = json.dumps({k: str(v) for k, v in (said | facts).items()}, ensure_ascii=False)
    file = _place(space, arguments, "png")
    write_png(sheet, file, {SETTINGS_KEY: text}, synthetic=True)
    return file


def _film(frames: Sequence[Image.Image], space: Space, arguments: argparse.Namespace) -> list[Path]:
    files = [_place(space, arguments, "gif")]
    write_gif(frames, files[0], arguments.fps)
    if arguments.mp4:
        files.append(_place(space, arguments, "mp4"))
        write_mp4(frames, files[1], arguments.fps)
    return files


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="osteon latent", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (_, help_text) in COMMANDS.items():
        verb = verbs.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        verb.add_argument("--run", required=True, type=Path, help="run of wgan-gp or vae")
        verb.add_argument("--name", help=f"of the files in RUN/latent (default: {name})")
        verb.add_argument("--device", help="cpu, cuda, mps (default: the best at hand)")
        verb.add_argument("--truncation", type=float, default=1.0, help="shrinks seeds' vectors")
        verb.add_argument("--label", default="", help="class that is drawn (default: first)")
        verb.add_argument(
            "--project_steps", type=at_least_1, default=300, help="of finding a picture's vector"
        )
        if name in ("interpolate", "walk"):
            points = ["0", "1", "2", "3"]
            verb.add_argument("--points", nargs="+", default=points, help="default: 0 1 2 3")
            verb.add_argument("--steps", type=at_least_1, default=9, help="from point to point")
            verb.add_argument("--kind", choices=KINDS, default=KINDS[0])
            verb.add_argument("--fps", type=at_least_1, default=12, help="frames a second")
            verb.add_argument("--mp4", action="store_true", help="an MP4 too (needs ffmpeg)")
        if name == "walk":
            verb.add_argument("--plane", action="store_true", help="STEPS x STEPS pictures")
        if name == "arithmetic":
            verb.add_argument("--group", action="append", required=True, metavar="NAME=1,5,9")
            verb.add_argument("--formula", required=True, help="like 'a - b + c'")
        if name in ("arithmetic", "project"):
            verb.add_argument("--save", help="name to keep the vector by")
        if name == "project":
            verb.add_argument("--image", required=True, type=Path, help="picture to find")
        if name == "map":
            verb.add_argument("--data", required=True, help="prepared set or folder to encode")
            verb.add_argument("--colour", default="", help="metadata column that colours points")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    device = pick_device(arguments.device)
    space = Space(
        arguments.run, device, arguments.project_steps, arguments.truncation, arguments.label
    )
    for file in COMMANDS[arguments.verb][0](space, arguments):
        print(file)


if __name__ == "__main__":
    sys.exit(main())
