"""What `load` adds to a model and changes of its memory, against diffusers' own loaders."""

import shutil
from pathlib import Path
from typing import Any

import families
import pytest
import tiny_families
import tiny_models
import torch
from families import error, noise, opened
from safetensors.torch import save_file

from sdstoolkit.adapters import LoRA, Token, load
from sdstoolkit.adapters._checkpoint import quiet

PROMPT = "a red heart"


def lora(pipeline: Any, component: str, path: Path, *, seed: int = 0) -> Path:
    """A LoRA of a network's attention, saved as diffusers does; the network keeps none."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    network = getattr(pipeline, component)
    targets = ["to_q", "to_v"]
    network.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets), adapter_name="made")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    state = get_peft_model_state_dict(network, adapter_name="made")
    pipeline.save_lora_weights(path, **{f"{component}_lora_layers": state})
    network.delete_adapters("made")
    return path


@pytest.mark.parametrize(
    ("name", "component"),
    (("sdxl", "unet"), ("sd3", "transformer"), ("flux_schnell", "transformer")),
)
def test_lora_is_the_pipelines(name: str, component: str, tmp_path: Path) -> None:
    with quiet():
        pipe = type(families.pipeline(name)).from_pretrained(tiny_families.folder(name))
        folder = lora(pipe, component, tmp_path / "lora")
        prior = opened(name, loras=[LoRA(folder, 0.7)])
        x_t = noise(prior, name)
        condition, _ = families.CASES[name].told(prior)
        with torch.no_grad():
            ours = prior.score(x_t, 0.5, condition).eps
            plain = opened(name).score(x_t, 0.5, condition).eps
            pipe.load_lora_weights(folder, adapter_name="theirs")
            pipe.set_adapters(["theirs"], [0.7])
            prior.score.network = getattr(pipe, component)  # unfused
            theirs = prior.score(x_t, 0.5, condition).eps
    assert error(ours, theirs) < 1e-4
    assert error(ours, plain) > 1e-2
    assert prior.score.describe()["additions"] == ["LoRA lora at 0.7"]
    assert not any(p.requires_grad for p in opened(name, loras=[folder]).parameters())


def test_two_loras_add_up(tmp_path: Path) -> None:
    """W + s_1 B_1 A_1 + s_2 B_2 A_2, in either order; and a LoRA less itself is nothing."""
    with quiet():
        pipe = type(families.pipeline("sdxl")).from_pretrained(tiny_families.folder("sdxl"))
        first = lora(pipe, "unet", tmp_path / "first")
        second = lora(pipe, "unet", tmp_path / "second", seed=1)

    def weight(*loras: LoRA) -> torch.Tensor:
        network = opened("sdxl", loras=loras).score.network
        return network.get_parameter(
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
        )

    both = weight(LoRA(first), LoRA(second, 0.5))
    assert error(both, weight(LoRA(second, 0.5), LoRA(first))) < 1e-6
    assert (
        error(both - weight(), weight(LoRA(first)) + weight(LoRA(second, 0.5)) - 2 * weight())
        < 1e-5
    )
    assert error(weight(LoRA(first), LoRA(first, -1.0)), weight()) < 1e-5


def test_lora_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.safetensors"
    save_file({"unet.nothing.lora_A.weight": torch.zeros(2, 4)}, stranger)
    pickled = tmp_path / "lora.bin"
    pickled.write_bytes(b"")
    for given, message in (
        (stranger, "cannot be added to|has no weights of"),
        (pickled, r"is a .bin file, not safetensors"),
        (tmp_path / "absent", "cannot be added to"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            opened("sdxl", loras=[given])
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="takes no LoRAs"):
        opened("dit", loras=[stranger])
    with pytest.raises(ValueError, match="scale of the LoRA .* is inf"):
        LoRA(stranger, float("inf"))


@pytest.mark.parametrize("vectors", (1, 3))
def test_token_is_the_pipelines(vectors: int, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    folder, path = tiny_models.folder("sd_epsilon"), tmp_path / "thing.safetensors"
    save_file({"<thing>": torch.randn(vectors, 16).squeeze(0)}, path)
    prior = load(folder, tokens=[path])
    with quiet():
        pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
        pipe.load_textual_inversion(str(path))
        theirs, _ = pipe.encode_prompt("a red <thing>", "cpu", 1, False)
    ours = prior.condition("a red <thing>")["text"]
    assert error(ours, theirs) < 1e-5
    assert error(ours, load(folder).condition("a red thing")["text"]) > 1e-2
    assert error(prior.condition(PROMPT)["text"], load(folder).condition(PROMPT)["text"]) < 1e-6
    named = load(folder, tokens=[Token(path, "sks")])
    assert torch.equal(named.condition("a red sks")["text"], ours)
    assert named.score.describe()["additions"] == ["word sks of thing.safetensors"]


def test_token_of_two_encoders(tmp_path: Path) -> None:
    path = tmp_path / "thing.safetensors"
    save_file({"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 32)}, path)
    prior = opened("sdxl", tokens=[path])
    told = prior.condition("a thing")
    assert told["text"].shape == (1, 16, 48) and bool(told["pooled"].isfinite().all())
    without = opened("sdxl").condition(PROMPT)
    assert error(prior.condition(PROMPT)["pooled"], without["pooled"]) < 1e-6


@pytest.mark.parametrize(
    ("held", "word", "message"),
    (
        ({"<w>": torch.zeros(24)}, None, "is of width 24, which no text encoder"),
        ({"<w>": torch.zeros(16)}, "red</w>", "is known to the text encoder already"),
        ({"<w>": torch.zeros(2, 2, 2)}, None, "holds no textual inversion"),
        ({"<w>": torch.full((16,), torch.nan)}, None, "holds no textual inversion"),
    ),
)
def test_token_that_does_not_fit_is_refused(
    held: dict[str, torch.Tensor], word: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "thing.safetensors"
    save_file(held, path)
    with pytest.raises(ValueError, match=message):
        load(tiny_models.folder("sd_epsilon"), tokens=[Token(path, word)])
    with pytest.raises(ValueError, match="There is no textual inversion"):
        load(tiny_models.folder("sd_epsilon"), tokens=[tmp_path / "absent.safetensors"])


def tiny_autoencoder(path: Path, **changes: Any) -> Path:
    from diffusers import AutoencoderTiny

    config = {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    }
    AutoencoderTiny(**(config | changes)).save_pretrained(path)
    return path


def test_another_autoencoder_takes_its_place(tmp_path: Path) -> None:
    path = tiny_autoencoder(tmp_path / "tiny")
    prior = opened("sdxl", autoencoder=path)
    assert type(prior.codec.autoencoder).__name__ == "AutoencoderTiny"
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    x_0 = prior.codec.encode(image)
    assert prior.score.describe()["additions"] == ["autoencoder tiny"]
    assert x_0.shape == noise(prior, "sdxl").shape
    x_0.sum().backward()
    assert image.grad is not None and bool(image.grad.abs().max() > 0)
    other = tiny_autoencoder(tmp_path / "wide", latent_channels=8)
    for name, given, message in (
        ("sdxl", other, "latent_channels is 8"),
        ("sana", path, "is a AutoencoderTiny, expected AutoencoderDC"),
        ("sdxl", tmp_path / "absent", "There is no autoencoder"),
        ("sdxl", tmp_path, "has no config.json, expected one autoencoder"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(name, autoencoder=given)


def test_checkpointing_keeps_the_gradient_and_less_else() -> None:
    image = torch.rand(1, 3, 16, 16)
    gradients, kept = [], []
    for prior in (opened("sdxl"), opened("sdxl", checkpointing=True)):
        given, sizes = image.clone().requires_grad_(), []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            x_0 = prior.codec.encode(given)
        kept.append(sum(sizes))
        x_0.square().sum().backward()
        gradients.append(given.grad)
    assert error(gradients[1], gradients[0]) < 1e-5
    assert kept[1] < 0.5 * kept[0]
    with pytest.raises(ValueError, match="this model has no autoencoder"):
        opened("deepfloyd_if", checkpointing=True)


def test_memory_options_change_no_number() -> None:
    plain = opened("sdxl")
    prior = opened("sdxl", channels_last=True, text_on_cpu=True)
    x_t, weight = noise(prior, "sdxl"), prior.score.network.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        ours = prior.score(x_t, 0.5, prior.condition(PROMPT)).eps
        assert error(ours, plain.score(x_t, 0.5, plain.condition(PROMPT)).eps) < 1e-5
    compiled = opened("dit", compile=True)
    assert compiled.score.network._compiled_call_impl is not None
    assert opened("dit").score.network._compiled_call_impl is None


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a compiler"
)
def test_a_compiled_network_predicts_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By inductor's own C++, for one of the smallest UNets there are: each kernel takes time."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from torch._inductor import config

    network = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        add_attention=False,
    )
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(tmp_path / "model")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    plain, prior = load(tmp_path / "model"), load(tmp_path / "model", compile=True)
    x_t = torch.randn(2, 3, 8, 8)
    with torch.no_grad(), config.patch(compile_threads=1):
        right = plain.score(x_t, 0.5)
        found = prior.score(x_t, 0.5)
    assert any((tmp_path / "kernels").rglob("*.so"))  # it was compiled indeed
    for ours, theirs in ((found.eps, right.eps), (found.x_0, right.x_0)):
        assert error(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", ("controlnet", "flux_schnell"))
def test_layers_that_come_in_turn_change_no_number(name: str) -> None:
    """On the CPU there is nowhere to go, but the turns are taken."""
    prior = opened(name)
    condition, x_t = families.CASES[name].told(prior)[0], noise(prior, name)
    with torch.no_grad():
        before = prior.score(x_t, 0.5, condition).eps
        prior.score.stream(torch.device("cpu"))
        assert torch.equal(prior.score(x_t, 0.5, condition).eps, before)
    assert next(prior.score.parameters()).numel() == 0 and prior.dtype == torch.float32
    with pytest.raises(ValueError, match="given for the CPU, expected another device"):
        opened(name, layers_on_cpu=True)
    with pytest.raises(ValueError, match="cannot be taken apart by layers"):
        opened("dit", device="meta", layers_on_cpu=True)


def test_text_stays_on_the_cpu() -> None:
    prior = opened("sdxl", device="meta", text_on_cpu=True)
    assert {p.device.type for p in prior.score.parameters()} == {"meta"}
    assert {p.device.type for p in prior.text.parameters()} == {"cpu"}
    assert prior.condition(PROMPT)["text"].device.type == "meta"


def test_float16_keeps_an_encoder_that_overflows_in_float32() -> None:
    half = opened("sdxl", dtype=torch.float16)
    assert {p.dtype for p in half.score.parameters()} == {torch.float16}
    assert {p.dtype for p in half.codec.parameters()} == {torch.float32}
    assert {p.dtype for p in opened("sd3", dtype=torch.float16).codec.parameters()} == {
        torch.float16
    }
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(half.codec.encode(image), opened("sdxl").codec.encode(image))


def test_dropped_text_leaves_what_was_encoded() -> None:
    for name in ("sd3", "flux_dev", "lumina_2"):
        prior = opened(name)
        before = prior.condition(PROMPT)
        prior.drop_text()
        assert torch.equal(prior.condition(PROMPT)["text"], before["text"])
        assert not any(key.startswith("text") for key, _ in prior.named_parameters())
        with pytest.raises(ValueError, match="is new and the text encoder was dropped"):
            prior.condition("another")
