"""Open the app in a browser: optimise, edit, denoise, restore, look at scores and at models.

  sds demo
  sds demo --host 0.0.0.0 --auth ada:secret --models shapes /models/sdxl

The page needs no network: no font, no script and no counter from elsewhere. Ctrl-C ends it. It
needs the extra `demos`: pip install "sdstoolkit[demos]".
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import tyro

from sdstoolkit.cli import Range, launch

Switch = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help_behavior_hint="(default: False)"),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds demo` takes, with its defaults."""

    host: str = "127.0.0.1"
    """The address to listen on; any but this machine's own needs --auth."""
    port: Annotated[int, Range(low=0, high=65535)] = 7860
    """The port: 0 to 65535; 0 takes a free one."""
    auth: Annotated[str | None, tyro.conf.arg(metavar="USER:PASSWORD")] = None
    """Who may come in; @FILE reads it from a file, so that it is in no list of processes."""
    models: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: none)")
    ] = ()
    """Models to offer beside the bundled ones: folders, or names of the hub."""
    allow_hub: Switch = False
    """Let users name any model of the Hugging Face hub, which is then downloaded."""
    jobs: Annotated[int, Range(low=1)] = 2
    """Runs that are computed at once: 1 or more; the others wait."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU if there is one."""
    browser: Switch = False
    """Open a browser."""
    share: Switch = False
    """Ask gradio for a public link to this machine; needs --auth."""


def run(options: Options) -> int:
    """Serve until Ctrl-C."""
    return int(import_module("sdstoolkit.demos.app").serve(options))


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
