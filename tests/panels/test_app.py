"""The app as its visitors meet it: a real server, its named endpoints, what it serves."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageChops

from app import EMBEDDED, build, launch, main, rouse, warm
from core.errors import UserError
from core.families import load_sampler
from core.generate import SETTINGS_KEY
from core.images import MAX_PIXELS, png_text
from panels.serving import go_straight
from panels.workbench import Workbench

ROOT = Path(__file__).resolve().parents[2]
FEW = {"steps": 3, "guidance": 4.0, "lora_scale": 1.0}


def ask(client: Client, **changes: Any) -> list[Any]:
    """All answers of /playground, the last one last."""
    asked = {"model": "runs/tuned", "prompt": "a ramp", "negative": "", "seed": 5, "count": 1}
    job = client.submit(**asked | FEW | changes, api_name="/playground")
    job.result(timeout=300)
    return job.outputs()


def pictures(answers: list[Any]) -> list[Path]:
    """Files of the last answer that holds a gallery."""
    galleries = [answer[0] for answer in answers if isinstance(answer[0], list)]
    return [Path(item["image"]) for item in galleries[-1]]


def test_the_page_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import app;"
        "app.build(app.Workbench(Path(sys.argv[1])));"
        "print(sorted({'torch', 'diffusers', 'transformers', 'accelerate'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_with_nothing_trained_the_page_names_the_command(tmp_path: Path) -> None:
    page = build(Workbench(tmp_path))
    shown = [b for b in page.blocks.values() if isinstance(b, gr.HTML) and b.visible and b.value]
    notices = [b.value for b in shown if "make demo" in b.value]
    assert len(notices) == 3  # one a tab
    assert any("osteon train dreambooth --config" in notice for notice in notices)
    assert any("osteon compare --real" in notice for notice in notices)


def test_the_first_picture_finds_the_embedded_base_in_memory() -> None:
    bench = Workbench(ROOT)
    warm(bench)
    assert bench.resident.holds(ROOT / EMBEDDED)
    warm(Workbench(ROOT / "configs"))  # a project without it


def test_pictures_arrive_one_by_one_and_are_what_generate_draws(
    client: Client, project: Path
) -> None:
    answers = ask(client, count=2, negative="noise")
    counts = [len(answer[0]) for answer in answers if isinstance(answer[0], list)]
    assert list(dict.fromkeys(counts)) == [0, 1, 2]
    assert "2 pictures in" in answers[-1][1]
    sampler = load_sampler(project / "runs/tuned", "cpu")
    drawn = sampler([5, 6], ["a ramp"] * 2, steps=3, guidance=4.0, negative="noise")
    for seed, path, wanted in zip((5, 6), pictures(answers), drawn, strict=True):
        with Image.open(path) as image:
            assert image.format == "PNG"
            difference = ImageChops.difference(image, wanted).getextrema()
        assert max(high for _, high in difference) <= 1
        text = png_text(path)
        assert text["synthetic"].startswith("true")
        assert f'"seed": {seed}, "prompt": "a ramp", "run": "tuned"' in text[SETTINGS_KEY]
    facts = next(answer[3] for answer in answers if "osteon generate" in str(answer[3]))
    assert "--run runs/tuned --seeds 5 --prompt &#x27;a ramp&#x27; --steps 3" in facts
    assert list((project / "reports/playground/tuned").glob("000005-*.png"))


def test_an_empty_prompt_takes_the_models_own(client: Client) -> None:
    (path,) = pictures(ask(client, prompt="  "))
    assert '"prompt": "a ramp"' in png_text(path)[SETTINGS_KEY]
    assert "has no prompts of its own" in ask(client, model="models/tiny", prompt="")[-1][1]


def test_lora_scale_0_is_the_base_model(client: Client) -> None:
    (off,) = pictures(ask(client, lora_scale=0.0))
    (on,) = pictures(ask(client))
    (base,) = pictures(ask(client, model="models/tiny"))
    with Image.open(off) as a, Image.open(base) as b, Image.open(on) as c:
        assert ImageChops.difference(a, b).getbbox() is None
        assert ImageChops.difference(a, c).getbbox() is not None
    assert "lora_scale" not in png_text(base)[SETTINGS_KEY]


def test_another_scheduler_draws_what_generate_draws(client: Client, project: Path) -> None:
    found = {}
    for scheduler in ("euler", "ddim"):
        (path,) = pictures(ask(client, seed=6, scheduler=scheduler))
        assert f'"scheduler": "{scheduler}"' in png_text(path)[SETTINGS_KEY]
        with Image.open(path) as image:
            found[scheduler] = image.copy()
    assert found["euler"].tobytes() != found["ddim"].tobytes()
    sampler = load_sampler(project / "runs/tuned", "cpu")
    (wanted,) = sampler([6], ["a ramp"], steps=3, guidance=4.0, scheduler="euler")
    difference = ImageChops.difference(found["euler"], wanted).getextrema()
    assert max(high for _, high in difference) <= 1


def test_side_by_side_fills_a_row(client: Client, project: Path) -> None:
    row = {"base": "models/tiny", "tuned": "runs/tuned", "gan": "runs/chest-gan"}
    row["vae"] = "runs/small-vae"
    job = client.submit(
        prompt="", seed=5, **FEW, label="never", **row, outside="by-hand", others="",
        api_name="/side_by_side",
    )  # fmt: skip
    job.result(timeout=300)
    _, warning, *cells = next(a for a in reversed(job.outputs()) if isinstance(a[6], str))
    assert "Not for diagnosis" in warning  # the GAN's images are X-rays
    images, captions = cells[::2], cells[1::2]
    suffixes = [Path(path).suffix if path else None for path in images]
    assert suffixes == [".png"] * 5 + [None]
    assert "“a ramp”" in captions[0]  # no prompt given: the tuned model's, for all
    assert "seed 5" in captions[1]
    assert "Reads no prompt" in captions[2]
    assert "runs/small-vae" in captions[3]
    with Image.open(images[3]) as image:
        (wanted,) = load_sampler(project / "runs/small-vae", "cpu")([5], [""])
        assert image.tobytes() == wanted.tobytes()
    assert captions[5] == ""
    assert "from outside/by-hand" in captions[4]
    assert "4 of 4 drawn" in job.outputs()[-1][0]


def test_what_is_broken_gives_a_sentence(client: Client) -> None:
    status = ask(client, model="runs/broken")[-1][1]
    assert "runs/broken cannot be read" in status
    assert "Traceback" not in status
    row = {"base": "", "tuned": "", "gan": "runs/broken", "vae": "", "outside": ""}
    job = client.submit(**FEW, **row, api_name="/side_by_side")
    assert "0 of 1 drawn" in job.result(timeout=300)[0]
    assert any("runs/broken cannot be read" in str(answer[7]) for answer in job.outputs())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "../../etc"}, "There is no model &#x27;../../etc&#x27; here"),
        ({"model": "<script>"}, "&lt;script&gt;"),
        ({"model": None}, "Choose a model first."),
        ({"seed": -1}, "The seed must be a whole number"),
        ({"seed": None}, "The seed must be a whole number"),
        ({"count": 17}, "The number of images must lie from 1 to 16"),
        ({"steps": "many"}, "The number of steps must lie from 1 to 150"),
        ({"scheduler": "magic"}, "There is no scheduler &#x27;magic&#x27;"),
        ({"label": "perhaps"}, "not &#x27;perhaps&#x27;"),
        ({"lora_1": "runs/tuned", "scale_1": 3}, "The scale of runs/tuned must lie from 0 to 2"),
        ({"prompt": "x" * 1001}, "longer than 1000 characters"),
    ],
)
def test_a_bad_wish_gives_a_sentence(
    client: Client, changes: dict[str, Any], sentence: str
) -> None:
    (answer,) = ask(client, **changes)
    assert sentence in answer[1]
    assert f'data-field="{[*changes][-1]}"' in answer[1]


def test_prompts_are_shown_as_text(client: Client) -> None:
    answers = ask(client, prompt="<img src=x onerror=alert(1)>")
    facts = next(answer[3] for answer in answers if "osteon generate" in str(answer[3]))
    assert "<img" not in facts
    assert "&lt;img src=x" in facts


def test_stopping_keeps_what_is_done_and_frees_the_device(client: Client) -> None:
    job = client.submit("runs/tuned", "a ramp", "", 0, 16, 150, 4.0, 1.0, api_name="/playground")
    while not any(isinstance(a[0], list) and a[0] for a in job.outputs()):
        assert not job.done()
        time.sleep(0.05)
    job.cancel()
    done = len(pictures(job.outputs()))
    assert 1 <= done < 16
    began = time.monotonic()
    while any(thread.name == "osteon-drawing" for thread in threading.enumerate()):
        assert time.monotonic() - began < 20, "the model goes on drawing"
        time.sleep(0.05)
    assert len(pictures(ask(client))) == 1


def test_visitors_take_turns_and_get_their_own(address: str) -> None:
    clients = [Client(address, verbose=False) for _ in range(4)]
    jobs = [
        client.submit("runs/tuned", f"number {k}", "", k, 1, 2, 4.0, 1.0, api_name="/playground")
        for client in clients
        for k in (clients.index(client), clients.index(client) + 10)
    ]
    for job, seed in zip(jobs, [0, 10, 1, 11, 2, 12, 3, 13], strict=True):
        job.result(timeout=300)
        (path,) = pictures(job.outputs())
        assert (
            f'"seed": {seed}, "prompt": "number {seed % 10 if seed < 10 else seed}"'
            in (png_text(path)[SETTINGS_KEY])
        )


@pytest.mark.slow
def test_a_hundred_requests_of_twenty_clients_none_lost_none_crossed(address: str) -> None:
    patient = {"timeout": 60}  # of a hundred threads that share the server's own interpreter
    clients = [Client(address, verbose=False, httpx_kwargs=patient) for _ in range(20)]
    jobs = {
        (k, n): client.submit(
            "runs/tuned", f"{k} {n}", "", 10 * k + n, 1, 1, 4.0, 1.0, api_name="/playground"
        )
        for n in range(5)
        for k, client in enumerate(clients)
    }
    for (k, n), job in jobs.items():
        job.result(timeout=1800)
        (path,) = pictures(job.outputs())
        assert f'"seed": {10 * k + n}, "prompt": "{k} {n}"' in png_text(path)[SETTINGS_KEY]
    assert len(jobs) == 100


def test_a_report_opens_in_a_frame_that_cannot_touch_the_page(client: Client) -> None:
    assert client.predict(api_name="/reports") == ["first"]
    html = client.predict("first", api_name="/report")
    assert 'sandbox="allow-scripts allow-popups"' in html  # not allow-same-origin
    assert "Real against &amp;quot;fake&amp;quot;" in html
    assert "<h1>" not in html
    assert "There is no report" in client.predict("../../etc", api_name="/report")


def test_only_pictures_made_here_are_served(
    client: Client, address: str, project: Path, tmp_path: Path
) -> None:
    ask(client)
    made = project / "reports/playground"
    (picture, *_) = made.rglob("*.png")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    link = made / "link.png"
    link.symlink_to(secret)
    hidden = [project / ".env", made / ".env", made / ".kept/secret.png"]
    for file in hidden:
        file.parent.mkdir(exist_ok=True)
        file.write_text("secret")
    alias = tmp_path / "alias"
    alias.symlink_to(made)
    (made / "plain.txt").symlink_to(made / ".env")
    (made / ".linked.png").symlink_to(picture)

    def status(path: object) -> int:
        return httpx.get(f"{address}gradio_api/file={path}").status_code

    assert status(picture) == 200
    refused = [
        "/etc/passwd",
        *hidden,
        link,
        f"{made}/./.env",
        f"{made}/../first/report.html",
        f"{made}/%2e%2e/%2e%2e/.env",
        f"/proc/self/root{made}/.env",
        f"{alias}/.env",
        f"{alias}/.kept/secret.png",
        made / "plain.txt",
        made / ".linked.png",
        project / "runs/tuned/weights/pytorch_lora_weights.safetensors",
        project / "data/ramps/00.png",
        ROOT / "pyproject.toml",
    ]
    assert [status(path) for path in refused] == [403] * len(refused)
    assert httpx.get(f"{address}gradio_api/file/{made}/.env").status_code == 403  # its older name
    for file in (link, made / "plain.txt", made / ".linked.png"):
        file.unlink()


def test_an_upload_that_is_too_large_is_refused(
    client: Client, address: str, tmp_path: Path
) -> None:
    files = {"files": ("large.png", bytes(21 * 10**6))}
    answer = httpx.post(f"{address}gradio_api/upload", files=files)
    assert answer.status_code == 413
    assert "maximum allowed size" in answer.text
    broad = tmp_path / "broad.png"
    Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(broad)
    assert broad.stat().st_size < 10**6
    answers = client.submit(handle_file(broad), api_name="/replay")
    assert re.search(r"is over \d+ pixels|too many pixels", answers.result(timeout=60)[0])


def test_nothing_is_watched_or_remembered(address: str) -> None:
    config = httpx.get(f"{address}config").json()
    assert config["run_history"] is False
    assert config["analytics_enabled"] is False
    assert httpx.get(f"{address}monitoring").status_code in (403, 404)
    page = httpx.get(address).text
    assert "fonts.googleapis.com" not in page


def test_others_reach_it_only_with_a_password(project: Path) -> None:
    for given in ({"share": True}, {"host": "0.0.0.0"}):
        with pytest.raises(UserError, match="--user"):
            launch(project, port=None, **given)
    page, address = launch(project, port=None, auth=("ada", "lovelace"))
    try:
        (picture, *_) = [*(project / "reports/playground").rglob("*.png"), project]
        for place in ("config", "gradio_api/info", "openapi.json", "gradio_api/openapi.json"):
            assert httpx.get(f"{address}{place}").status_code in (401, 404), place
        assert httpx.get(f"{address}gradio_api/file={picture}").status_code == 401
        client = Client(address, auth=("ada", "lovelace"), verbose=False)
        assert "runs/tuned" in client.predict(api_name="/models")
    finally:
        page.close()


def test_behind_a_proxy_the_app_asks_itself_directly(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    page, address = launch(project, port=None)
    try:
        assert httpx.get(f"{address}config").is_success
    finally:
        page.close()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
    monkeypatch.setenv("no_proxy", "*")
    go_straight("127.0.0.1")
    assert os.environ["no_proxy"] == "*"


def test_a_server_that_does_not_answer_itself_is_waited_for_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rouse(f"http://127.0.0.1:{silent.getsockname()[1]}/", None)
        assert silent.accept()[0].recv(3) == b"GET"
    rouse("http://127.0.0.1:9/", None)


@pytest.mark.parametrize(
    ("error", "port", "sentence"),
    [
        (OSError("no tunnel today"), 7860, "could not start: no tunnel today"),
        (httpx.ProxyError("407 who are you?"), None, "could not start: 407"),
        (OSError("Cannot find empty port in range: 1-2"), None, "^No port is free, or 127.0.0.1"),
        (OSError("Cannot find empty port in range: 1-1"), 1, "^Port 1 of 127.0.0.1 is taken"),
    ],
)
def test_what_kept_the_server_from_starting_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, port: Any, sentence: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(gr.Blocks, "launch", fail)
    with pytest.raises(UserError, match=sentence):
        launch(project, port=port)


def test_the_command_says_what_is_wrong(
    address: str, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(project)
    port = address.rstrip("/").rpartition(":")[2]
    for words, sentence in (
        (["--port", port], f"Port {port} of 127.0.0.1 is taken"),
        (["--host", "203.0.113.1", "--user", "ada", "--password", "x"], "not this computer's"),
        (["--root", "nowhere"], "is not a folder"),
        (["--user", "ada"], "go together"),
        (["--password", "x"], "go together"),
        (["--share"], "--user NAME"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err
        assert "osteon-drawing" not in {thread.name for thread in threading.enumerate()}
