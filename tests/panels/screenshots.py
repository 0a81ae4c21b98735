"""Pictures of every tab: `make screenshots`, on the models that `make demo` made.

In docs/screenshots: each tab light, dark and 400 pixels wide; for the README playground.png, and
the others on one sheet, tabs.png.

Needs Playwright's Python package and a chromium on the path.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from app import launch
from tests.panels.browser import CHROMIUM

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "screenshots"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SIZE = {"width": 1180, "height": 860}
LONG = 600_000  # ms
GAP = 16  # pixels


def choose(page: Page, label: str, value: str) -> None:
    box = page.get_by_label(label, exact=True).locator("visible=true").first
    box.fill(value)
    box.press("Enter")


def playground(page: Page) -> None:
    choose(page, "Model", "runs/demo-sinomacrops")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("4 pictures in").wait_for()
    page.get_by_text("How this picture was made").click()


def side_by_side(page: Page) -> None:
    choose(page, "Diffusion, base model", "models/sd2-mini")
    choose(page, "Diffusion, fine-tuned", "runs/demo-chest-lora")
    choose(page, "WGAN-GP", "runs/demo-chest-gan")
    choose(page, "VAE", "runs/demo-chest-vae")
    page.get_by_role("button", name="Draw the row").click()
    page.get_by_text(" drawn.").wait_for()
    page.get_by_text("Mean difference").wait_for()


def latent(page: Page) -> None:
    choose(page, "Model", "runs/demo-chest-vae")
    page.get_by_role("button", name="Draw the way").click()
    page.get_by_text("8 pictures.").wait_for()


def arena(page: Page) -> None:
    page.get_by_role("button", name="New pair").click()
    page.get_by_alt_text("Left").wait_for()


def train(page: Page) -> None:
    choose(page, "Run to watch", "runs/demo-chest-gan")  # the newest one may have no samples
    page.get_by_text("After 100 steps").wait_for()


def data(page: Page) -> None:
    page.get_by_text("page 1 of").wait_for()
    page.locator(".osteon-gallery button.thumbnail-lg:visible").first.wait_for()


def reports(page: Page) -> None:
    choose(page, "Report", "demo-chest")  # drawn by us, all of it
    page.get_by_text("reports/demo-chest/report.html").wait_for()
    page.frame_locator("iframe").get_by_role("heading").first.wait_for()


TABS: dict[str, Callable[[Page], None]] = {
    "Playground": playground,
    "Side by side": side_by_side,
    "Latent": latent,
    "Arena": arena,
    "Train": train,
    "Data": data,
    "Reports": reports,
}


def main(wanted: list[str]) -> None:
    """Take the tabs named, all by default: light, dark, and 400 pixels wide."""
    page, address = launch(ROOT, port=None)
    OUT.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for title in wanted or TABS:
            visit = browser.new_page(viewport=SIZE)
            visit.set_default_timeout(LONG)
            visit.goto(address)
            visit.get_by_role("tab", name=title).click()
            TABS[title](visit)
            name = file_name(title)
            visit.screenshot(path=OUT / f"{name}.png", full_page=True)
            visit.set_viewport_size({"width": 400, "height": 860})
            visit.screenshot(path=OUT / f"{name}-narrow.png", full_page=True)
            visit.set_viewport_size(SIZE)
            visit.evaluate("document.body.classList.add('dark')")
            visit.wait_for_timeout(1000)  # colours change by and by
            visit.screenshot(path=OUT / f"{name}-dark.png", full_page=True)
            print(OUT / f"{name}.png", flush=True)
            visit.close()
        browser.close()
    page.close()
    if not wanted:
        write_sheet([OUT / f"{file_name(title)}.png" for title in TABS if title != "Playground"])


def file_name(title: str) -> str:
    return title.lower().replace(" ", "-")


def write_sheet(files: list[Path]) -> None:
    """The tops of the pages, two in a row."""
    wide, high = SIZE["width"] // 2, SIZE["height"] // 2
    rows = -(-len(files) // 2)
    sheet = Image.new("RGB", (2 * wide + GAP, rows * (high + GAP) - GAP), "white")
    for number, file in enumerate(files):
        whole = Image.open(file).convert("RGB")
        top = whole.crop((0, 0, SIZE["width"], SIZE["height"]))
        place = (number % 2 * (wide + GAP), number // 2 * (high + GAP))
        sheet.paste(top.resize((wide, high), Image.Resampling.LANCZOS), place)
    sheet.save(OUT / "tabs.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
