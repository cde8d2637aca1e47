"""The app: a page with a tab a job, on this machine or for a few others.

    python demos/app.py          sds demo

The page needs no network: its fonts are the system's, its scripts come from this process, nothing
is counted and nothing is shared. It listens on 127.0.0.1; another address needs `--auth`. Runs
wait in one queue, first come, first served, `--jobs` at a time and one a page; closing a page
stops its run and drops what it made.
"""

import importlib
import importlib.util
import ipaddress
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdstoolkit import _plugins

if TYPE_CHECKING:
    import gradio as gr

    from sdstoolkit.demos._site import Site
    from sdstoolkit.pipelines.demo import Options

TABS = "sdstoolkit.demos"
WAITING = 64  # runs that may wait
SECONDS = (600, 3600)  # how often gradio's own files are looked at, and how old they grow


def serve(options: "Options", *, wait: bool = True) -> Any:
    """Start the app; come back when it is ended by Ctrl-C or SIGTERM.

    Args:
        options: Of `sds demo`.
        wait: Whether to wait for that; else come back with the page and its address.

    Raises:
        ValueError: An address that needs a password and has none, or gradio is not installed.
    """
    auth = _auth(options.auth)
    local = _is_loopback(options.host)
    if (not local or options.share) and auth is None:
        who = "a share link" if options.share else f"--host {options.host}"
        raise ValueError(
            f"{who} lets others in, expected --auth USER:PASSWORD with it, or --host 127.0.0.1"
        )
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the app needs gradio: pip install 'sdstoolkit[demos]'")
    home = tempfile.TemporaryDirectory(prefix="sds-demo-")
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ["TQDM_DISABLE"] = "1"  # of the networks that users train; the page shows its own
    os.environ["GRADIO_TEMP_DIR"] = str(Path(home.name) / "cache")
    if not options.allow_hub:
        os.environ["HF_HUB_OFFLINE"] = "1"
    print("loading ...", flush=True)
    from starlette.middleware import Middleware

    from sdstoolkit.demos import _guard
    from sdstoolkit.demos._site import Site

    _guard.limit_decoders()
    site = Site(
        Path(home.name),
        models=options.models,
        allow_hub=options.allow_hub,
        allow_folders=local and not options.share,
        device=options.device,
        jobs=options.jobs,
    )
    site.prior(site.models[0])
    page = build(site)
    try:
        _, address, shared = page.launch(
            server_name=options.host,
            server_port=options.port or _free_port(options.host),
            auth=auth,
            share=options.share,
            inbrowser=options.browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            max_file_size=_guard.MOST_BYTES,
            state_session_capacity=256,
            footer_links=["settings"],
            app_kwargs={
                "middleware": [Middleware(_guard.LimitBody, most=2 * _guard.MOST_BYTES)]
            },
            theme=theme(),
            css_paths=Path(__file__).with_name("style.css"),
        )
    except OSError as error:
        home.cleanup()
        raise ValueError(f"{error}; choose another --port") from None
    page.home = home
    print(f"listening on {shared or address}", flush=True)
    if not wait:
        return page, address
    _wait()
    page.close(verbose=False)
    home.cleanup()
    return 0


def build(site: "Site") -> "gr.Blocks":
    """The page, not served yet; one tab a file of this folder."""
    import gradio as gr

    from sdstoolkit.demos._guard import guard

    tabs = [importlib.import_module(f"{TABS}.{name}") for name in _plugins.names(TABS)]
    with gr.Blocks(
        title="sdstoolkit", analytics_enabled=False, delete_cache=SECONDS, fill_width=False
    ) as page:
        gr.HTML(
            "<h1><span>sdstoolkit</span></h1><p>Score distillation and guidance on pretrained "
            "diffusion models.</p>",
            elem_id="head",
            padding=False,
        )
        with gr.Tabs():
            for tab in sorted(tabs, key=lambda tab: tab.PLACE):
                with gr.Tab(tab.TITLE):
                    tab.build(site)

        def forget(request: gr.Request) -> None:
            site.runs.forget(request)

        page.unload(forget)
    guard(page)
    page.queue(max_size=WAITING, default_concurrency_limit=site.jobs, api_open=False)
    return page


def theme() -> Any:
    """Colours and the system's own fonts."""
    import gradio as gr

    return gr.themes.Soft(
        primary_hue="violet",
        secondary_hue="violet",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_label_background_fill="*background_fill_primary",
        block_label_background_fill_dark="*background_fill_primary",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_padding="0",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="500",
    )


def _wait() -> None:
    """Until Ctrl-C or SIGTERM."""
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        while not over.wait(0.5):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.bind((host, 0))
        return int(listening.getsockname()[1])


def _auth(given: str | None) -> tuple[str, str] | None:
    """A user and a password of `user:password`, or of a file that holds them, `@FILE`."""
    if given is None:
        return None
    if given.startswith("@"):
        given = Path(given[1:]).read_text(encoding="utf-8").strip()
    user, colon, password = given.partition(":")
    if not user or not colon or not password:
        raise ValueError("--auth could not be read, expected USER:PASSWORD or @FILE with that")
    return user, password


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    from sdstoolkit.cli import launch
    from sdstoolkit.pipelines.demo import Options, run

    raise SystemExit(launch(Options, run, verb="demo"))
