"""A diffusers pipeline folder, opened one component at a time and checked before it is used.

    model_index.json     the pipeline's class, and the class of each component
    <component>/         config.json and *.safetensors   (the oldest folders: all in the root)

Weights are read from safetensors only: a pickle can run code when it is opened. What is loaded is
frozen, in eval mode and wholly from the files: a tensor that is missing, left over, of another
shape than the config says, or not finite is an error that names it, where the libraries would warn
and go on with random numbers.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from sdstoolkit.adapters._diffusers import read_scheduler
from sdstoolkit.adapters._network import Trained
from sdstoolkit.noise import Discrete, Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INDEX = "model_index.json"
DENOISERS = ("unet", "transformer", "controlnet")
AUTOENCODERS = ("vae", "vqvae", "movq")
TOKENS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
Network = TypeVar("Network", bound=nn.Module)
Tokenizer = TypeVar("Tokenizer", bound="PreTrainedTokenizerBase")


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline folder and how to open it.

    Attributes:
        path: the folder.
        name: what the user called it; it stands in every message.
        dtype: of the networks.
        device: of the networks.
        variant: of the weight files, "fp16" for `model.fp16.safetensors`; None for the plain ones.
        index: the contents of model_index.json.
        autoencoder: the folder of another autoencoder, to take the place of this one's.
        text_device: of the text encoders; None for `device`.
        layers_device: of the denoising networks; None for `device`.
        opened: the networks and tokenizers opened so far, by component.
    """

    path: Path
    name: str
    dtype: torch.dtype
    device: torch.device
    variant: str | None
    index: Mapping[str, Any]
    autoencoder: Path | None = None
    text_device: torch.device | None = None
    layers_device: torch.device | None = None
    opened: dict[str, Any] = field(default_factory=dict)

    def component(self, component: str, *classes: str) -> tuple[Path, str]:
        """The folder of a component, and its class, which is one of `classes`.

        Raises:
            ValueError: the component is absent, or of another class.
        """
        declared = self.index.get(component)
        if not (isinstance(declared, list) and len(declared) == 2 and declared[1]):
            raise ValueError(
                f"{self.name!r} has no {component}: expected {' or '.join(classes)} there."
            )
        if declared[1] not in classes:
            raise ValueError(
                f"The {component} of {self.name!r} is a {declared[1]}, expected"
                f" {' or '.join(classes)}."
            )
        folder = self.path / component
        return folder if folder.is_dir() else self.path, declared[1]

    def has(self, component: str) -> bool:
        """Whether the index names a class for a component."""
        declared = self.index.get(component)
        return isinstance(declared, list) and declared[-1] is not None

    def config(self, component: str, filename: str = "config.json") -> dict[str, Any]:
        """The contents of a component's config."""
        folder = self.path / component
        path = (folder if folder.is_dir() else self.path) / filename
        if not path.is_file():
            raise ValueError(
                f"{self.name!r} has no {component}: {component}/{filename} does not exist."
            )
        return read_json(path)

    def scheduler(self, *schedules: type[Schedule]) -> Trained:
        """What the network was trained on, by the scheduler's config.

        Args:
            schedules: those that the family knows; a table of betas if none is named.

        Raises:
            ValueError: the config is not known, or of another schedule.
        """
        config = self.config("scheduler", "scheduler_config.json")
        known = schedules or (Discrete,)
        with self.explained():
            trained = read_scheduler(config)
            if not isinstance(trained.schedule, known):
                raise ValueError(
                    f"The {config['_class_name']} is of the schedule"
                    f" {type(trained.schedule).__name__}, and networks of this kind are trained"
                    f" on {' or '.join(s.__name__ for s in known)}."
                )
            return trained

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """A ValueError inside is one of this folder's, and says so."""
        try:
            yield
        except ValueError as error:
            line = str(error).removesuffix(".")
            raise ValueError(f"{self.name!r} cannot be opened: {line}.") from None

    def expect(self, component: str, values: Mapping[str, object]) -> None:
        """A component's config has these values where it has the keys.

        Raises:
            ValueError: another value.
        """
        config = self.config(component)
        for key, value in values.items():
            if config.get(key, value) != value:
                expected = "none" if value is None else repr(value)
                raise ValueError(
                    f"The {component} of {self.name!r} has {key}={config[key]!r}, expected"
                    f" {expected}."
                )

    def fit(self, *pairs: tuple[str, object, str, object]) -> None:
        """Components that belong together.

        Args:
            pairs: name and value of a number of one component, and those of the other's.

        Raises:
            ValueError: two of the values differ.
        """
        for ours, value, theirs, other in pairs:
            if value != other:
                raise ValueError(
                    f"The components of {self.name!r} do not fit: the {ours} is {value} and the"
                    f" {theirs} is {other}."
                )

    def network(self, component: str, *classes: type[Network], overflows: bool = False) -> Network:
        """A component's network: its own weights, frozen, in eval mode, on the device.

        Args:
            component: its name in the index, and of its folder.
            classes: the diffusers or transformers model classes that it may be of.
            overflows: in float16 it is float32 nevertheless, where its config has force_upcast.

        Raises:
            ValueError: no safetensors, a file that cannot be read, a config that contradicts the
                weights, or weights that are not finite.
        """
        known: dict[str, Any] = {cls.__name__: cls for cls in classes}
        if component in AUTOENCODERS and self.autoencoder is not None:
            declared = {component: ["diffusers", self._declared(self.autoencoder)]}
            other = replace(
                self, path=self.autoencoder, index=declared, autoencoder=None, variant=None
            )
            return other.network(component, *classes, overflows=overflows)
        folder, name = self.component(component, *known)
        config = self.config(component)
        found = config.get("_class_name", name)
        if found != name:
            raise ValueError(
                f"{component}/config.json of {self.name!r} is of a {found}, expected the {name} of"
                f" its {INDEX}."
            )
        self._check_files(component, folder)
        dtype = self.dtype
        if (
            overflows
            and dtype == torch.float16
            and config.get("force_upcast", name == "AutoencoderKL")
        ):
            dtype = torch.float32
        with self._readable(component):
            network, report = known[name].from_pretrained(
                folder,
                dtype=dtype,
                variant=self.variant,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported by name below
                output_loading_info=True,
            )
        self._check_report(component, report)
        self._check_finite(component, network)
        device: torch.device | None = self.device
        if component.startswith("text_encoder"):
            device = self.text_device or self.device
        elif component in DENOISERS:
            device = self.layers_device or self.device
        self.opened[component] = network.eval().requires_grad_(False).to(device)
        return self.opened[component]

    def tokenizer(self, component: str, *classes: type[Tokenizer]) -> Tokenizer:
        """A component's tokenizer, of one of these classes or their old fast ones."""
        known = {cls.__name__ + fast: cls for cls in classes for fast in ("", "Fast")}
        folder, name = self.component(component, *known)
        if not any((folder / file).is_file() for file in TOKENS):
            raise ValueError(
                f"{self.name!r} has no {component}: neither {component}/tokenizer.json nor"
                f" {component}/vocab.json exists."
            )
        with self._readable(component):
            self.opened[component] = known[name].from_pretrained(folder, local_files_only=True)
        return self.opened[component]

    @staticmethod
    def _declared(folder: Path) -> str:
        """The class of the one model in a folder."""
        path = folder / "config.json"
        if not path.is_file():
            raise ValueError(f"{str(folder)!r} has no config.json, expected one autoencoder.")
        return str(read_json(path).get("_class_name"))

    @contextlib.contextmanager
    def _readable(self, component: str) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # whatever the libraries raise here, it is the folder's fault
            line = str(error).strip().partition("\n")[0].rstrip(".")
            raise ValueError(
                f"The {component} of {self.name!r} cannot be read: {type(error).__name__}: {line}."
            ) from None

    def _check_files(self, component: str, folder: Path) -> None:
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
        weights = [file for file in files if file.endswith(".safetensors")]
        if not weights:
            pickles = [file for file in files if file.endswith((".bin", ".pt", ".ckpt", ".pth"))]
            found = f"only {', '.join(pickles)}" if pickles else "no weights"
            raise ValueError(
                f"The {component} of {self.name!r} has {found}, expected safetensors (pickles are"
                " never opened): save it again with safe_serialization=True."
            )
        variants = {_variant(file) for file in weights}
        if self.variant not in variants:
            listed = ", ".join(sorted(repr(v) for v in variants))
            raise ValueError(
                f"The {component} of {self.name!r} has no variant={self.variant!r}, expected one"
                f" that is there: {listed}."
            )

    def _check_report(self, component: str, report: Mapping[str, Any]) -> None:
        for key, stored, wanted in report["mismatched_keys"]:
            raise ValueError(
                f"The config of the {component} of {self.name!r} contradicts its weights: {key} is"
                f" {tuple(stored)} in the file and {tuple(wanted)} by the config."
            )
        for kind, problem in (
            ("missing_keys", "in the config's network but not in the file"),
            ("unexpected_keys", "in the file but not in the config's network"),
        ):
            keys = sorted(key for key in report[kind] if not key.endswith("position_ids"))
            if keys:
                raise ValueError(
                    f"The config of the {component} of {self.name!r} contradicts its weights:"
                    f" {keys[0]} ({len(keys)} in all) is {problem}."
                )

    def _check_finite(self, component: str, network: nn.Module) -> None:
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(
                    f"The {component} of {self.name!r} has NaN or infinity in {key} (read as"
                    f" {self.dtype}), expected finite weights."
                )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: the file is not JSON, or not an object.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(contents, dict):
        raise ValueError(f"{path} holds a JSON {type(contents).__name__}, expected an object.")
    return contents


