"""The page in a real browser: Debian's chromium through Playwright, where both are installed."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from panels.ballots import read
from tests.panels.browser import LONG, open_tab

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = sync_api.expect  # waits, as clicks do
expect.set_options(timeout=LONG)


def test_enter_draws_and_the_picture_tells_how_it_was_made(page: Any) -> None:
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

    # A new seed each time, and it stays in its field
    fresh = page.get_by_label("A new seed each time")
    fresh.check()
    page.get_by_label("number input for Number of pictures").fill("1")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("1 picture in").wait_for()
    seed = page.get_by_label("Seed", exact=True).first
    assert int(seed.input_value()) > 1
    page.get_by_alt_text(f"Seed {seed.input_value()}: a ramp <b>").first.wait_for()


def test_stopping_keeps_what_is_there_and_another_model_follows(page: Any) -> None:
    prompt = page.get_by_label("Prompt", exact=False).first
    page.get_by_text("Prompts it knows").wait_for()
    page.get_by_text("More settings").first.click()
    prompt.fill("a valley")
    page.get_by_label("number input for Number of pictures").fill("16")
    page.get_by_label("number input for Steps").first.fill("100")
    page.get_by_role("button", name="Generate").click()
    page.get_by_alt_text("Seed 0: a valley").first.wait_for()
    page.get_by_role("button", name="Stop").first.click()
    page.get_by_text("Stopped. Pictures already made are kept.").wait_for()
    expect(page.get_by_role("button", name="Stop").first).to_be_disabled()
    page.get_by_alt_text("Seed 0: a valley").first.wait_for()
    page.get_by_label("number input for Number of pictures").fill("1")

    # Another model: a GAN reads no prompt and knows no steps
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="chest-gan").first.click()
    page.get_by_text("it reads no prompt").wait_for()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Not for diagnosis.").first.wait_for()

    # The embedded base draws an animal; an older picture's settings come back
    page.get_by_text("1 picture in").wait_for()
    fresh = page.get_by_label("A new seed each time")
    model = page.get_by_label("Model").first
    model.fill("models/sd2-mini")
    model.press("Enter")
    page.get_by_text("it reads no prompt").wait_for(state="hidden")
    prompt.fill("a pteranodon flying")
    page.get_by_label("number input for Steps").first.fill("12")
    page.get_by_role("button", name="Generate").click()
    picture = page.get_by_alt_text("Seed 0: a pteranodon flying").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") == 64
    page.get_by_text("How this picture was made").click()
    page.get_by_text("osteon generate --run models/sd2-mini").wait_for()
    page.get_by_text("History", exact=True).click()
    older = page.locator(".osteon-gallery").nth(1)
    older.get_by_alt_text("Seed 0: a pteranodon flying").first.wait_for()  # now nothing moves on
    older.get_by_alt_text("Seed 0: a valley").first.click()
    page.get_by_text("osteon generate --run runs/tuned --seeds 0").wait_for()
    fresh.check()
    page.get_by_role("button", name="Use these settings").click()
    page.get_by_text("These are the settings of seed 0").wait_for()
    expect(fresh).not_to_be_checked()
    expect(prompt).to_have_value("a valley")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_row_a_report_and_a_picture_drawn_again(page: Any, client: Client, project: Path) -> None:
    open_tab(page, "Side by side")
    page.get_by_role("button", name="Draw the row").click()
    page.get_by_text(" drawn").wait_for()
    page.get_by_text("Reads no prompt. The seed").first.wait_for()
    open_tab(page, "Reports")
    page.frame_locator("iframe").get_by_role("heading", name='Real against "fake"').wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download this report").click()
    assert "Real against" in download.value.path().read_text(encoding="utf-8")
    client.predict("models/sd2-mini", "a pteranodon", "", 0, 1, 2, api_name="/playground")
    picture, *_ = (project / "reports/playground/sd2-mini").glob("*.png")
    page.get_by_text("Replay a picture").click()
    page.locator("input[type=file]:not([webkitdirectory])").last.set_input_files(picture)
    page.get_by_text(picture.stem).last.wait_for()
    page.get_by_role("button", name="Draw it again").click()
    page.get_by_text("The two are equal, pixel for pixel.").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_two_pictures_on_one_place_by_keyboard(page: Any) -> None:
    open_tab(page, "Side by side")
    page.get_by_role("button", name="Draw the row").click()
    page.get_by_text("Mean difference").wait_for()
    both = page.locator(".osteon-pair img")
    expect(both).to_have_count(2)
    slider = page.get_by_label("Where the slider stands")
    slider.focus()
    slider.press("End")
    expect(page.locator(".osteon-pair")).to_have_attribute("style", re.compile("100%"))
    page.get_by_label("Slider", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Flicker")).to_be_checked()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Difference")).to_be_checked()
    expect(both.nth(1)).to_have_css("mix-blend-mode", "difference")
    page.get_by_label("Second", exact=True).click()
    page.get_by_role("option", name="Pictures from outside").click()
    page.locator(".osteon-pair img[alt='Pictures from outside']").wait_for()

    # The grid: a strip of LoRA scales
    page.get_by_text("Grid over settings").click()
    page.get_by_role("button", name="Draw the grid").click()
    page.get_by_text("5 of 5 pictures drawn.").wait_for()
    page.get_by_text("LoRA scale: 0.25").first.wait_for()


def test_the_other_tabs_by_their_main_path(page: Any, project: Path) -> None:
    # Latent: from one seed to another
    open_tab(page, "Latent")
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_text("What to do"))
    panel.get_by_label("number input for Pictures").fill("2")
    panel.get_by_role("button", name="Draw the way").click()
    panel.get_by_text("2 pictures.").wait_for()
    expect(panel.locator("figure img")).to_have_count(2)

    # Arena: a vote, by keyboard, says whose pictures they were
    open_tab(page, "Arena")
    page.get_by_role("button", name="New pair").press("Enter")
    page.get_by_alt_text("Left").wait_for()
    for button in ("Both bad", "Tie", "Right", "Left"):
        page.keyboard.press("Shift+Tab")
        expect(page.get_by_role("button", name=button)).to_be_focused()
    votes = project / "reports/votes/arena.jsonl"
    before = len(read(votes))
    page.evaluate("for (const time of [1, 2]) document.activeElement.click()")  # two at once
    page.get_by_text(re.compile("Left was (runs|outside)/")).wait_for()
    page.get_by_text("Preferred to what stood beside it").wait_for()
    page.get_by_text("No pair waits for a vote").wait_for()
    assert len(read(votes)) == before + 1
    page.get_by_alt_text("Left").wait_for()  # the next pair

    page.get_by_text("Quiz: real or made?").click()
    page.get_by_role("button", name="Next").click()
    page.get_by_alt_text("Real or made?").wait_for()
    page.get_by_role("button", name="Made", exact=True).click()
    page.get_by_text(re.compile("it was (real|made)")).wait_for()

    # Data: an image is chosen, its caption changed, its grey values windowed
    open_tab(page, "Data")
    page.get_by_text("5 images, page 1 of 1").wait_for()
    page.get_by_role("tabpanel").locator("button.thumbnail-lg:visible").first.click()
    page.get_by_alt_text("larger").wait_for()
    page.get_by_label("Caption", exact=True).fill("a steep ramp")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Noted for").wait_for()
    before = page.get_by_alt_text("larger").get_attribute("src")
    page.get_by_label("range slider for Level").press("ArrowRight")
    expect(page.get_by_alt_text("larger")).not_to_have_attribute("src", before)
    split = page.get_by_label("Split", exact=True)
    split.fill("test")
    split.press("Enter")
    page.get_by_text("Select an image.").wait_for()
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Select an image first.").wait_for()

    # Train: every setting is there, and a wrong one gets a sentence
    open_tab(page, "Train")
    steps = page.locator("label:visible").filter(has_text="Optimiser steps.")
    steps.locator("input, textarea").first.fill("many")
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("alert").filter(has_text="steps").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_train_says_what_is_wrong_where_it_is_and_lists_a_run_that_begins(
    page: Any, project: Path
) -> None:
    open_tab(page, "Train")
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_text("What to train"))
    steps = panel.get_by_label(re.compile(r"^\s*steps"))
    steps.fill("7")
    panel.get_by_role("button", name="All settings").click()
    rank = page.get_by_label(re.compile(r"^\s*lora\.rank"))
    wrong = panel.locator(".osteon-wrong:visible", has=rank)
    rank.fill("many")
    panel.get_by_role("button", name="All settings").click()
    rank.wait_for(state="hidden")
    start = panel.get_by_role("button", name="Start training")
    start.click()
    panel.get_by_role("alert").filter(has_text="lora.rank must be a whole number").wait_for()
    below = "box => box.getBoundingClientRect().bottom"
    assert 0 < panel.get_by_role("alert").evaluate(below) - start.evaluate(below) < 300
    wrong.filter(has_text="not 'many'").wait_for()  # it is unfolded

    # A run that begins elsewhere is to be found, and what was typed stays
    begun = project / "runs/begun"
    shutil.copytree(
        project / "runs/tuned", begun, ignore=lambda place, names: {"weights"} & {*names}
    )
    try:
        begin = panel.get_by_label("Settings to begin with")
        begin.click()
        page.get_by_role("option", name="go on with runs/begun").wait_for(timeout=30_000)
        begin.press("Escape")
        assert (rank.input_value(), steps.input_value()) == ("many", "7")
    finally:
        shutil.rmtree(begun)

    rank.fill("0")
    start.click()
    wrong.filter(has_text="lora.rank must be at least 1").wait_for()
    rank.fill("2")
    panel.get_by_label("Name of the run").fill("a/b")
    start.click()
    panel.get_by_role("alert").filter(has_text="Name the run").wait_for()
    wrong.wait_for(state="hidden")


def test_what_is_wrong_is_told_at_its_field(page: Any) -> None:
    def told(panel: Any, label: str, sentence: Any) -> None:
        """The field called `label` says so, and no other one."""
        wrong = panel.locator(".osteon-wrong:visible")
        wrong.filter(has_text=sentence).filter(has_text=label).wait_for()
        expect(wrong).to_have_count(1)
        panel.get_by_role("alert").filter(has_text=sentence).first.wait_for()

    panel = page.get_by_role("tabpanel").filter(has=page.get_by_role("button", name="Generate"))
    prompt = panel.get_by_label("Prompt", exact=False).first
    seed = panel.get_by_label("Seed", exact=True)
    go = panel.get_by_role("button", name="Generate")
    panel.get_by_text("Prompts it knows").wait_for()
    seed.fill("-1")
    go.click()
    told(panel, "Seed", "The seed must be a whole number from 0 to")
    page.keep()
    seed.fill("0")
    prompt.fill("a __nothing__ of <b>")
    go.click()
    told(panel, "Prompt", re.compile("There is no list for (__)?nothing(__)?; there are"))
    prompt.fill("a ramp")
    panel.get_by_label("number input for Number of pictures").fill("1")
    panel.get_by_text("Mix in other LoRA runs").click()
    lora = panel.get_by_label("LoRA run 2")
    lora.fill("runs/gone")
    lora.press("Enter")
    panel.get_by_text("Mix in other LoRA runs").click()
    lora.wait_for(state="hidden")
    go.click()
    told(panel, "LoRA run 2", "no model 'runs/gone' here")  # it is unfolded
    lora.fill("none")
    lora.press("Enter")
    go.click()
    panel.get_by_text("1 picture in").wait_for()
    expect(panel.locator(".osteon-wrong")).to_have_count(0)
    panel.get_by_text("Same seed, same picture.").wait_for()

    open_tab(page, "Side by side")
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_role("button", name="Draw the row"))
    panel.get_by_text("Grid over settings").click()
    panel.get_by_label("X: values").fill("0, much")
    panel.get_by_role("button", name="Draw the grid").click()
    told(panel, "X: values", "LoRA scale takes numbers with commas between them")
    panel.get_by_label("X: values").fill("0, 9")
    panel.get_by_role("button", name="Draw the grid").click()
    told(panel, "X: values", "The LoRA scale must lie from 0 to 2")
    page.keep()

    open_tab(page, "Latent")
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_text("What to do"))
    panel.get_by_label("Seeds").fill("4,, 5")
    panel.get_by_role("button", name="Draw the way").click()
    told(panel, "Seeds", "Seeds are whole numbers with commas between")
    panel.get_by_label("Seeds").fill("-4, 5")
    panel.get_by_role("button", name="Draw the way").click()
    told(panel, "Seeds", "The seed must be a whole number")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_who_waits_sees_the_place_in_the_queue(page: Any, client: Client) -> None:
    asked = ("runs/tuned", "a ramp", "", 0, 16, 150, 4.0, 1.0)
    drawn = client.submit(*asked, api_name="/playground")
    while not drawn.outputs():
        page.wait_for_timeout(50)
    waiting = client.submit(*asked, api_name="/playground")
    while waiting.status().rank is None:  # not in the queue yet
        page.wait_for_timeout(50)
    page.get_by_text("Prompts it knows").wait_for()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Waiting for its turn").wait_for()
    page.get_by_text("queue: 2/2").wait_for()
    page.keep()
    drawn.cancel()
    page.get_by_text("queue: 1/1").wait_for()
    page.get_by_role("button", name="Stop").first.click()
    page.get_by_text("Stopped. Pictures already made are kept.").wait_for()
    waiting.cancel()
