"""Files keep the pixels they were given, and what cannot be kept is refused by name."""

import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from sdstoolkit._files import write_atomically
from sdstoolkit.images import (
    grid,
    read_image,
    strip,
    write_animation,
    write_image,
)


def levels(c: int) -> torch.Tensor:
    """An image [1, c, 16, 16] in which every one of the 256 levels appears."""
    ramp = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16) / 255
    return torch.cat([ramp.roll(17 * k, dims=-1) for k in range(c)], dim=1)


@pytest.mark.parametrize(("mode", "c"), [("RGB", 3), ("L", 1)])
def test_round_trip_is_exact(tmp_path, mode, c):
    path = write_image(tmp_path / "a.png", levels(c))
    image = read_image(path, mode=mode)
    assert image.dtype == torch.float32 and image.shape == (1, c, 16, 16)
    assert torch.equal(image, levels(c))


def test_jpeg_is_close(tmp_path):
    smooth = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    image = read_image(write_image(tmp_path / "a.jpg", smooth))
    assert (image - smooth).abs().max() < 3 / 255


def test_values_are_rounded_and_clipped(tmp_path):
    row = torch.tensor([-0.2, 0.49 / 255, 0.51 / 255, 1.3]).expand(1, 1, 1, 4)
    image = read_image(write_image(tmp_path / "a.png", row), mode="L")
    assert (image * 255).tolist() == [[[[0.0, 0.0, 1.0, 255.0]]]]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64], ids=["bf16", "f16", "f64"]
)
def test_every_float_type_with_its_graph(tmp_path, dtype):
    image = torch.full((3, 4, 4), 0.5, dtype=dtype, requires_grad=True)
    written = read_image(write_image(tmp_path / "a.png", image))
    assert (written * 255).unique().tolist() == [128.0]


def test_palette_and_bilevel_are_other_ways_to_store_the_same(tmp_path):
    pixels = Image.fromarray(np.array([[0, 200], [90, 255]], dtype=np.uint8)).convert("RGB")
    pixels.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    expected = torch.tensor([[0.0, 200], [90, 255]]).expand(1, 3, 2, 2) / 255
    assert torch.equal(read_image(tmp_path / "p.png"), expected)
    Image.new("1", (2, 2), 1).save(tmp_path / "1.png")
    assert torch.equal(read_image(tmp_path / "1.png", mode="L"), torch.ones(1, 1, 2, 2))


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    picture = Image.new("RGB", (4, 2))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (1, 3, 4, 2)


def refused(path, match, **options):
    with pytest.raises(ValueError, match=match) as caught:
        read_image(path, **options)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "match"),
    [
        ("RGBA", "transparency .mode RGBA., expected RGB"),
        ("LA", "transparency"),
        ("L", "mode L, expected RGB.*mode='L'"),
        ("I;16", "16 bits a channel"),
        ("F", "mode F"),
        ("CMYK", "mode CMYK"),
        ("LAB", "mode LAB"),
    ],
)
def test_modes_that_would_lose_something(tmp_path, mode, match):
    path = tmp_path / ("a.tiff" if mode in ("F", "CMYK", "LAB") else "a.png")
    Image.new(mode, (4, 4)).save(path)
    refused(path, match)


def test_what_is_lost_may_be_asked_for(tmp_path):
    """Transparency on white, 16 bits scaled, other colours as pillow has them; 32 bits never."""
    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 4), (255, 0, 0, 51)).save(path)
    pink = torch.tensor([1.0, 0.8, 0.8]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.allclose(read_image(path, convert=True), pink, atol=1 / 255)
    Image.new("I;16", (4, 4), 257 * 100).save(path)
    assert torch.equal(read_image(path, convert=True), torch.full((1, 3, 4, 4), 100 / 255))
    Image.new("L", (4, 4), 7).save(path)
    assert torch.equal(read_image(path, convert=True), torch.full((1, 3, 4, 4), 7 / 255))
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.tiff")
    assert torch.equal(read_image(tmp_path / "a.tiff", convert=True), torch.ones(1, 3, 4, 4))
    Image.new("P", (4, 4)).save(path, transparency=0)
    assert torch.equal(read_image(path, mode="L", convert=True), torch.ones(1, 1, 4, 4))
    Image.new("F", (4, 4)).save(tmp_path / "a.tiff")
    refused(tmp_path / "a.tiff", "32 bits a channel .mode F", convert=True)


def test_colour_is_not_grey(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "mode RGB, expected L", mode="L")


def test_a_transparent_palette(tmp_path):
    Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=0)
    refused(tmp_path / "a.png", "transparency")


