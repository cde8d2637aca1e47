"""What every test runs under: no network, no display, and no global randomness left over."""

import os

# Before anything imports a hub client or matplotlib.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    DO_NOT_TRACK="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture(autouse=True)
def _same_global_randomness() -> None:
    """A test that leans on the global generator at least repeats itself."""
    torch.manual_seed(0)
