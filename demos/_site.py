"""What all tabs of a running app share: models, folders, and who is running what.

A run belongs to one page of one browser and to one tab. A page runs one thing at a time; more are
told so. How many run in all is the queue's to say (`app.serve`). What was made is kept until the
page is closed, or until so many newer runs need the room; nothing is kept in a file that somebody
else could name.
"""

import secrets
import shutil
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from sdstoolkit.adapters import load, names
from sdstoolkit.jobs import pick_device
from sdstoolkit.prior import Prior

__all__ = ["DEVICE", "Run", "Runs", "Site", "pack"]

DEVICE = "device"  # the queue that everything waits in that computes
MOST_RUNS = 64  # kept, of all users
MOST_KEPT = 256 * 2**20  # bytes kept in files, of all users
MOST_MODELS = 2  # in memory at once


@dataclass
class Run:
    """One thing that a page has started.

    Attributes:
        folder: Its own, for what it makes.
        halt: Set to ask it to come to an end.
        final: Whether that end is for good.
        live: What is needed to go on from where it was paused; None when it is over.
        busy: Whether it is being computed now.
    """

    folder: Path
    halt: threading.Event = field(default_factory=threading.Event)
    final: bool = False
    live: Any = None
    busy: bool = False


class Runs:
    """The runs of all pages, oldest first.

    Args:
        folder: Where their folders are made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: OrderedDict[tuple[str, str], Run] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, request: gr.Request, tab: str) -> Run | None:
        """The run of a page on a tab."""
        with self._lock:
            return self._runs.get((_page(request), tab))

    @contextmanager
    def working(self, request: gr.Request, tab: str, *, resume: bool = False) -> Iterator[Run]:
        """A run of a page on a tab, while it is computed; a new one unless it is resumed.

        Raises:
            ValueError: The page is running something, or there is nothing to resume.
        """
        page = _page(request)
        with self._lock:
            if any(run.busy for (whose, _), run in self._runs.items() if whose == page):
                raise ValueError("you are running something already: pause or stop it first")
            run = self._runs.get((page, tab))
            if resume and (run is None or run.live is None):
                raise ValueError("there is nothing to resume: run something first")
            if not resume or run is None:
                self._drop((page, tab))
                folder = self.folder / secrets.token_hex(16)
                folder.mkdir(parents=True)
                run = self._runs[page, tab] = Run(folder)
            self._runs.move_to_end((page, tab))
            run.busy, run.final = True, False
            run.halt.clear()
            self._make_room()
        try:
            yield run
        finally:
            run.busy = False
            if (page, tab) not in self._runs:  # the page was closed meanwhile
                shutil.rmtree(run.folder, ignore_errors=True)

    def halt(self, request: gr.Request, tab: str, *, final: bool) -> bool:
        """Ask the run of a page to end; False if there is none."""
        run = self.find(request, tab)
        if run is None or not (run.busy or (final and run.live)):
            return False
        run.final = final
        run.halt.set()
        return True

    def forget(self, request: gr.Request) -> None:
        """Drop what a page has made; it was closed."""
        with self._lock:
            for key in [key for key in self._runs if key[0] == _page(request)]:
                self._runs[key].halt.set()
                self._drop(key)

    def _make_room(self) -> None:
        sizes = {key: _size(run.folder) for key, run in self._runs.items()}
        for key in list(self._runs):
            if len(self._runs) <= MOST_RUNS and sum(sizes.values()) <= MOST_KEPT:
                return
            if not self._runs[key].busy:
                self._drop(key)
                del sizes[key]

    def _drop(self, key: tuple[str, str]) -> None:
        run = self._runs.pop(key, None)
        if run is not None and not run.busy:
            shutil.rmtree(run.folder, ignore_errors=True)


@dataclass
class Site:
    """A running app.

    Attributes:
        folder: Its own temporary folder; nothing is read or written elsewhere but models.
        models: Names that everybody may use.
        allow_hub: Whether names of hub repositories may be given.
        allow_folders: Whether folders of this machine may be given.
        device: Where to compute.
        jobs: How many runs are computed at once.
        runs: Who runs what.
    """

    folder: Path
    models: tuple[str, ...] = ()
    allow_hub: bool = False
    allow_folders: bool = False
    device: str = "auto"
    jobs: int = 2
    runs: Runs = field(init=False)

    def __post_init__(self) -> None:
        self.models = tuple(dict.fromkeys((*self.models, *names())))
        self.device = pick_device(self.device)
        self.runs = Runs(self.folder / "runs")
        self._loaded: OrderedDict[str, Prior] = OrderedDict()
        self._loading = threading.Lock()

    @property
    def free(self) -> bool:
        """Whether users may name models that are not among `models`."""
        return self.allow_hub or self.allow_folders

    def prior(self, name: object) -> Prior:
        """A model by name, loaded once and shared.

        Raises:
            ValueError: It may not be used here, or cannot be loaded.
        """
        name = self._allowed(name)
        found = self._loaded.get(name)  # whoever has a model does not wait for one that loads
        if found is not None:
            return found
        with self._loading:
            if name not in self._loaded:
                while len(self._loaded) >= MOST_MODELS:
                    self._loaded.popitem(last=False)
                self._loaded[name] = load(
                    name, device=self.device, local_files_only=not self.allow_hub
                )
            return self._loaded[name]

    def _allowed(self, name: object) -> str:
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"the model is {name!r}, expected a name")
        name = name.strip()
        if name in self.models:
            return name
        known = f"expected one of {', '.join(self.models)}"
        folder = Path(name).expanduser()
        if self.allow_folders and folder.is_dir():
            return name
        if self.allow_hub and not folder.is_absolute() and ".." not in folder.parts:
            return name
        if self.allow_folders:
            raise ValueError(
                f"there is no model folder {name!r} here, and names of the hub are off: {known}, "
                "a folder, or start the app with --allow-hub"
            )
        raise ValueError(f"the model {name!r} is not offered here, {known}")


def pack(run: Run, name: str) -> str:
    """Everything in the folder of a run as one zip file beside it; its path."""
    target = run.folder / f"{name}.zip"
    draft = run.folder / f".{name}.zip"
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(run.folder.rglob("*")):
            if file.is_file() and file.suffix != ".zip":
                packed.write(file, Path(name) / file.relative_to(run.folder))
    draft.replace(target)
    return str(target)


def _page(request: gr.Request) -> str:
    return request.session_hash or f"no page {id(request)}"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
