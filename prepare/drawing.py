"""One phantom as a metadata row and as an image; a module of its own, so that workers find it."""

from typing import Any

from PIL import Image

from prepare.bestiary import Scene, caption, draw_scene
from prepare.captions import NO_FINDING, chest_caption, in_order
from prepare.chest import Chest, draw_chest

CHEST_COLUMNS = ("findings", "view", "sex", "age", "marker", "border")
SCENE_COLUMNS = ("animal", "habitat", "pose", "style", "facing")


def chest_row(chest: Chest) -> dict[str, Any]:
    """Caption and typed columns of a chest phantom."""
    return {
        "text": chest_caption(chest.findings, chest.view, chest.sex, chest.age),
        "domain": "chest",
        "findings": in_order(chest.findings) or [NO_FINDING],
        "view": chest.view,
        "sex": chest.sex,
        "age": chest.age,
        "marker": chest.marker,
        "border": chest.border,
    }


def scene_row(scene: Scene) -> dict[str, Any]:
    """Caption and typed columns of a bestiary scene."""
    return {
        "text": caption(scene),
        "domain": "bestiary",
        "animal": scene.animal,
        "habitat": scene.habitat,
        "pose": scene.pose,
        "style": scene.style,
        "facing": scene.view.removeprefix("facing "),
    }


def draw(subject: Chest | Scene, size: int, mode: str) -> Image.Image:
    """The picture of a chest or a scene, size x size, in mode "L" or "RGB"."""
    pixels = draw_chest(subject, size) if isinstance(subject, Chest) else draw_scene(subject, size)
    return Image.fromarray(pixels).convert(mode)
