"""The page in a real browser: Debian's chromium through Playwright, where both are installed."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")
LONG = 180_000  # ms: the first picture loads the libraries
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The app's page; fails on errors in the console and on requests to anywhere else."""
    troubles: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.set_default_timeout(LONG)
        page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith((address, "data:", "blob:")) else troubles.append(r.url)
            ),
        )
        page.goto(address)
        yield page
        browser.close()
    assert troubles == []


def test_a_visit_to_every_tab_on_a_narrow_screen(page: Any) -> None:
    # Playground: the settings fit the model, Enter draws, the picture tells how it was made
    prompt = page.get_by_label("Prompt", exact=False).first
    page.get_by_text("Prompts it knows").wait_for()
    prompt.fill("a ramp <b>")
    page.get_by_label("number input for Number of pictures").fill("2")
    page.get_by_text("More settings").first.click()
    page.get_by_label("number input for Steps").first.fill("2")
    prompt.press("Enter")
    page.get_by_text("2 pictures in").wait_for()
    page.get_by_alt_text("Seed 1: a ramp <b>").first.wait_for()
    page.get_by_text("How this picture was made").click()
    page.get_by_text("osteon generate --run runs/tuned --seeds 1").wait_for()
    page.get_by_alt_text("Seed 0: a ramp <b>").first.click()
    page.get_by_text("osteon generate --run runs/tuned --seeds 0").wait_for()

    # Stopping keeps what is there
    page.get_by_label("number input for Number of pictures").fill("16")
    page.get_by_label("number input for Steps").first.fill("100")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Picture 2 of 16: step").wait_for()
    page.get_by_role("button", name="Stop").first.click()
    page.get_by_text("Stopped. Pictures already made are kept.").wait_for()
    page.get_by_alt_text("Seed 0: a ramp <b>").first.wait_for()
    page.get_by_label("number input for Number of pictures").fill("1")

    # Another model: a GAN reads no prompt and knows no steps
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="chest-gan").first.click()
    page.get_by_text("it reads no prompt").wait_for()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Not for diagnosis.").first.wait_for()

    # Side by side and reports
    page.get_by_role("tab", name="Side by side").click()
    page.get_by_role("button", name="Draw the row").click()
    page.get_by_text(" drawn").wait_for()
    page.get_by_text("Reads no prompt. The seed").wait_for()
    page.get_by_role("tab", name="Reports").click()
    page.frame_locator("iframe").get_by_role("heading", name='Real against "fake"').wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
