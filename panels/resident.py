"""The one model in memory: loaded when asked for, kept while it is used, freed for the next.

LoRA runs on one base share it: going from one to another switches adapters and loads nothing else.
"""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.families import Sampler, load_sampler, switch_sampler
from core.runs import kept_weights


class Resident:
    """At most one loaded sampler, lent to one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sampler: Sampler | None = None
        self._key: tuple[Path, list[float]] | None = None

    def holds(self, folder: Path) -> bool:
        """Whether `folder`'s weights are in memory as they are on the disk."""
        return self._key == (folder, _written(folder))

    @contextmanager
    def use(self, folder: Path) -> Iterator[Sampler]:
        """Lend the sampler of `folder`; weights written since it was loaded are loaded anew.

        Raises UserError for a run without weights, or with damaged ones.
        """
        with self._lock:
            if self._sampler is None or not self.holds(folder):
                self._take(folder)
            assert self._sampler is not None
            yield self._sampler

    def _take(self, folder: Path) -> None:
        from core.device import pick_device  # torch: on the first picture, not at the start

        before, self._sampler, self._key = self._sampler, None, None
        taken = switch_sampler(before, folder) if before is not None else None
        if taken is None:
            del before
            self.free()
            taken = load_sampler(folder, pick_device())
        self._sampler, self._key = taken, (folder, _written(folder))

    def free(self) -> None:
        """Give the memory back."""
        self._sampler = None
        self._key = None
        gc.collect()  # pipelines hold themselves in cycles
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _written(folder: Path) -> list[float]:
    """When the files of the weights were written: of a run's newest, its best, those of a step."""
    places = list(kept_weights(folder).values()) or [folder]
    return [f.stat().st_mtime for place in places for f in sorted(place.rglob("*.safetensors"))]
