"""What tests do with the page in a browser."""

import re
import shutil
from pathlib import Path
from typing import Any

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
"""By preference: the first has no window to paint, and needs three quarters of the time."""
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LONG = 120_000  # ms: the first picture loads the libraries
PICTURES = Path(__file__).resolve().parents[2] / "build/screenshots"


def kept(test: str, number: int) -> Path:
    """Where a screenshot of a test goes, for people to look at after the run."""
    return PICTURES / f"{re.sub(r'[^a-z0-9]+', '-', test).strip('-')}-{number}.png"


def open_tab(page: Any, name: str) -> None:
    """Click a tab, or on a narrow screen its line in the menu of those that do not fit."""
    page.locator(".overflow-dropdown button").first.wait_for(state="attached")  # now it is laid out
    page.keep()
    folded = page.locator(".overflow-dropdown button").filter(has_text=name)
    if folded.count():
        page.locator(".overflow-menu > button").click()
        folded.click()
    else:
        page.get_by_role("tab", name=name).first.click()
