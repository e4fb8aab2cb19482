"""Features of Qdrant only: addresses, keys, collections made by other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionzoo.errors import InputError, VisionZooError
from visionzoo.memory import QdrantStore, open_store
from visionzoo.memory.store import META


def test_qdrant_server_does_not_answer() -> None:
    pytest.importorskip("qdrant_client")
    with pytest.raises(
        VisionZooError, match=r"http://127.0.0.1:9, collection 'x': no answer from a Qdrant server"
    ) as caught:
        QdrantStore("http://127.0.0.1:9", collection="x", dim=3, timeout_s=2)
    assert "\n" not in str(caught.value)
    for url in ("localhost:6333", "ftp://x", "http://"):
        with pytest.raises(InputError, match="is not the address of a server"):
            QdrantStore(url, dim=3)
    with pytest.raises(InputError, match="QDRANT_API_KEY"):
        QdrantStore("http://me:secret@localhost:6333", dim=3)


def test_qdrant_key_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("qdrant_client")
    seen: list[dict[str, Any]] = []

    class Fake(client.QdrantClient):
        def __init__(self, **arguments: Any) -> None:
            seen.append(arguments)
            super().__init__(":memory:")

    monkeypatch.setattr(client, "QdrantClient", Fake)
    monkeypatch.setenv("QDRANT_API_KEY", "from-the-environment")
    with QdrantStore("https://qdrant.example:6333", dim=3) as store:
        store.save(tmp_path / "s")
    with QdrantStore("https://qdrant.example:6333", api_key="given", dim=3) as store:
        store.save(tmp_path / "t")
    assert [arguments["api_key"] for arguments in seen] == ["from-the-environment", "given"]
    for folder in ("s", "t"):
        text = (tmp_path / folder / META).read_text()
        assert "https://qdrant.example:6333" in text
        assert "given" not in text
        assert "from-the-environment" not in text
    open_store(tmp_path / "s").close()
    assert seen[-1]["url"] == "https://qdrant.example:6333"


def test_unsuitable_qdrant_collections_are_refused(tmp_path: Path) -> None:
    client = pytest.importorskip("qdrant_client")
    models = client.models
    local = client.QdrantClient(path=str(tmp_path / "q"))
    local.create_collection("cosine", vectors_config=models.VectorParams(size=3, distance=models.Distance.COSINE))
    local.create_collection("named", vectors_config={"a": models.VectorParams(size=3, distance=models.Distance.DOT)})
    half = models.VectorParams(size=3, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16)
    local.create_collection("half", vectors_config=half)
    local.close()
    for name, message in (("cosine", "distance Cosine"), ("named", "named vectors"), ("half", "stores float16")):
        with pytest.raises(InputError, match=message):
            QdrantStore(path=tmp_path / "q", collection=name, dim=3)
    with pytest.raises(InputError, match="does not exist"):
        QdrantStore(path=tmp_path / "q", collection="none", dim=3, readonly=True)
    with (
        QdrantStore(path=tmp_path / "q", dim=3),
        pytest.raises(VisionZooError, match="another program uses this folder"),
    ):
        QdrantStore(path=tmp_path / "q", dim=3)
    with pytest.raises(InputError, match="holds vectors of 3 values, not 4"):
        QdrantStore(path=tmp_path / "q", dim=4)


def test_qdrant_folder_can_be_moved(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    with open_store(tmp_path / "s", backend="qdrant", dim=3) as store:
        store.add([4], np.array([[1, 2, 3]], np.float32))
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    with open_store(tmp_path / "elsewhere") as store:
        np.testing.assert_array_equal(store.fetch([4]), [[1, 2, 3]])


def test_qdrant_settings_may_be_repeated(tmp_path: Path) -> None:
    """An index opens its store with the settings with which it was created."""
    pytest.importorskip("qdrant_client")
    options: dict[str, Any] = {"backend": "qdrant", "collection": "photos", "dim": 3}
    for turn in range(2):
        with open_store(tmp_path / "s", **options) as store:
            assert len(store) == turn
            store.add([4], np.array([[1, 2, 3]], np.float32))
    with pytest.raises(InputError, match="has the collection 'photos', not 'other'"):
        open_store(tmp_path / "s", **{**options, "collection": "other"})