def read_index(path: Path, name: str) -> dict[str, Any]:
    """The contents of a folder's model_index.json.

    Raises:
        ValueError: there is none, or it names no pipeline class.
    """
    if not (path / INDEX).is_file():
        single = (path / "config.json").is_file()
        raise ValueError(
            f"{name!r} holds {'one model and ' if single else ''}no {INDEX}: expected a folder"
            " saved by a diffusers pipeline."
        )
    index = read_json(path / INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(f"The {INDEX} of {name!r} has no _class_name, expected a pipeline's.")
    return index


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the progress bars and warnings of diffusers and transformers; restores both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.utils import logging as diffusers
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
        from transformers.utils import logging as transformers

        libraries = (diffusers, transformers)
        levels = [library.get_verbosity() for library in libraries]
        bars = [library.is_progress_bar_enabled() for library in libraries]
        hub_disabled = are_progress_bars_disabled()
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        try:
            yield
        finally:
            for library, level, bar in zip(libraries, levels, bars, strict=True):
                library.set_verbosity(level)
                if bar:
                    library.enable_progress_bar()
            if hub_disabled:  # the libraries' switch turns the hub's bars on too
                disable_progress_bars()


def _variant(file: str) -> str | None:
    """None for `model.safetensors`, "fp16" for `model.fp16.safetensors`; shards alike."""
    pieces = file.removesuffix(".safetensors").split(".")[1:]
    return pieces[0].partition("-0")[0] if pieces else None
