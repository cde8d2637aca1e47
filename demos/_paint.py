"""What tabs that take an image share: the upload, a mask, drawings to try, what became of it."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from sdstoolkit import images
from sdstoolkit.demos import _pictures
from sdstoolkit.demos._guard import read_upload, spoken
from sdstoolkit.demos._site import Site
from sdstoolkit.toy import data

__all__ = ["SCENES", "compared", "drawing", "drawn", "editor", "painted", "upload"]

SHOWN = 512  # pixels of the side of what is painted on
BRUSH = "#12b5cb"
SCENES = (  # shape, colour, background
    ("heart", "red", "white"),
    ("star", "yellow", "blue"),
    ("circle", "green", "black"),
)


def drawing(shape: str, colour: str, background: str) -> tuple[Tensor, str]:
    """A drawing of one large object in the middle, [1, 3, 64, 64] in [0, 1], and its caption."""
    rng = torch.Generator().manual_seed(0)
    scenes = data.draw_scenes(1, rng, pairs=0.0, degraded=0.0)
    places = {"shape": data.SHAPES, "colour": data.COLOUR_NAMES, "background": data.COLOUR_NAMES}
    wanted = {"shape": shape, "colour": colour, "background": background}
    parts = {f.name: getattr(scenes, f.name).clone() for f in fields(data.Scenes)}
    for key, names in places.items():
        parts[key][...] = names.index(wanted[key])
    parts["centre"][...], parts["radius"][...] = 32.0, 20.0
    parts["size"][...] = data.SIZES.index("large")
    caption = f"a {colour} {shape} on a {background} background"
    return data.render(data.Scenes(**parts), rng), caption


def drawn(folder: Path) -> list[tuple[str, str, str]]:
    """The drawings of `SCENES` as files: path, caption, and a short name."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for scene in SCENES:
        picture, caption = drawing(*scene)
        path = images.write_image(folder / f"{'-'.join(scene)}.png", picture)
        found.append((str(path), caption, f"{scene[1]} {scene[0]}"))
    return found


def painted(value: Any, size: tuple[int, int]) -> Tensor | None:
    """What was painted, as shares in [0, 1], [1, 1, h, w]; None where nothing was."""
    layers = (value or {}).get("layers") or []
    alpha = None
    for layer in layers:
        drawn = torch.frombuffer(bytearray(layer.getchannel("A").tobytes()), dtype=torch.uint8)
        seen = (drawn.reshape(1, 1, layer.height, layer.width) > 127).float()
        alpha = seen if alpha is None else torch.maximum(alpha, seen)
    if alpha is None or not alpha.any():
        return None
    return torch.nn.functional.interpolate(alpha, size, mode="area")


def compared() -> tuple[gr.ImageSlider, gr.Image, gr.Markdown, gr.DownloadButton]:
    """What became of an image: beside the one that was given, alone, in words, and to take."""
    pair = gr.ImageSlider(
        label="Before and after: pull the handle", format="png", interactive=False,
        height=420, max_height=420, elem_classes="pixelated",
    )  # fmt: skip
    after = gr.Image(
        label="After", format="png", interactive=False, height=220,
        elem_classes="pixelated", buttons=["download", "fullscreen"],
    )  # fmt: skip
    status = gr.Markdown("Upload an image, or take an example.", elem_classes="said")
    return pair, after, status, gr.DownloadButton("Download the results", size="md")


def upload(name: str) -> gr.Image:
    """Where an image comes in."""
    return gr.Image(
        label="Image", type="filepath", image_mode=None, format="png", height=240,
        sources=["upload", "clipboard"], elem_id=name, elem_classes="pixelated",
    )  # fmt: skip


def editor(site: Site, name: str, image: gr.Image, fit: gr.Checkbox, model: Any) -> gr.ImageEditor:
    """A mask to paint, on the image that was uploaded."""
    mask = gr.ImageEditor(
        label="Mask", type="pil", format="png", sources=(), transforms=(), layers=False,
        canvas_size=(SHOWN, SHOWN), fixed_canvas=True, height=420, elem_id=name, buttons=[],
        elem_classes="painted",
        brush=gr.Brush(
            default_size=48, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"
        ),
    )  # fmt: skip

    def ground(path: Any, fitted: Any, model: Any) -> Any:
        """The uploaded image as what is painted on, enlarged."""
        if path is None:
            return None
        image = read_upload(path, site.prior(model).size, fit=bool(fitted))
        return _pictures.picture(image).resize((SHOWN, SHOWN), 0).convert("RGBA")

    gr.on(
        [image.change, fit.change], spoken(ground), [image, fit, model], mask,
        api_visibility="private", show_progress="hidden", queue=False,
    )  # fmt: skip
    return mask
