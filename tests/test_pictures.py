"""Images brought to a size, and compared."""

import math

import pytest
import tiny_models
import torch

from sdstoolkit import load, write_image
from sdstoolkit.pictures import (
    changes,
    compare,
    difference,
    fit,
    magnify,
    open_image,
    open_mask,
    psnr,
)


def ramp(h, w):
    """Brightness that rises from left to right by pixel centres."""
    return ((torch.arange(w) + 0.5) / w).expand(1, 3, h, w).contiguous()


def test_the_right_size_passes_as_it_is():
    image = ramp(6, 8)
    for how in ("exact", "crop", "pad"):
        assert fit(image, (6, 8), how) is image


def test_crop_keeps_the_middle_and_pad_keeps_all():
    image = ramp(8, 32)
    cropped, padded = fit(image, (8, 8), "crop"), fit(image, (8, 8), "pad")
    assert torch.allclose(cropped, image[..., 12:20], atol=1e-6)
    assert cropped.shape == padded.shape == (1, 3, 8, 8)
    assert torch.allclose(padded[0, 0, 3], (torch.arange(8) + 0.5) / 8, atol=0.02)
    assert torch.equal(padded[:, :, :3], padded[:, :, 3:4].expand(1, 3, 3, 8))
    half = fit(ramp(16, 16), (8, 8), "crop")
    assert torch.allclose(half[0, 0, 4, 1:-1], (torch.arange(1, 7) + 0.5) / 8, atol=1e-6)


def test_a_single_pixel_becomes_one_colour():
    dot = torch.tensor([0.2, 0.4, 0.6]).reshape(1, 3, 1, 1)
    for how in ("crop", "pad"):
        assert torch.allclose(fit(dot, (4, 6), how), dot.expand(1, 3, 4, 6), atol=1e-6)


@pytest.mark.parametrize(
    ("how", "match"),
    [("exact", "32 x 8 pixels, expected 8 x 8"), ("stretch", "expected exact, crop or pad")],
)
def test_sizes_that_are_refused(how, match):
    with pytest.raises(ValueError, match=match):
        fit(ramp(8, 32), (8, 8), how)


def test_differences_are_magnified_by_a_power_of_two():
    a = torch.full((1, 3, 2, 2), 0.5)
    b = a.clone()
    b[..., 0, 0] += 0.03
    heat, gain = difference(a, b)
    assert gain == 32 and heat.shape == (1, 3, 2, 2)
    assert torch.allclose(heat[0, :, 0, 0], torch.tensor([1.0, 1.0, 0.88]), atol=1e-4)
    assert heat[..., 1:, :].max() == 0 and difference(a, a)[1] == 256


def test_decibels_are_those_of_the_pixels_asked_for():
    a, b = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    b[0, :, :, :2] = 0.1
    where = torch.zeros(1, 1, 4, 4)
    where[..., :2] = 1
    assert psnr(a, b, where)[0] == pytest.approx(20) and psnr(a, b)[1] == math.inf
    assert psnr(a, b)[0] == pytest.approx(20 + 10 * math.log10(2))


def test_what_changed_inside_and_outside():
    image, alone = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.6)
    inside = torch.zeros(1, 1, 4, 4)
    inside[..., 0, 0] = 1
    made = torch.where(inside == 1, torch.tensor(0.9), alone)
    picture, found, text = changes(image, alone, made, inside)
    assert picture.shape == compare(image, alone, made)[0].shape == (1, 3, 132, 522)
    assert found["floor_db"] == found["outside_image_db"] == 20.0
    assert found["outside_is_codec"] is True and found["outside_is_image"] is False
    assert found["outside_codec_db"] is None and found["outside_share"] == 15 / 16
    assert "floor_db           20.0\n" in text and found["difference_gain"] == 2


def test_small_images_are_magnified():
    assert magnify(ramp(8, 9), 16).shape == (1, 3, 16, 18)
    assert torch.equal(magnify(ramp(8, 9), 8), ramp(8, 9))


def test_a_mask_is_opened_as_its_image_is(tmp_path, capsys):
    prior = load(tiny_models.folder("ddpm_epsilon"))
    image, mask = str(tmp_path / "a.png"), str(tmp_path / "m.png")
    write_image(image, ramp(8, 16))
    white = torch.zeros(1, 8, 16)
    white[:, :, 6:10] = 1
    write_image(mask, white)
    assert open_image(image, prior, how="crop", convert=False).shape == (1, 3, 8, 8)
    assert "16 x 8 pixels became 8 x 8 (crop)" in capsys.readouterr().err
    opened = open_mask(mask, image, prior, how="crop")
    assert opened.shape == (1, 1, 8, 8) and opened[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert open_mask("", image, prior, how="crop") is None
    with pytest.raises(ValueError, match="--fit"):
        open_image(image, prior, how="exact", convert=False)
