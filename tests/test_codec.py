import pytest
import torch
from torch import Tensor, nn

from sdstoolkit.codec import Codec, KLCodec


def autoencoder(**options: object) -> nn.Module:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=2,
        sample_size=16,
        **{"scaling_factor": 0.3, "shift_factor": None, **options},
    ).double()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, 16, 24, dtype=torch.float64)


def test_pixels(image: Tensor) -> None:
    codec = Codec()
    assert torch.allclose(codec.encode(image), 2 * image - 1)
    assert torch.allclose(codec.decode(codec.encode(image)), image)
    assert codec.decode(torch.full((1, 3, 2, 2), 1.5)).max() == 1.25  # nothing is clipped
    assert codec.shape(5, 16, 24) == (5, 3, 16, 24) and (codec.multiple, codec.channels) == (1, 3)
    assert Codec(channels=1).encode(torch.zeros(1, 1, 3, 5)).shape == (1, 1, 3, 5)


@pytest.mark.parametrize("shift", [None, 0.7])
def test_latents_are_the_posterior_mean(shift: float | None, image: Tensor) -> None:
    network = autoencoder(shift_factor=shift)
    codec = KLCodec(network)
    assert (codec.multiple, codec.channels, codec.image_channels) == (4, 2, 3)
    assert codec.shape(2, 16, 24) == (2, 2, 4, 6)
    x_0 = codec.encode(image)
    mean = network.encode(2 * image - 1).latent_dist.mean
    assert x_0.shape == (2, 2, 4, 6)
    assert torch.allclose(x_0, (mean - (shift or 0)) * 0.3)
    assert torch.equal(x_0, codec.encode(image))  # nothing is drawn
    expected = (network.decode(x_0 / 0.3 + (shift or 0)).sample + 1) / 2
    assert torch.allclose(codec.decode(x_0), expected)


def test_latents_with_their_own_statistics(image: Tensor) -> None:
    mean, std = [0.1, -0.4], [2.0, 0.5]
    network = autoencoder(latents_mean=mean, latents_std=std)
    codec = KLCodec(network)
    code = network.encode(2 * image - 1).latent_dist.mean
    mean, std = (torch.tensor(v).double().reshape(1, 2, 1, 1) for v in (mean, std))
    assert torch.allclose(codec.encode(image), (code - mean) * 0.3 / std)
    assert torch.allclose(codec.decode(codec.encode(image)), (network.decode(code).sample + 1) / 2)


def test_both_maps_are_differentiable_and_the_weights_frozen(image: Tensor) -> None:
    codec = KLCodec(autoencoder().train())
    image.requires_grad_()
    (g,) = torch.autograd.grad(codec.decode(codec.encode(image)).square().sum(), image)
    assert g.isfinite().all() and g.abs().max() > 0
    assert not any(p.requires_grad for p in codec.parameters()) and not codec.autoencoder.training


def test_dtypes(image: Tensor) -> None:
    codec = KLCodec(autoencoder())
    exact = codec.encode(image)
    codec.to(torch.bfloat16)
    for dtype, expected in (
        (torch.float64,) * 2,
        (torch.float32,) * 2,
        (torch.bfloat16, torch.float32),
    ):
        x_0 = codec.encode(image.to(dtype))
        assert x_0.dtype == codec.decode(x_0.to(dtype)).dtype == expected
        assert torch.allclose(x_0.double(), exact, atol=0.02)
    assert float(codec._scale) == 0.3  # casting the module leaves the constants alone


def test_tiny_autoencoder(image: Tensor) -> None:
    from diffusers import AutoencoderTiny

    network = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    ).double()
    codec = KLCodec(network)
    assert codec.multiple == 2
    x_0 = codec.encode(image)
    assert torch.allclose(x_0, network.encode(2 * image - 1).latents)
    assert codec.decode(x_0).shape == image.shape


@pytest.mark.parametrize("size", [(15, 16), (16, 18), (0, 16)])
def test_sizes_are_never_adjusted(size: tuple[int, int]) -> None:
    codec = KLCodec(autoencoder())
    with pytest.raises(ValueError, match="multiples of 4"):
        codec.encode(torch.zeros(1, 3, *size))
    with pytest.raises(ValueError, match="multiples of 4"):
        codec.shape(1, *size)


def test_wrong_shapes() -> None:
    for codec in (Codec(), KLCodec(autoencoder())):
        with pytest.raises(
            ValueError, match="image has shape \\[1, 4, 16, 16\\]; expected \\[n, 3"
        ):
            codec.encode(torch.zeros(1, 4, 16, 16))
        with pytest.raises(ValueError, match="x_0 has shape"):
            codec.decode(torch.zeros(1, 5, 4, 4))
        with pytest.raises(ValueError, match="image has shape"):
            codec.encode(torch.zeros(3, 16, 16))
