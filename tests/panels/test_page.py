"""What holds for the whole page in a browser: widths, names, what is spoken; files in and out."""

import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app import TABS
from core.families import FAMILIES
from core.runs import checkpoints
from panels.ballots import record
from panels.spoken import EVERY
from tests.panels.browser import LONG, open_tab

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
NAMED = {"button", "textbox", "combobox", "slider", "spinbutton", "checkbox", "radio", "searchbox"}
NAMED |= {"tab", "link", "listbox", "switch"}
SMALL = {"img_size": "32", "in_channels": "1", "width": "4", "latent_dim": "8", "depth": "2"}
SMALL |= {"batch_size": "2", "preview_every": "1", "preview_count": "4"}
SETTLED = 300  # ms: a tab that was opened has filled its lists


def choose(panel: Any, label: str, value: str) -> None:
    box = panel.get_by_label(label, exact=True)
    box.fill(value)
    box.press("Enter")


def unfold(page: Any) -> None:
    """Every accordion of the tab that is open."""
    folded = page.locator("button.label-wrap:not(.open):visible")
    while folded.count():
        folded.first.click()


def nodes(page: Any) -> Iterator[dict[str, Any]]:
    """Of what the browser tells a screen reader."""
    session = page.context.new_cdp_session(page)
    session.send("Accessibility.enable")
    for node in session.send("Accessibility.getFullAXTree")["nodes"]:
        if not node["ignored"]:
            yield {
                "role": node["role"]["value"],
                "name": node.get("name", {}).get("value", ""),
                "id": node["nodeId"],
                "parent": node.get("parentId"),
                "element": node.get("backendDOMNodeId"),
            }


def spoken(page: Any) -> str:
    """The words that a screen reader speaks of itself."""
    told = list(nodes(page))
    inside = {node["id"] for node in told if node["role"] == "status"}
    for node in told:  # parents come first
        inside |= {node["id"]} if node["parent"] in inside else set()
    words = [n["name"] for n in told if n["role"] == "StaticText" and n["id"] in inside]
    gradio = r"^(In queue: \d+ of \d+|Loading|common\.complete)\s*"  # what its own region says
    return re.sub(gradio, "", " ".join(words))


def html_of(page: Any, element: int) -> str:
    session = page.context.new_cdp_session(page)
    session.send("DOM.getDocument")
    return str(session.send("DOM.getOuterHTML", {"backendNodeId": element})["outerHTML"])[:300]


def test_every_tab_fits_a_narrow_screen_and_names_what_is_on_it(page: Any) -> None:
    seen, nameless = 0, set()
    for tab in TABS:
        open_tab(page, tab)
        page.wait_for_timeout(SETTLED)
        unfold(page)
        for dark in ("false", "true"):
            page.evaluate(f"document.body.classList.toggle('dark', {dark})")
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, (tab, dark)
        for node in nodes(page):
            seen += node["role"] in NAMED
            if node["role"] in NAMED and not node["name"].strip():
                nameless.add(f"{tab}: {node['role']} {html_of(page, node['element'])}")
    assert seen > 200
    assert sorted(nameless) == []


def test_shares_of_votes_are_read_on_a_narrow_screen(page: Any, project: Path) -> None:
    names = [f"runs/{name}/samples/default" for name in ("tuned", "chest-gan")]
    record(project / "reports/votes/arena.jsonl", left=names[0], right=names[1], vote="left")
    page.reload()
    open_tab(page, "Arena")
    page.get_by_role("button", name="New pair").click()
    page.get_by_alt_text("Left").wait_for()
    page.get_by_role("button", name="Tie").click()
    share = page.locator(".osteon-facts td").filter(has_text=" of ").locator("visible=true").first
    share.wait_for()
    # Of the words: the cell is as high as the name beside it, which may take three lines
    height = """cell => {
      const words = document.createRange(); words.selectNodeContents(cell);
      return words.getBoundingClientRect().height / parseFloat(getComputedStyle(cell).fontSize);
    }"""
    assert share.evaluate(height) < 4  # two lines


def test_a_screen_reader_hears_what_is_new_once_a_second(page: Any) -> None:
    page.get_by_label("number input for Number of pictures").fill("1")
    page.get_by_text("More settings").first.click()
    page.get_by_label("number input for Steps").first.fill("60")
    page.get_by_role("button", name="Generate").click()
    began, heard = time.monotonic(), [""]
    while "1 picture in" not in heard[-1]:
        assert time.monotonic() - began < LONG / 1000
        if (now := spoken(page)) != heard[-1]:
            heard.append(now)
    assert len(heard) < 4 + (time.monotonic() - began) * 1000 / EVERY, heard
    assert page.locator(".osteon-status[role=status]").count() == 0


def test_all_pictures_come_in_one_zip(page: Any) -> None:
    page.get_by_label("number input for Number of pictures").fill("2")
    page.get_by_text("More settings").first.click()
    page.get_by_label("number input for Steps").first.fill("2")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("2 pictures in").first.wait_for()
    with page.expect_download() as download:
        page.get_by_label(re.compile("download all", re.IGNORECASE)).first.click()
    with zipfile.ZipFile(download.value.path()) as folder:
        names = folder.namelist()
        assert [Path(name).suffix for name in names] == [".png", ".png"]
        with folder.open(names[0]) as file, Image.open(file) as picture:
            picture.load()
            assert picture.info["synthetic"].startswith("true")


def test_a_file_that_is_too_large_is_refused_in_words(page: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(21 * 10**6))
    open_tab(page, "Reports")
    page.get_by_text("Replay a picture").click()
    page.locator("input[type=file]:not([webkitdirectory])").last.set_input_files(large)
    page.get_by_text("exceed the maximum allowed size of 20").wait_for()
    assert all("404" in trouble or trouble == "Response" for trouble in page.troubles)
    page.troubles.clear()  # Gradio asks how far an upload is that it does not begin


@pytest.mark.slow  # the tab's endpoints do the same in tests/panels/test_train_tab.py
def test_a_training_is_started_watched_and_stopped(page: Any, project: Path) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("tab", name="Train").first.click()
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_text("What to train"))
    choose(panel, "What to train", FAMILIES["vae"].title)
    panel.get_by_label(re.compile(r"^\s*img_size")).wait_for()
    panel.get_by_label("Name of the run").fill("clicked")
    choose(panel, "Images to learn from", "data/prepared")
    unfold(page)
    for name, value in (SMALL | {"steps": "100000"}).items():
        panel.get_by_label(re.compile(rf"^\s*{name}\b")).first.fill(value)
    panel.get_by_role("button", name="Start training").click()
    panel.get_by_text("Started: osteon train vae").wait_for()
    page.get_by_text("clicked: being trained, step").wait_for()
    panel.get_by_alt_text("Newest values: ").first.wait_for()
    panel.get_by_alt_text("After").first.wait_for()
    page.keep()
    panel.get_by_role("button", name="Stop it").click()
    panel.get_by_text("saves and stops").wait_for()
    panel.get_by_text("clicked: stopped, step").wait_for()
    assert checkpoints(project / "runs/clicked")
    shutil.rmtree(project / "runs/clicked")
