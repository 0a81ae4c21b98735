"""What pictures show, as CLIP (Radford et al. 2021) reads them: a skeleton among living animals."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.images import open_image

KINDS = {
    "a living animal": "a picture of a living animal with skin, fur or feathers",
    "a skeleton": "a skeleton, a skull, bones or a fossil",
    "a line drawing": "a line drawing, a sketch or a diagram",
    "an X-ray": "an X-ray, a radiograph",
    "something else": "a person, a thing or a place",
}
"""Name of a kind: the words that an image is held against."""
HUB = ("openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14")


def find_clip() -> Path | None:
    """A CLIP in the hub's cache, if one was ever downloaded."""
    from huggingface_hub import try_to_load_from_cache

    files = (try_to_load_from_cache(name, "model.safetensors") for name in HUB)
    return next((Path(file).parent for file in files if isinstance(file, str)), None)


def kinds_of(paths: Sequence[Path], clip: Path) -> list[str]:
    """The kind of every image, by the folder of a CLIP in transformers' format.

    Raises UserError if it cannot be loaded.
    """
    from transformers import pipeline

    try:
        read: Any = pipeline("zero-shot-image-classification", model=str(clip), device="cpu")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{clip} cannot be loaded as CLIP ({str(error).splitlines()[0]})."
        ) from None
    names = {words: name for name, words in KINDS.items()}
    asked = {"candidate_labels": [*names], "hypothesis_template": "{}"}
    return [names[read(open_image(path, "RGB"), **asked)[0]["label"]] for path in paths]


def odd_ones(kinds: Sequence[str]) -> tuple[str, list[int]]:
    """What most images show, and where those are that show a skeleton or a drawing instead."""
    usual = Counter(kinds).most_common(1)[0][0]
    odd = ("a skeleton", "a line drawing")
    return usual, [i for i, kind in enumerate(kinds) if kind in odd and kind != usual]
