"""Models: what a folder or a name holds, and what it takes."""

from typing import Any

import gradio as gr

from sdstoolkit.demos import _pictures
from sdstoolkit.demos._guard import spoken
from sdstoolkit.demos._site import DEVICE, Site
from sdstoolkit.prior import Prior

TITLE, PLACE = "Models", 9


def facts(prior: Prior) -> list[tuple[str, str]]:
    """What there is to say of a model, name and value."""
    said = prior.score.describe()
    networks = {"score": prior.score, "codec": prior.codec, "text": prior.text}
    counts = {name: _parameters(network) for name, network in networks.items()}
    total = sum(counts.values())
    h, w = prior.size
    rows = [("family", str(said["name"]))]
    rows += [(key, _flat(value)) for key, value in said.items() if key not in ("name", "shape")]
    rows += [
        ("image", f"{w} x {h} pixels, {prior.codec.image_channels} channels"),
        ("x_0", f"{' x '.join(map(str, prior.score.shape))}, by {type(prior.codec).__name__}"),
        ("takes", "a prompt" if prior.text is not None else "no prompt"),
    ]
    rows += [(f"parameters, {name}", f"{n:,}") for name, n in counts.items() if n]
    rows += [
        ("weights in memory", f"{_size(4 * total)} in float32, {_size(2 * total)} in bfloat16")
    ]
    return rows


def _parameters(network: Any) -> int:
    """Of a module, or of the modules that a text encoder holds."""
    from torch import nn

    modules = [network] if isinstance(network, nn.Module) else []
    modules = modules or [v for v in vars(network or object).values() if isinstance(v, nn.Module)]
    return sum(p.numel() for module in modules for p in module.parameters())


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " to ".join(map(_flat, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def build(site: Site) -> None:
    """The tab."""
    with gr.Row():
        name = gr.Dropdown(
            list(site.models), value=site.models[0], label="Model", scale=4,
            info=_takes(site), allow_custom_value=site.free, elem_id="model-name",
        )  # fmt: skip
        look = gr.Button("Look", variant="primary", scale=1, min_width=120, elem_id="look")
    table = gr.HTML(elem_id="facts", padding=True)

    def info(model: str) -> str:
        return _pictures.lines(facts(site.prior(model)))

    look.click(
        spoken(info), name, table, api_name="info", concurrency_limit=site.jobs,
        concurrency_id=DEVICE,
    )  # fmt: skip


def _takes(site: Site) -> str:
    more = ["a folder of this machine"] if site.allow_folders else []
    more += ["OWNER/NAME of the hub"] if site.allow_hub else []
    return f"A name from the list{', or ' + ', or '.join(more) if more else ''}."
