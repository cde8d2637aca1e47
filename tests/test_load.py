"""`load` opens what is whole and says in one sentence what is wrong with the rest."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from sdstoolkit import adapters
from sdstoolkit.adapters import families, load, names
from sdstoolkit.adapters._hub import patterns
from sdstoolkit.prior import Prior

Edit = Callable[[Path], None]


def whole(prior: Prior) -> torch.Tensor:
    """A number for all of a prior's score: the network's output at one place."""
    x_t = torch.linspace(-1, 1, 2 * torch.Size(prior.score.shape).numel())
    condition = None if prior.text is None else prior.condition("a red heart")
    with torch.no_grad():
        return prior.score(x_t.reshape(2, *prior.score.shape), 0.5, condition).x_0


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return whole(load(tiny_models.folder("sd_epsilon")))


# --- what opens


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_opens_frozen_and_in_eval_mode(kind: str) -> None:
    prior = load(tiny_models.folder(kind))
    latent = kind.startswith("sd")
    assert prior.score.shape == ((4, 8, 8) if latent else (3, 8, 8))
    assert prior.size == ((16, 16) if latent else (8, 8))
    assert prior.dtype == torch.float32 and prior.device.type == "cpu"
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert not any(module.training for module in prior.modules())
    assert (prior.text is not None) == latent
    assert prior.score.describe()["schedule"]["steps"] == 1000
    x_0 = prior.codec.encode(torch.rand(1, 3, *prior.size))
    assert x_0.shape == prior.codec.shape(1, *prior.size) == (1, *prior.score.shape)
    assert bool(whole(prior).isfinite().all())


def test_opens_twice_the_same(expected: torch.Tensor) -> None:
    path = tiny_models.folder("sd_epsilon")
    assert torch.equal(whole(load(str(path))), expected)
    assert torch.equal(whole(load(path, dtype=torch.float32, device="cpu")), expected)


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
def test_dtype_is_that_of_every_network(dtype: torch.dtype) -> None:
    prior = load(tiny_models.folder("sd_epsilon"), dtype=dtype)
    assert {parameter.dtype for parameter in prior.parameters()} == {dtype}
    assert prior.condition("")["text"].dtype == dtype


def test_device_is_passed_on() -> None:
    prior = load(tiny_models.folder("ddpm_epsilon"), device="meta")
    assert {parameter.device.type for parameter in prior.parameters()} == {"meta"}
    with torch.device("meta"):
        assert load(tiny_models.folder("ddpm_epsilon")).device.type == "meta"


def test_variant_is_passed_on(tmp_path: Path, expected: torch.Tensor) -> None:
    path = tiny_models.stable_diffusion(tmp_path / "half", variant="fp16")
    assert (path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert torch.equal(whole(load(path, variant="fp16")), expected)
    with pytest.raises(ValueError, match="has no variant=None, expected one .*: 'fp16'"):
        load(path)


def test_shards_are_read(tmp_path: Path, expected: torch.Tensor) -> None:
    from diffusers import UNet2DConditionModel

    path = copied("sd_epsilon", tmp_path)
    unet = UNet2DConditionModel.from_pretrained(path / "unet", use_safetensors=True)
    shutil.rmtree(path / "unet")
    unet.save_pretrained(path / "unet", max_shard_size="100KB")
    assert len(list((path / "unet").glob("*-of-*.safetensors"))) > 2
    assert torch.equal(whole(load(path)), expected)


def test_old_layouts_are_read(tmp_path: Path, expected: torch.Tensor) -> None:
    """CLIP's tensors under text_model, its old tokenizer files; a pixel model in one folder."""
    path = copied("sd_epsilon", tmp_path)
    tokenizer = path / "tokenizer"
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (tokenizer / "tokenizer.json").unlink()

    def old(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        moved = {f"text_model.{key}": tensor for key, tensor in tensors.items()}
        return {**moved, "text_model.embeddings.position_ids": torch.arange(16)[None]}

    weights("text_encoder", old)(path)
    assert torch.equal(whole(load(path)), expected)

    flat = tmp_path / "flat"
    shutil.copytree(tiny_models.folder("ddpm_v") / "unet", flat)
    for file in ("model_index.json", "scheduler/scheduler_config.json"):
        shutil.copy(tiny_models.folder("ddpm_v") / file, flat)
    assert torch.equal(whole(load(flat)), whole(load(tiny_models.folder("ddpm_v"))))


def test_tiny_autoencoder_is_taken(tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    path = copied("sd_epsilon", tmp_path)
    shutil.rmtree(path / "vae")
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(path / "vae")
    index(vae=["diffusers", "AutoencoderTiny"])(path)
    prior = load(path)
    assert prior.size == (16, 16)
    image = torch.rand(1, 3, 16, 16)
    assert prior.codec.decode(prior.codec.encode(image)).shape == image.shape


def test_path_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_models.folder("ddpm_epsilon"), tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert load("owner/name").score.shape == (3, 8, 8)
    with pytest.raises(ValueError, match="is a folder here, and revision='main' is of a hub"):
        load("owner/name", revision="main")


def test_bundled_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = {"mine": tiny_models.folder("ddpm_epsilon"), "absent": tmp_path / "absent"}
    monkeypatch.setattr(adapters, "BUNDLED", bundled)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()  # "./mine" is the folder
    assert names() == ("mine",)
    assert load("mine").score.shape == (3, 8, 8)
    with pytest.raises(ValueError, match="holds no model_index.json"):
        load("./mine")
    with pytest.raises(ValueError, match=r"no model 'absent': expected a bundled name \('mine'\)"):
        load("absent")


def test_families_say_what_they_open() -> None:
    known = families()
    assert known["stable_diffusion"] == ("StableDiffusionPipeline",)
    assert set(known["unet_2d"]) == {"DDPMPipeline", "DDIMPipeline"}
    assert "callable" not in known
    opened = [name for pipelines in known.values() for name in pipelines]
    assert len(opened) == len(set(opened))


def test_looking_imports_neither_diffusers_nor_transformers() -> None:
    code = """
import sys
from sdstoolkit.adapters import families, load, names
names(), families()
try: load("nothing-of-that-name")
except ValueError: pass
heavy = {"diffusers", "transformers", "huggingface_hub", "accelerate"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("fails", (False, True))
def test_quiet_and_puts_the_libraries_back(
    fails: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    path = copied("sd_epsilon", tmp_path)
    config("unet", a_key_that_nobody_knows=1)(path)
    if fails:
        config("text_encoder", num_hidden_layers=5)(path)
    diffusers.set_verbosity_info()
    transformers.set_verbosity_info()
    diffusers.enable_progress_bar()
    capfd.readouterr()
    try:
        if fails:
            with pytest.raises(ValueError, match="contradicts"):
                load(path)
        else:
            load(path)
        assert capfd.readouterr() == ("", "")
        assert diffusers.get_verbosity() == transformers.get_verbosity() == logging.INFO
        assert diffusers.is_progress_bar_enabled()
    finally:
        diffusers.set_verbosity_warning()
        transformers.set_verbosity_warning()


# --- what does not open


def copied(kind: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models.folder(kind), tmp_path / "broken"))


def edited(file: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Edit:
    def edit(path: Path) -> None:
        contents = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps(change(contents)))

    return edit


def config(component: str, **changes: Any) -> Edit:
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    return edited(f"{component}/{name}", lambda old: {**old, **changes})


def index(**changes: Any) -> Edit:
    return edited("model_index.json", lambda old: {**old, **changes})


def written(file: str, text: str) -> Edit:
    return lambda path: (path / file).write_text(text) and None


def both(first: Edit, second: Edit) -> Edit:
    def edit(path: Path) -> None:
        first(path)
        second(path)

    return edit


def removed(file: str) -> Edit:
    def edit(path: Path) -> None:
        target = path / file
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return edit


def weights(
    component: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Edit:
    def edit(path: Path) -> None:
        (file,) = (path / component).glob("*.safetensors")
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return edit


def spoiled(key: str, value: float) -> Callable[..., dict[str, torch.Tensor]]:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[key].view(-1)[3] = value
        return tensors

    return change


def pickled(path: Path) -> None:
    for file in (path / "unet").glob("*.safetensors"):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()


def truncated(path: Path) -> None:
    file = path / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:500])


UNET = "unet/diffusion_pytorch_model.safetensors"
BROKEN: dict[str, tuple[str, Edit, str]] = {
    "no index": ("sd_v", removed("model_index.json"), "holds no model_index.json"),
    "an index that is not JSON": ("sd_v", written("model_index.json", "{"), "cannot be read as"),
    "an index that is a list": ("sd_v", written("model_index.json", "[]"), "a JSON list"),
    "an index of no pipeline": ("sd_v", index(_class_name=None), "has no _class_name"),
    "an unknown pipeline": (
        "sd_v",
        index(_class_name="ShapEPipeline"),
        "saved by a ShapEPipeline, expected one of: .*DDPMPipeline.*StableDiffusionPipeline",
    ),
    "an unknown scheduler": (
        "sd_v",
        config("scheduler", _class_name="TCDScheduler"),
        "cannot be opened: The scheduler is a TCDScheduler",
    ),
    "an unknown prediction": (
        "ddpm_v",
        config("scheduler", prediction_type="velocity"),
        "prediction_type='velocity', expected one of: epsilon",
    ),
    "no scheduler": ("sd_v", removed("scheduler"), "has no scheduler"),
    "a broken scheduler": ("sd_v", written("scheduler/scheduler_config.json", "?"), "as JSON"),
    "no unet folder": ("sd_v", removed("unet"), "has no unet: unet/config.json does not exist"),
    "no unet in the index": ("sd_v", index(unet=[None, None]), "has no unet: expected UNet2DCond"),
    "another unet": (
        "sd_v",
        index(unet=["diffusers", "UNet2DModel"]),
        "unet of .* is a UNet2DModel, expected UNet2DConditionModel",
    ),
    "another unet's config": (
        "sd_v",
        config("unet", _class_name="UNet2DModel"),
        "unet/config.json of .* is of a UNet2DModel, expected the UNet2DConditionModel",
    ),
    "a broken config": ("sd_v", written("vae/config.json", "{"), "config.json cannot be read as"),
    "no text encoder": ("sd_v", removed("text_encoder"), "has no text_encoder"),
    "another text encoder": (
        "sd_v",
        index(text_encoder=["transformers", "T5EncoderModel"]),
        "is a T5EncoderModel, expected CLIPTextModel",
    ),
    "no tokenizer": ("sd_v", removed("tokenizer"), "has no tokenizer: neither tokenizer/token"),
    "a broken tokenizer": ("sd_v", written("tokenizer/tokenizer.json", "{"), "tokenizer .*read"),
    "a tokenizer too long": (
        "sd_v",
        edited("tokenizer/tokenizer_config.json", lambda old: {**old, "model_max_length": 77}),
        "pads to 77 tokens, expected no more than the text encoder's 16",
    ),
    "pickles only": ("sd_v", pickled, "only diffusion_pytorch_model.bin, expected safetensors"),
    "no weights": ("sd_v", removed(UNET), "unet of .* has no weights, expected safetensors"),
    "truncated weights": ("sd_v", truncated, "vae of .* cannot be read"),
    "NaN": (
        "sd_v",
        weights("unet", spoiled("conv_in.bias", float("nan"))),
        "unet of .* has NaN or infinity in conv_in.bias",
    ),
    "infinity": (
        "sd_v",
        weights("text_encoder", spoiled("final_layer_norm.weight", float("-inf"))),
        "text_encoder of .* has NaN or infinity in final_layer_norm.weight",
    ),
    "a missing tensor": (
        "sd_v",
        weights("unet", lambda old: {k: v for k, v in old.items() if k != "conv_out.bias"}),
        r"contradicts its weights: conv_out.bias \(1 in all\) is in the config's network",
    ),
    "a tensor too many": (
        "sd_v",
        weights("vae", lambda old: {**old, "more": torch.zeros(2)}),
        r"contradicts its weights: more \(1 in all\) is in the file but not",
    ),
    "a wider unet": (
        "sd_v",
        config("unet", block_out_channels=[16, 48]),
        r"contradicts its weights: .* is \(.*\) in the file and \(.*\) by the config",
    ),
    "a deeper text encoder": (
        "sd_v",
        config("text_encoder", num_hidden_layers=3),
        r"encoder.layers.2.* \(16 in all\) is in the config's network but not in the file",
    ),
    "a wider text encoder": (
        "sd_v",
        config("text_encoder", hidden_size=32),
        r"by the config",
    ),
    "blocks that nobody knows": (
        "sd_v",
        config("unet", down_block_types=["Cross", "Down"]),
        "unet of .* cannot be read",
    ),
    "an inpainting network": (
        "sd_v",
        both(
            config("unet", in_channels=9),
            weights("unet", lambda old: {**old, "conv_in.weight": torch.zeros(16, 9, 3, 3)}),
        ),
        "unet's in_channels is 9 and the vae's latent_channels is 4",
    ),
    "a network distilled for guidance": (
        "sd_v",
        config("unet", time_cond_proj_dim=256),
        "time_cond_proj_dim=256, expected none",
    ),
    "a learned variance": (
        "ddpm_epsilon",
        both(
            config("unet", out_channels=6),
            weights(
                "unet",
                lambda old: {
                    **old,
                    "conv_out.weight": torch.zeros(6, 16, 3, 3),
                    "conv_out.bias": torch.zeros(6),
                },
            ),
        ),
        "takes 3 channels and returns 6",
    ),
    "a class-conditional pixel model": (
        "ddpm_epsilon",
        config("unet", num_class_embeds=10),
        "num_class_embeds=10, expected none",
    ),
    "a pixel model of no size": (
        "ddpm_epsilon",
        config("unet", sample_size=None),
        "sample_size=None",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folder_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    kind, edit, message = BROKEN[what]
    path = copied(kind, tmp_path)
    edit(path)
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    one_sentence(raised.value)
    assert "broken" in str(raised.value)  # the name of the folder


def one_sentence(error: ValueError) -> None:
    text = str(error)
    assert "\n" not in text and text.endswith(".") and not text.endswith("..")
    assert error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)


def test_half_precision_overflow_is_found(tmp_path: Path) -> None:
    path = copied("ddpm_epsilon", tmp_path)
    weights("unet", spoiled("conv_in.weight", 1e6))(path)
    load(path)
    with pytest.raises(ValueError, match=r"infinity in conv_in.weight \(read as torch.float16\)"):
        load(path, dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "message"),
    (
        ("shape", "no model 'shape': expected a bundled name"),
        ("/no/such/folder", "no model '/no/such/folder'"),
        ("./owner/name", "no model './owner/name'"),
        ("a/b/c", "no model 'a/b/c'"),
        ("", "no model ''"),
        (Path("owner/name"), "no model 'owner/name'"),
        (__file__, "is a file, expected the folder"),
    ),
)
def test_unknown_name_is_refused(
    name: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        load(name)
    one_sentence(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"dtype": torch.int64}, "dtype is torch.int64, expected a floating-point"),
        ({"device": "abacus"}, "device is 'abacus', which torch does not have here"),
        ({"device": "cuda:99"}, "device is .*cuda.*99.*, which torch does not have here"),
        ({"variant": "fp8"}, "has no variant='fp8', expected one that is there: None"),
    ),
)
def test_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load(tiny_models.folder("ddpm_epsilon"), **options)
    one_sentence(raised.value)


def test_single_model_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="holds one model and no model_index.json"):
        load(tiny_models.folder("ddpm_epsilon") / "unet")


# --- the hub, without one


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty local cache of the hub, where `snapshot_download` looks; there is no connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield tmp_path / "hub"


def cache(hub: Path, kind: str) -> None:
    repository = hub / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(tiny_models.folder(kind), repository / "snapshots" / COMMIT)


def test_cached_hub_model_opens(hub: Path, expected: torch.Tensor) -> None:
    cache(hub, "sd_epsilon")
    assert torch.equal(whole(load("owner/name", local_files_only=True)), expected)
    assert torch.equal(whole(load("owner/name")), expected)  # HF_HUB_OFFLINE
    assert torch.equal(whole(load("owner/name", revision=COMMIT)), expected)
    with pytest.raises(ValueError, match="nor in the hub's local cache") as raised:
        load("owner/name", revision="v2")
    one_sentence(raised.value)


@pytest.mark.parametrize("name", ("owner/name", "Owner-1/name.with_dots"))
def test_hub_name_offline_is_refused(name: str, hub: Path) -> None:
    with pytest.raises(ValueError, match="nor in the hub's local cache") as raised:
        load(name)
    one_sentence(raised.value)
    assert "HF_HUB_OFFLINE" in str(raised.value)


def test_unreachable_and_refusing_hubs(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
    for error, message in (
        (GatedRepoError("no", response=response), "is gated"),
        (RepositoryNotFoundError("no", response=response), "nor a repository of the hub"),
        (RevisionNotFoundError("no", response=response), "has no revision='v2' on the hub"),
        (LocalEntryNotFoundError("no"), "and the hub cannot be reached"),
        (HfHubHTTPError("busy\nmore", response=response), "from the hub: HfHubHTTPError: busy"),
        (httpx.ConnectError("refused"), "from the hub: ConnectError: refused"),
        (OSError(28, "No space left on device"), "No space left"),
    ):

        def refuse(*args: Any, error: Exception = error, **options: Any) -> str:
            assert options["local_files_only"] is False and options["revision"] == "v2"
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(ValueError, match=message) as raised:
            load("owner/name", revision="v2")
        one_sentence(raised.value)


@pytest.mark.parametrize(
    ("variant", "stems"),
    (
        (None, ("", "-00001-of-00002")),
        ("fp16", (".fp16", ".fp16-00001-of-00002", "-00001-of-00002.fp16")),
    ),
)
def test_only_what_is_needed_is_fetched(variant: str | None, stems: tuple[str, ...]) -> None:
    from fnmatch import fnmatch

    declared = json.loads((tiny_models.folder("sd_v") / "model_index.json").read_text())
    declared["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    wanted = patterns(declared, variant)

    def is_fetched(file: str) -> bool:
        return any(fnmatch(file, pattern) for pattern in wanted)

    every = ("", ".fp16", ".non_ema", "-00001-of-00002", ".fp16-00001-of-00002")
    for stem in (*every, "-00001-of-00002.fp16"):
        for model in ("unet/diffusion_pytorch_model", "text_encoder/model"):
            assert is_fetched(f"{model}{stem}.safetensors") == (stem in stems), stem
    for file in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt"):
        assert is_fetched(file)
    for file in (
        "unet/diffusion_pytorch_model.bin",
        "unet/code.py",
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        "safety_checker/config.json",
        "vae_decoder/model.onnx",
    ):
        assert not is_fetched(file), file
