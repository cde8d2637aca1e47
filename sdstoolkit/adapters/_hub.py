"""Folders of the Hugging Face hub: what a checkpoint needs, and nothing else.

Fetched are model_index.json and, of the components it names, their JSON and text files and the
safetensors of one variant; safety checkers, other variants, other formats and code stay there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
ROOT = ("model_index.json", "config.json", "scheduler_config.json")
WEIGHTS = ("diffusion_pytorch_model", "model")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def is_name(name: str) -> bool:
    """Whether it could name a repository of the hub: "owner/name"."""
    return NAME.fullmatch(name) is not None


def patterns(index: Mapping[str, Any], variant: str | None) -> tuple[str, ...]:
    """The files of a pipeline that are read, as fnmatch patterns.

    Args:
        index: the contents of its model_index.json.
        variant: of the weight files.
    """
    shard = "-?????-of-?????"
    v = "" if variant is None else f".{variant}"
    stems = {v, v + shard, shard + v}
    weights = [f"{name}{stem}.safetensors" for name in WEIGHTS for stem in stems]
    components = [
        name
        for name, declared in index.items()
        if isinstance(declared, list) and declared[-1] is not None and name not in UNUSED
    ]
    files = ("*.json", "*.txt", "*.jinja", "*.model", *weights)
    inside = [f"{component}/{file}" for component in components for file in files]
    return (*ROOT, *weights, *inside)  # the oldest repositories hold everything in the root


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        name: "owner/name".
        revision: a branch, a tag or a commit; None for the default branch.
        local_files_only: no connection, the local cache only.
    """

    name: str
    revision: str | None = None
    local_files_only: bool = False

    def fetch(self, files: Iterable[str]) -> Path:
        """The local folder that holds those of its files that match.

        Raises:
            ValueError: the repository or the revision does not exist or is gated, or the hub is
                not reached and the local cache lacks it.
        """
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
        from huggingface_hub.utils import httpx

        offline = self.local_files_only or constants.is_offline_mode()
        try:
            return Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    allow_patterns=list(files),
                    local_files_only=offline,
                )
            )
        except GatedRepoError:
            problem = "is gated on the hub: ask for access there and log in with `hf auth login`"
        except RepositoryNotFoundError:
            problem = "is neither a local folder nor a repository of the hub (or it is private)"
        except RevisionNotFoundError:
            problem = f"has no revision={self.revision!r} on the hub"
        except LocalEntryNotFoundError:
            problem = "is neither a local folder nor in the hub's local cache, and the hub " + (
                "may not be reached (local_files_only or HF_HUB_OFFLINE)"
                if offline
                else "cannot be reached"
            )
        except HFValidationError:
            problem = "is neither a local folder nor a valid name of a hub repository"
        except (HfHubHTTPError, OSError, httpx.HTTPError) as error:
            line = str(error).strip().partition("\n")[0].rstrip(".")
            problem = f"cannot be fetched from the hub: {type(error).__name__}: {line}"
        raise ValueError(f"{self.name!r} {problem}.")
