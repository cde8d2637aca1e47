"""Pretrained networks as `Prior`s: one file a family, found by name.

    load(name) : a bundled model, a folder saved by a diffusers pipeline, or a hub name  ->  Prior

A module here that lists pipeline classes in `PIPELINES` and has `open_checkpoint(Checkpoint)`
opens the folders that those pipelines save; `TAKES` says what its condition is made of, `EXAMPLES`
names hub repositories, and `NEEDS` modules that are not always installed. Adding a family is
adding such a file. Neither diffusers nor transformers is imported before something is loaded.
"""

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from sdstoolkit import _plugins
from sdstoolkit.adapters import _hub
from sdstoolkit.adapters._additions import LoRA, Token, fuse, teach
from sdstoolkit.adapters._checkpoint import INDEX, Checkpoint, quiet, read_index
from sdstoolkit.prior import Prior

__all__ = ["Family", "LoRA", "Token", "catalogue", "families", "load", "names"]

_TOY = Path(__file__).parent.parent / "toy"
BUNDLED = {"shapes": _TOY / "shapes", "shapes-pixel": _TOY / "shapes_pixel"}


def names() -> tuple[str, ...]:
    """The models that come with the package and load without a network."""
    return tuple(name for name, folder in BUNDLED.items() if (folder / INDEX).is_file())


def families() -> dict[str, tuple[str, ...]]:
    """Adapter name -> the pipeline classes whose folders it opens."""
    modules = {name: _plugins.find(__name__, name) for name in _plugins.names(__name__)}
    return {name: m.PIPELINES for name, m in modules.items() if hasattr(m, "PIPELINES")}


class Family(NamedTuple):
    """What a file here opens.

    Attributes:
        name: of the file.
        title: what the models are.
        pipelines: the pipeline classes whose folders it opens.
        takes: what a condition is made of.
        examples: repositories of the hub.
        needs: modules that it needs besides what is always installed.
    """

    name: str
    title: str
    pipelines: tuple[str, ...]
    takes: str
    examples: tuple[str, ...]
    needs: tuple[str, ...]


def catalogue() -> tuple[Family, ...]:
    """All families, by name, as their files say."""
    found = []
    for name, pipelines in families().items():
        module = _plugins.find(__name__, name)
        title = (module.__doc__ or "").partition("\n")[0].rstrip(".")
        needs = getattr(module, "NEEDS", ())
        found.append(Family(name, title, pipelines, module.TAKES, module.EXAMPLES, needs))
    return tuple(found)


