"""Download files of the Hugging Face hub into its own cache, with a line for each way to fail.

`huggingface_hub` is imported when a file is asked for. It checks sizes, continues what breaks off,
reads `HF_HUB_OFFLINE`, `HF_ENDPOINT` and `HF_HOME`, and uses the token that it knows, if any.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from tlnb.core.runtime.errors import ModelError
from tlnb.core.storage.download import DISK_FULL, Progress, TqdmStandIn

SIZES_DIFFER = re.compile(r"of size (\d+) but has size (\d+)")  # of the library's error
OFFLINE_LINE = "%tl_load efficientnet_lite0 needs no network"


def cached_hub_file(repo: str, files: Sequence[str]) -> Path | None:
    """The first of these files of a repository that is in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repo.partition("@")
    found = (try_to_load_from_cache(name, file, revision=revision or None) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def hub_file(repo: str, files: Sequence[str], model: str, progress: Progress | None = None) -> Path:
    """The first of these files that a repository has, from the cache or downloaded.

    What is in the cache is used as it is: the hub is not asked for a later version.

    Args:
        repo: `ORG/NAME` or `ORG/NAME@REVISION`.
        model: the model's name, for error messages.

    Raises:
        ModelError: no network, a repository that is gated, private or missing, none of the files,
            a broken download.
    """
    from huggingface_hub import errors

    error: Exception | None = None
    bar = _HubBar(progress)
    with _quiet():
        for file in files:
            try:
                return cached_hub_file(repo, [file]) or _downloaded(repo, file, bar)
            except errors.RemoteEntryNotFoundError as missing:
                error = missing
            except Exception as failed:  # its HTTP library raises many types
                error = failed
                break
    reason = _reason(error, repo, files, bar)
    raise ModelError(f"{model} could not be downloaded: {reason}") from None


def _downloaded(repo: str, file: str, bar: TqdmStandIn) -> Path:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    name, _, revision = repo.partition("@")
    # Asked first, since `hf_hub_download` tries for half a minute before it says what is wrong.
    url = hf_hub_url(name, file, revision=revision or None)
    get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    given: dict[str, Any] = {"revision": revision or None}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        given["tqdm_class"] = bar
    return Path(hf_hub_download(name, file, **given))


class _HubBar(TqdmStandIn):
    """Stands in for tqdm in the hub's library, which calls more of its methods."""

    format_dict: dict[str, Any] = {}  # noqa: RUF012 — the library reads a rate there

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's warnings about each retry out of the notebook."""
    logger = logging.getLogger("huggingface_hub")
    before, level = logger.level, logging.ERROR + 1
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _reason(error: Exception | None, repo: str, files: Sequence[str], bar: TqdmStandIn) -> str:
    """Say what went wrong, and what to do."""
    from huggingface_hub import constants, errors

    name, _, revision = repo.partition("@")
    host = urlparse(constants.ENDPOINT).hostname
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} is not the name of a repository; write hf-hub:ORG/NAME"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} is gated; accept its terms at {constants.ENDPOINT}/{name}, then `hf auth "
            "login`, and run the line again"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{host} has no repository {name}, or it is private; check its name"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; leave out @{revision}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{name} holds no {' and no '.join(files)}, as networks of timm do"
    if constants.HF_HUB_OFFLINE:
        return f"not in the hub's cache, and HF_HUB_OFFLINE is set; {OFFLINE_LINE}"
    return _connection(error, host, bar)


def _connection(error: Exception | None, host: str | None, bar: TqdmStandIn) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.HfHubHTTPError):
        return f"{host} answered {error.response.status_code}; {OFFLINE_LINE}"
    cause = (error.__cause__ or error) if error is not None else None
    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
        return f"no room in {constants.HF_HUB_CACHE}; name another folder with %env HF_HOME=FOLDER"
    if "Timeout" in type(cause).__name__:
        return f"{host} did not answer in time; {OFFLINE_LINE}"
    sizes = SIZES_DIFFER.search(str(cause))
    if sizes or bar.short:
        total, done = map(int, sizes.groups()) if sizes else (bar.total, bar.done)
        return f"cut short after {done / 1e6:,.1f} of {total / 1e6:,.1f} MB; run the line again"
    said = " ".join(str(cause).split())[:80] or type(cause).__name__
    return f"no connection to {host} ({said}); {OFFLINE_LINE}"
