"""An export to the Hugging Face hub, when asked."""

import re
import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from core.errors import UserError


def check_push(name: str) -> None:
    """Raise UserError unless `name` is like OWNER/NAME and somebody is logged in."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if not re.fullmatch(r"[^/]+/[^/]+", name):
        raise UserError("--push takes OWNER/NAME: letters, digits, '-', '_' and '.'.")
    if get_token() is None:
        raise UserError("--push needs a login on the hub; run `hf auth login`, then this again.")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload `folder` as the model `name`, made if it is not there; its address.

    Raises UserError for whatever the hub or the network has against it.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # the many ways in which a network is not there
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{folder} could not be pushed to {name} ({reason}); go online as one who may write "
            f"there, or upload it later: `hf upload {name} {shlex.quote(str(folder))}`."
        ) from error
    return str(address)
