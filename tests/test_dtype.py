"""The dtype of a network is diffusers' own answer, after whatever became of the network."""

import copy

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from sdstoolkit._dtype import dtype_of


class Kept(UNet2DModel):
    """Keeps the first of its layers in float32 when it is loaded as something else."""

    _keep_in_fp32_modules = ["conv_in"]


def small(kind=UNet2DModel):
    return kind(
        sample_size=8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip


def replaced(network):
    weights = {name: v.double() for name, v in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)


def all_but_the_first(network):
    network.half()
    network.conv_in.float()


def cast_by_layers(network):
    network.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda network: network.half(), torch.float16),
        (lambda network: network.double().bfloat16(), torch.bfloat16),
        (replaced, torch.float64),
        (all_but_the_first, torch.float16),
        (cast_by_layers, torch.bfloat16),
    ],
    ids=["half", "twice", "replaced", "kept in float32", "cast by layers"],
)
def test_a_change_is_noticed(change, expected):
    network = small(Kept)
    assert dtype_of(network) is dtype_of(network) is network.dtype is torch.float32
    change(network)
    assert dtype_of(network) is network.dtype is expected
    assert dtype_of(network) is expected


def test_a_copy_is_another_network():
    network = small()
    dtype_of(network)
    other = copy.deepcopy(network).half()
    assert (dtype_of(network), dtype_of(other)) == (torch.float32, torch.float16)


def test_a_network_that_does_not_tell():
    assert dtype_of(nn.Linear(2, 2).double()) is torch.float64
    assert dtype_of(nn.Identity()) is None
