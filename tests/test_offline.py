"""Offline mode: no package opens a connection for any request; and a failing hub is a one-line error after one request."""

from __future__ import annotations

import ast
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import visionzoo
from visionzoo import registry, weights
from visionzoo.cli import main
from visionzoo.errors import VisionZooError

ROOT = Path(visionzoo.__file__).parent.parent


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records every connection attempt of this process, and makes it fail. Only visionzoo's own offline setting is on."""
    from huggingface_hub import constants

    asked: list[str] = []

    def refuse(*what: Any, **_: Any) -> Any:
        asked.append(repr(what))
        raise OSError("a request was made")

    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VISIONZOO_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return asked


def remote() -> list[weights.WeightSource]:
    return [source for source in registry.all_sources() if source.hub or source.url]


@pytest.mark.parametrize("source", remote(), ids=lambda source: source.name)
def test_no_checkpoint_is_requested(source: weights.WeightSource, requests: list[str]) -> None:
    with pytest.raises(VisionZooError, match="offline mode is on"):
        weights.fetch(source)
    assert requests == []


def timm_backbone() -> None:
    visionzoo.pipeline("retrieve", model="timm:resnet18")


def timm_teacher() -> None:
    from visionzoo.models.shvit.teacher import Teacher

    Teacher("regnety_160.deit_in1k")


@pytest.mark.parametrize("call", [timm_backbone, timm_teacher], ids=lambda call: call.__name__)
def test_no_other_package_makes_a_request(call: Callable[[], None], requests: list[str]) -> None:
    pytest.importorskip("timm")
    with pytest.raises(VisionZooError, match="offline mode is on"):
        call()
    assert requests == []


def test_weights_that_are_here_are_used(requests: list[str]) -> None:
    """A file placed where the message says."""
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_resnet")
    weights.weights_dir().mkdir(parents=True)
    weights.save_safetensors(network.state_dict(), weights.weights_dir() / "timm_test_resnet.safetensors")
    loaded: Any = weights.timm_network("test_resnet", pretrained=True, extra="retrieval", purpose="a test")
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert requests == []


@pytest.mark.parametrize(
    "words",
    [
        ["retrieve", "index", "PHOTO", "-o", "i", "--model", "timm:resnet18"],
        ["retrieve", "index", "PHOTO", "-o", "i", "--model", "shvit_s1"],
        ["classify", "PHOTO", "--model", "shvit_s2"],
        ["weights", "fetch", "shvit_s1.official"],
    ],
    ids=" ".join,
)
def test_no_command_makes_a_request(
    words: list[str], photo: Callable, requests: list[str], capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("timm")
    image = photo("a.jpg")
    given = [{"PHOTO": str(image), "i": str(image.parent / "i")}.get(word, word) for word in words]
    with pytest.raises(SystemExit) as ended:
        main(given)
    errors = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert len(errors) == 1
    assert "offline mode is on" in errors[0]
    assert requests == []


DOORS = {
    "hf_hub_download", "snapshot_download", "load_state_dict_from_url", "download_url_to_file", "load_url", "urlopen",
    "urlretrieve", "get_hf_file_metadata", "from_timm_hub", "HfApi", "HfFileSystem",
}  # fmt: skip
"""Functions that download; `visionzoo.weights.fetching` alone may call them."""


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith(("timm.create_model", "torch.hub.load")):
                yield called


def test_all_downloads_use_one_function() -> None:
    """A new call elsewhere would ignore offline mode; it must use `visionzoo.weights.fetch`."""
    found = {
        path.relative_to(ROOT).as_posix(): used
        for folder in ("visionzoo", "models", "pipelines", "demos")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (
            used := {*names(ast.parse(path.read_text(encoding="utf-8")))}
            & {*DOORS, "timm.create_model", "torch.hub.load"}
        )
    }
    assert set(found) == {"visionzoo/weights/fetching.py", "visionzoo/weights/timm_networks.py"}, found
    assert found["visionzoo/weights/timm_networks.py"] == {"timm.create_model"}


class FailingHub(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        self.send_response(503)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *_: object) -> None:
        pass


@pytest.fixture
def failing_hub() -> Iterator[str]:
    FailingHub.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FailingHub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_failing_hub_is_asked_once(failing_hub: str, photo: Callable, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    words = ["retrieve", "index", str(photo("a.jpg")), "-o", str(tmp_path / "i"), "--model", "timm:resnet18"]
    settings = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "VISIONZOO_OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-m", "visionzoo", *words],
        env={**settings, "HF_ENDPOINT": failing_hub, "HF_HOME": str(tmp_path / "hub")},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (error,) = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert "timm:resnet18: cannot download model.safetensors from 127.0.0.1/timm/resnet18" in error
    assert "the server answered 503" in error
    assert "--checkpoint FILE" in error
    assert len([path for path in FailingHub.asked if "resnet18" in path]) == 1
