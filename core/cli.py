"""`osteon`: one thin table of verbs. Loads no torch; a verb's module is loaded when used."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

from core.errors import EXIT_INTERRUPTED, UserError, command
from core.families import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "phantoms": "chest X-rays and a bestiary, drawn from a seed",
    "folder": "any folder of images, with or without captions",
    "nih": "ChestX-ray14 as downloaded, or any part of it",
    "dicom": "radiographs as DICOM files, stripped of their headers",
}
ASKED = ("-h", "--help", "help")
HELP = f"""osteon: fine-tune diffusion models on small image sets, and say what they are worth.

  osteon prepare SOURCE ...                   raw images -> data/<set>/
  osteon train FAMILY --config F              a prepared set -> runs/<name>/
  osteon generate --run R --seeds 0-99        a run -> runs/<name>/samples/<set>/
  osteon latent VERB --run R ...              between, through and among a GAN's or VAE's images
  osteon style --config F --content A ...     one picture in the style of another
  osteon compare --real D --fake R ... --out  samples -> reports/<name>/report.html
  osteon sweep --run R --vary NAME=A,B,C ...  one setting over several values -> a report
  osteon folds FAMILY --config F ...          every picture held out once, where there are few
  osteon export --run R                       a run -> LoRA for webui, merged pipeline, model card
  osteon app                                  the playground, on 127.0.0.1
  osteon demo                                 all of it, small, in ten minutes on two cores
  osteon doctor [DATA]                        what is installed, or wrong with a set; what to do

SOURCE is {", ".join(SOURCES)}; FAMILY is {", ".join(FAMILIES)}.
Each has --help: osteon train vae --help"""
MODULES = {
    "generate": "core.generate",
    "latent": "core.explore",
    "style": "style.transfer",
    "compare": "compare.score",
    "sweep": "compare.sweep",
    "folds": "compare.folds",
    "export": "finetune.export",
    "app": "app",
    "demo": "core.demo",
    "doctor": "core.doctor",
}


@command
def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ASKED:
        print(HELP)
        return
    verb, rest = words[0], words[1:]
    if verb in ("prepare", "train") and rest and rest[0] in ASKED:
        print(_choices(verb))
    elif verb == "train":
        _train(rest)
    elif verb == "prepare":
        if not rest or rest[0] not in SOURCES:
            raise UserError(f"osteon prepare needs one of: {', '.join(SOURCES)}.")
        _run_module(f"prepare.{rest[0]}", f"osteon prepare {rest[0]}", rest[1:])
    elif verb in MODULES:
        _run_module(MODULES[verb], f"osteon {verb}", rest)
    else:
        raise UserError(f"osteon knows no '{verb}'; `osteon --help` lists the verbs.")


def _choices(verb: str) -> str:
    """Help of a verb that is nothing without a source or family: one line for each."""
    titles = {name: family.title for name, family in FAMILIES.items()}
    choices, what = (SOURCES, "SOURCE") if verb == "prepare" else (titles, "FAMILY")
    lines = [f"  osteon {verb} {name:12}{title}" for name, title in choices.items()]
    usage = f"usage: osteon {verb} {what} ..."
    example = f"Each has --help: osteon {verb} {next(iter(choices))} --help"
    return "\n".join([usage, "", *lines, "", example])


def _run_module(module: str, name: str, rest: list[str]) -> None:
    sys.argv = [name, *rest]
    runpy.run_module(module, run_name="__main__")


def _train(rest: list[str]) -> None:
    """Start the family's trainer. With an Accelerate configuration at hand (`--config_file F`, or
    the one `accelerate config` wrote) through `accelerate launch`; else in one process."""
    if not rest or rest[0] not in FAMILIES:
        raise UserError(f"osteon train needs one of: {', '.join(FAMILIES)}.")
    script = str(ROOT / FAMILIES[rest[0]].script)
    words = rest[1:]
    default = (
        Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
        / "accelerate/default_config.yaml"
    )
    configured: list[str] = []
    if "--config_file" in words:
        place = words.index("--config_file")
        configured = words[place : place + 2]
        del words[place : place + 2]
    elif not default.exists():
        sys.argv = [script, *words]
        runpy.run_path(script, run_name="__main__")
        return
    _launch([*configured, script, *words])


def _launch(words: list[str]) -> None:
    """`accelerate launch`; not its stack traces, as the trainer has said what was wrong."""
    from accelerate.commands.launch import main as launch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    signal.signal(signal.SIGINT, lambda *_: None)  # the trainer hears it too: it saves and leaves
    sys.argv = ["accelerate launch", *words]
    code = 0
    try:
        launch()
    except subprocess.CalledProcessError as error:
        code = error.returncode
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
    except SignalException:
        code = EXIT_INTERRUPTED
    sys.exit(code if code >= 0 else 128 - code)  # by a signal, as shells report it


if __name__ == "__main__":
    main()