def load(
    name_or_path: str | PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
    loras: Sequence[str | PathLike[str] | LoRA] = (),
    tokens: Sequence[str | PathLike[str] | Token] = (),
    autoencoder: str | PathLike[str] | None = None,
    checkpointing: bool = False,
    channels_last: bool = False,
    compile: bool = False,
    text_on_cpu: bool = False,
    layers_on_cpu: bool = False,
) -> Prior:
    """A pretrained model with its codec and its text encoder.

        x_t = alpha x_0 + sigma eps  ->  prior.score(x_t, t, prior.condition("a red heart")).x_0

    The weights are frozen and in eval mode. Only safetensors are read, and no code that comes with
    a model is run. Costs no network evaluation.

    Args:
        name_or_path: a bundled name (`names()`), a local folder saved by a diffusers pipeline, or
            the name of one on the Hugging Face hub, "owner/name"; of these the first that exists.
        dtype: of the networks, float32 if None. States and times keep their own precision.
        device: of the networks; None for torch's default device.
        variant: of the weight files, "fp16" for `model.fp16.safetensors`.
        local_files_only: use the hub's local cache and no connection, as HF_HUB_OFFLINE=1 does.
        revision: of the hub repository: a branch, a tag or a commit.
        loras: low-rank additions to the weights, added for good: files, folders or hub names, or
            `LoRA(source, scale)`.
        tokens: textual inversions, words that the text encoder learns: files, or
            `Token(source, word)`.
        autoencoder: a folder or a hub name of another autoencoder for the same latents, such as an
            AutoencoderTiny, whose backward pass is about nine times cheaper.
        checkpointing: the encoder's backward pass computes its activations again instead of
            keeping them.
        channels_last: networks of convolutions keep their channels last, which is faster on GPUs.
        compile: the network is compiled by torch when it is first called.
        text_on_cpu: the text encoders stay on the CPU; `Prior.drop_text` frees them altogether.
        layers_on_cpu: so do the network's layers, and each goes to the device for its turn, which
            takes the least memory there and is slow.

    Raises:
        ValueError: there is no such model, it is of a family that is not known here, or its folder
            is incomplete, contradicts itself or holds weights that are not finite; or an addition
            does not fit it.
    """
    name = fspath(name_or_path)
    dtype, device = _dtype(dtype), _device(device)
    folder, repository = _locate(name_or_path), None
    if folder is None:
        repository = _hub.Repository(name, revision=revision, local_files_only=local_files_only)
        folder = repository.fetch((INDEX,))
    elif revision is not None:
        raise ValueError(f"{name!r} is a folder here, and revision={revision!r} is of a hub name.")
    index = read_index(folder, name)
    family = _family(index["_class_name"], name)  # before the weights are downloaded
    if repository is not None:
        folder = repository.fetch(_hub.patterns(index, variant))
    checkpoint = Checkpoint(
        folder,
        name,
        dtype,
        device,
        variant,
        index,
        autoencoder=_model(autoencoder, local_files_only),
        text_device=torch.device("cpu") if text_on_cpu else None,
        layers_device=torch.device("cpu") if layers_on_cpu else None,
    )
    if layers_on_cpu and device.type == "cpu":
        raise ValueError("layers_on_cpu=True was given for the CPU, expected another device.")
    with quiet(), torch.device("cpu"):  # made there whatever the default is, moved when whole
        prior: Prior = family.open_checkpoint(checkpoint)
        fuse(checkpoint, prior, [LoRA.of(lora) for lora in loras], local_files_only)
        teach(prior, [Token.of(token) for token in tokens])
    if autoencoder is not None:
        score: Any = prior.score
        score.additions.append(f"autoencoder {Path(autoencoder).name}")
    _arrange(
        prior, checkpointing=checkpointing, channels_last=channels_last, compile_network=compile
    )
    if layers_on_cpu:
        network: Any = prior.score
        network.stream(device)
    return prior


def _arrange(
    prior: Prior, *, checkpointing: bool, channels_last: bool, compile_network: bool
) -> None:
    """Memory and speed; nothing here changes what a network computes."""
    network = getattr(prior.score, "network", None)
    autoencoder = getattr(prior.codec, "autoencoder", None)
    if checkpointing:
        if autoencoder is None:
            raise ValueError("checkpointing=True was given, and this model has no autoencoder.")
        autoencoder.enable_gradient_checkpointing()
    if channels_last:
        for parameter in prior.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    if compile_network and network is not None:
        network.compile()


def _model(name_or_path: str | PathLike[str] | None, local_files_only: bool) -> Path | None:
    """The folder of one model, local or of the hub."""
    if name_or_path is None:
        return None
    path, name = Path(name_or_path).expanduser(), fspath(name_or_path)
    if path.is_dir():
        return path
    if path.exists() or not isinstance(name_or_path, str) or not _hub.is_name(name):
        raise ValueError(
            f"There is no autoencoder {name!r}: expected a local folder or a hub name"
            " 'owner/name'."
        )
    repository = _hub.Repository(name, local_files_only=local_files_only)
    return repository.fetch(("config.json", "diffusion_pytorch_model.safetensors"))


def _locate(name_or_path: str | PathLike[str]) -> Path | None:
    """The folder of a bundled or local model, None for a hub name."""
    name = fspath(name_or_path)
    if name in names() and isinstance(name_or_path, str):
        return BUNDLED[name]
    path = Path(name_or_path).expanduser()
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise ValueError(f"{name!r} is a file, expected the folder of a diffusers pipeline.")
    if isinstance(name_or_path, str) and _hub.is_name(name):
        return None
    known = ", ".join(map(repr, names())) or "none is installed"
    raise ValueError(
        f"There is no model {name!r}: expected a bundled name ({known}), a local folder, or a hub"
        " name 'owner/name'."
    )


def _family(pipeline: str, name: str) -> ModuleType:
    known = families()
    for adapter, pipelines in known.items():
        if pipeline in pipelines:
            return _plugins.find(__name__, adapter)
    listed = ", ".join(sorted(p for pipelines in known.values() for p in pipelines))
    raise ValueError(f"{name!r} was saved by a {pipeline}, expected one of: {listed}.")


def _dtype(dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}, expected a floating-point torch.dtype or None.")
    return dtype


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.get_default_device()
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise ValueError(f"device is {device!r}, which torch does not have here.") from None
    return device