def test_deep_colour_is_not_cut_to_8_bits(tmp_path):
    """Pillow itself opens 16-bit colour as 8-bit without a word."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(12) for _ in range(2))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    refused(tmp_path / "deep.png", "16 bits a channel")


def test_several_frames(tmp_path):
    write_animation(tmp_path / "a.gif", [torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    refused(tmp_path / "a.gif", "holds 2 frames")


def test_files_that_are_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    refused(tmp_path / "a.png", "not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "not an image")
    write_image(tmp_path / "cut.png", torch.rand(3, 64, 64))
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut.png", "could not be read")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "is a folder")
    with pytest.raises(FileNotFoundError, match=r"no image file .*none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="mode 'CMYK' is not known"):
        read_image(tmp_path / "cut.png", mode="CMYK")


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (torch.zeros(2, 3, 4, 4), "one image"),
        (torch.zeros(4, 4), "one image"),
        (torch.zeros(2, 4, 4), "1 or 3 channels"),
        (torch.zeros(3, 0, 4), "one image"),
        (torch.full((3, 4, 4), float("nan")), "not finite"),
        (torch.full((3, 4, 4), float("inf")), "not finite"),
    ],
)
def test_what_is_no_image_is_not_written(tmp_path, image, match):
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(ValueError, match=match):
        write_image(tmp_path / "a.png", image)
    assert (tmp_path / "a.png").read_text() == "mine"
    assert os.listdir(tmp_path) == ["a.png"]


def test_where_to_write(tmp_path):
    with pytest.raises(ValueError, match=r"'a\.bmp2'.*\.png"):
        write_image(tmp_path / "a.bmp2", torch.zeros(3, 4, 4))
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        write_image(tmp_path / "nowhere" / "a.png", torch.zeros(3, 4, 4))


def test_a_reader_never_meets_half_a_file(tmp_path):
    path = tmp_path / "a.bin"
    contents = [bytes([k]) * 200_000 for k in range(2)]
    write_atomically(path, contents[0])
    done = threading.Event()

    def write() -> None:
        for k in range(50):
            write_atomically(path, contents[k % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    writer.join()
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "a.bin", b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_grid():
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 2, 3) / 10
    out = grid(images, pad=1)
    assert out.shape == (1, 1, 2 * 3 + 1, 3 * 4 + 1)
    assert torch.allclose(out[0, 0, 1, 1::4], torch.tensor([0.0, 0.1, 0.2]))
    assert torch.allclose(out[0, 0, 4, 1::4], torch.tensor([0.3, 0.4, 1.0]))  # white where none is
    assert (out[..., 0] == 1).all() and (out[..., 0, :] == 1).all()
    assert torch.equal(grid(images, columns=1, pad=0), images.reshape(1, 1, 10, 3))
    assert torch.equal(grid(images[:1], pad=0), images[:1])


def test_strip():
    frames = [torch.full((2, 3, 2, 2), k / 10) for k in range(4)]
    out = strip(frames, pad=0)
    assert out.shape == (1, 3, 4, 8)
    assert torch.allclose(out[0, 0, 3, ::2], torch.arange(4) / 10)


def test_layouts_of_nothing():
    with pytest.raises(ValueError, match="no images"):
        grid(torch.zeros(0, 3, 4, 4))
    with pytest.raises(ValueError, match="columns is 0"):
        grid(torch.zeros(1, 3, 4, 4), columns=0)
    with pytest.raises(ValueError, match="pad is -1"):
        grid(torch.zeros(1, 3, 4, 4), pad=-1)
    with pytest.raises(ValueError, match="no frames"):
        strip([])
    with pytest.raises(ValueError, match="differ in shape"):
        strip([torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4)])


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animation(tmp_path, suffix):
    frames = [torch.full((1, 3, 8, 8), k / 4) for k in range(5)]
    path = write_animation(tmp_path / f"a{suffix}", frames, fps=20)
    with Image.open(path) as film:
        assert film.n_frames == 5
        durations, shades = [], []
        for k in range(5):
            film.seek(k)
            film.load()
            durations.append(film.info["duration"])
            shades.append(film.convert("RGB").getpixel((3, 3))[0])
    assert durations == [50] * 5
    assert shades == [0, 64, 128, 191, 255]


def test_animations_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="no frames"):
        write_animation(tmp_path / "a.gif", [])
    with pytest.raises(ValueError, match="fps is 0"):
        write_animation(tmp_path / "a.gif", [torch.zeros(3, 4, 4)], fps=0)
    with pytest.raises(ValueError, match="differ in shape"):
        write_animation(tmp_path / "a.gif", [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)])
    with pytest.raises(ValueError, match="suffix"):
        write_animation(tmp_path / "a.mp4", [torch.zeros(3, 4, 4)])
    assert os.listdir(tmp_path) == []
