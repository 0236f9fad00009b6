"""Files of the model hub, from its local cache or downloaded, without a long wait if there is no network."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from dreamtune.errors import BaseModelError, first_line

TIMEOUT = 10.0
"""Seconds that the hub has to answer the first question."""


def hub_file(repo: str, name: str, local: bool = False) -> tuple[Path, bool]:
    """The local copy of file `name` ("folder/file") of `repo`, and whether the hub answered; `local` never asks it.

    Where the hub cannot be reached, or HF_HUB_OFFLINE is set, a cached copy will do. Raises BaseModelError when there
    is no such model or file, when access has to be asked for, and when the hub is out of reach and nothing cached.
    """
    if local:
        cached = try_to_load_from_cache(repo, name)
        if isinstance(cached, str):
            return Path(cached), False
        raise BaseModelError(
            f"the adapter's base {repo} is not on this machine, and a file alone never triggers a download: "
            f"ask for it with --base {repo}"
        )
    try:
        # Asked before downloading, because the download's own answer to a missing network is minutes of retries.
        get_hf_file_metadata(hf_hub_url(repo, name), timeout=TIMEOUT)
        return Path(hf_hub_download(repo, name)), True
    except GatedRepoError:
        raise BaseModelError(f"{repo} is gated: accept its terms on the hub and run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise BaseModelError(f"no base model {repo!r}, neither as a folder nor on the hub: check the name") from None
    except EntryNotFoundError:
        raise BaseModelError(
            f"{repo} on the hub has no {name}, so it is not a diffusers pipeline: choose another"
        ) from None
    except Exception as error:  # no network, a proxy's refusal, the hub's own trouble: whatever the client raises
        cached = try_to_load_from_cache(repo, name)
        if isinstance(cached, str):
            return Path(cached), False
        raise BaseModelError(
            f"no folder {repo!r} here, and the hub cannot be reached ({type(error).__name__}): "
            "check the name and the network, or use a folder"
        ) from None


def hub_files(repo: str) -> list[str]:
    """Names ("folder/file") of the files of `repo` on the hub, which has answered. Raises BaseModelError."""
    try:
        return HfApi().list_repo_files(repo)
    except Exception as error:  # as above
        raise BaseModelError(
            f"the hub does not list the files of {repo} ({type(error).__name__}): try again, or use a folder"
        ) from None


def trouble() -> str | None:
    """Why the hub cannot be used, or None if it answers."""
    try:
        get_hf_file_metadata(hf_hub_url("openai/clip-vit-large-patch14", "vocab.json"), timeout=TIMEOUT)
    except Exception as error:  # as above
        return f"{type(error).__name__}: {first_line(error)}"
    return None
