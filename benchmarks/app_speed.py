"""How quickly the app answers: `python benchmarks/app_speed.py`.

Starts `osteon app` cold on this project and measures, from outside:
    up              from the command to its line "Osteon is at ..."
    first page      of HTML and its configuration, once it is up
    first preview   of the first picture by models/sd2-mini, from the request on, by a visitor who
                    first reads the page for 15 s, in which the libraries and this model are loaded
    next preview    of the second picture
    at once         the first preview of a second server, asked for as soon as that is up
    requests        100 from 20 clients at once: seconds, and how many were lost or crossed
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client

from core.files import write_json
from core.images import png_text

ROOT = Path(__file__).resolve().parents[1]
MODEL = "models/sd2-mini"
READING = 15  # seconds


@contextmanager
def server(port: int) -> Iterator[tuple[str, float]]:
    """A fresh process; yields its address and the seconds until it was up."""
    began = time.monotonic()
    command = [sys.executable, "-m", "core.cli", "app", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout or ():
            if found := re.search(r"http://\S+", line):
                yield found[0], time.monotonic() - began
                break
    finally:
        process.terminate()
        process.wait()


def submit(client: Client, seed: int, steps: int) -> Any:
    return client.submit(
        model=MODEL, prompt=f"picture {seed}", negative="", seed=seed, count=1, steps=steps,
        guidance=4.0, lora_scale=1.0, api_name="/playground",
    )  # fmt: skip


def first_preview(client: Client, seed: int) -> float:
    """Seconds until an unfinished picture arrives."""
    began = time.monotonic()
    job = submit(client, seed, 25)
    for answer in job:
        if isinstance(answer[4], str) and answer[4].startswith("<img"):
            seconds = time.monotonic() - began
            job.result()
            return seconds
    raise RuntimeError("no preview came")


def crowd(address: str, clients: int, each: int) -> dict[str, float]:
    """Everyone asks at once; every answer must be the seed that was asked for."""
    began = time.monotonic()
    visitors = [Client(address, verbose=False) for _ in range(clients)]
    jobs = {each * k + n: submit(v, each * k + n, 2) for n in range(each)
            for k, v in enumerate(visitors)}  # fmt: skip
    lost = crossed = 0
    for seed, job in jobs.items():
        try:
            job.result()
            gallery = next(a[0] for a in reversed(job.outputs()) if isinstance(a[0], list))
            facts = json.loads(png_text(Path(gallery[0]["image"]))["osteon"])
            crossed += facts["seed"] != seed or facts["prompt"] != f"picture {seed}"
        except Exception as error:
            print(f"lost: seed {seed}: {error}", file=sys.stderr)
            lost += 1
    seconds = time.monotonic() - began
    return {"requests": len(jobs), "seconds": seconds, "lost": lost, "crossed": crossed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7871)
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    given = parser.parse_args()
    with server(given.port) as (address, up):
        began = time.monotonic()
        for place in ("", "config"):
            httpx.get(address + place, timeout=None).raise_for_status()
        page = time.monotonic() - began
        time.sleep(READING)
        client = Client(address, verbose=False)
        previews = [first_preview(client, seed) for seed in (0, 1)]
        found = {"up": up, "first page": page, "first preview": previews[0]}
        found |= {"next preview": previews[1], **crowd(address, 20, 5)}
    with server(given.port) as (address, _):
        found["at once"] = first_preview(Client(address, verbose=False), 0)
    for name, value in found.items():
        print(f"{name:14} {value:8.2f}")
    if given.out:
        write_json(given.out, found | {"cores": os.cpu_count()})


if __name__ == "__main__":
    main()
