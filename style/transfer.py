"""Paint one picture in the style of another.

    osteon style --config configs/style/content_start.yaml --content a.png --style b.png

The picture itself is what is learnt: its content features are pulled to those of one picture, the
Gram matrices of its style features to those of the other (Gatys et al. 2015, arXiv 1508.06576).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from core.config import parse, to_dict, to_yaml
from core.curves import plot, write_csv
from core.device import pick_device
from core.errors import UserError, command
from core.files import write_text
from core.images import open_image, write_png
from core.seeds import stream
from style.features import Features, choose
from style.losses import content_loss, gram, style_loss, total_variation
from style.settings import StyleSettings

RATES = {"lbfgs": 1.0, "adam": 0.02}
LOSSES = ("loss", "content", "style", "variation")
SETTINGS_KEY = "osteon"


def transfer(settings: StyleSettings, dry_run: bool = False) -> Path | None:
    """Paint the picture; the path of result.png. `dry_run` checks all and says what would be done.

    Raises UserError for pictures or weights that are not there, a loss that is not finite.
    """
    device = pick_device()
    content = load(Path(settings.content), settings.side).to(device)  # 1 x 3 x H x W in [0, 1]
    style = load(Path(settings.style), settings.side).to(device)
    features = choose(settings.features, device)
    print(f"Features: {features.name} (SHA-256 {features.sha256[:8]}).")
    if dry_run:
        print(f"{settings.steps} steps at {content.shape[-1]} x {content.shape[-2]} px.")
        return None
    run = Path(settings.run_dir)
    write_text(run / "config.yaml", to_yaml(settings))

    with torch.no_grad():
        wanted_content, _ = features.extract(content)
        wanted_style = [gram(layer) for layer in features.extract(style)[1]]
    picture = start(content, settings).requires_grad_()
    optimiser = make_optimiser(picture, settings)
    values: dict[str, float] = {}
    rows: list[dict[str, Any]] = []

    def lower() -> torch.Tensor:
        """The loss of the picture as it is, and its gradient."""
        with torch.no_grad():
            picture.clamp_(0, 1)
        optimiser.zero_grad()
        shown, painted = features.extract(picture)
        pairs = zip(painted, wanted_style, strict=True)
        terms = (
            content_loss(shown, wanted_content),
            torch.stack([style_loss(layer, target) for layer, target in pairs]).mean(),
            total_variation(picture),
        )
        weights = (settings.content_weight, settings.style_weight, settings.variation_weight)
        loss = sum(weight * term for weight, term in zip(weights, terms, strict=True))
        loss.backward()
        values.update(zip(LOSSES, torch.stack([loss, *terms]).tolist(), strict=True))
        return loss

    with tqdm(total=settings.steps, desc=run.name, unit="step", mininterval=0.5) as bar:
        for step in range(1, settings.steps + 1):
            optimiser.step(lower)
            rows.append({"step": step, **values})
            check_finite(values, step)
            bar.update()
            bar.set_postfix_str(" ".join(f"{name} {value:.3g}" for name, value in values.items()))
            if settings.preview_every and step % settings.preview_every == 0:
                write(picture, run / f"previews/step-{step:06d}.png", settings, features, step)
    write(picture, run / "result.png", settings, features, settings.steps)
    write_csv(rows, run / "losses.csv")
    plot(rows, LOSSES, run / "curves.png")
    print(run / "result.png")
    return run / "result.png"


def load(path: Path, side: int) -> torch.Tensor:
    """A picture with its longer side of `side` pixels, 1 x 3 x H x W in [0, 1]."""
    image = open_image(path, "RGB")
    share = side / max(image.size)
    width, height = (max(1, round(share * length)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous() / 255


def start(content: torch.Tensor, settings: StyleSettings) -> torch.Tensor:
    """The picture before the first update."""
    if settings.start == "content":
        return content.clone()
    noise = torch.randn(content.shape, generator=stream(settings.seed, "start"))
    return (0.5 + 0.2 * noise).clamp(0, 1).to(content.device)


def make_optimiser(picture: torch.Tensor, settings: StyleSettings) -> torch.optim.Optimizer:
    rate = settings.lr or RATES[settings.optimiser]
    if settings.optimiser == "adam":
        return torch.optim.Adam([picture], lr=rate)
    return torch.optim.LBFGS([picture], lr=rate, max_iter=1, history_size=50)


def check_finite(values: dict[str, float], step: int) -> None:
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise UserError(f"{bad[0]} is not finite at step {step}; try a lower --lr, or adam.")


@torch.no_grad()
def write(
    picture: torch.Tensor, path: Path, settings: StyleSettings, features: Features, step: int
) -> None:
    """A PNG that carries what made it, the network of its features among it."""
    pixels = (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    facts = to_dict(settings) | {
        "family": "style",
        "features": features.name,
        "features_sha256": features.sha256,
        "steps": step,
    }
    text = json.dumps(facts, ensure_ascii=False)
    write_png(Image.fromarray(pixels), path, {SETTINGS_KEY: text}, synthetic=True)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parsed = parse(StyleSettings, argv, __doc__ or "")
    transfer(parsed.settings, parsed.dry_run)


if __name__ == "__main__":
    main()
