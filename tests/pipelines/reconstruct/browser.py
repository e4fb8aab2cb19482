"""A browser without a window: it speaks viser's protocol, looks from somewhere, uses controls and keeps what it was sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import viser
import zstandard
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol


class Browser:
    """Connects to the address of a viewer.

    Attributes:
        messages: everything received; arrays are bytes.
    """

    def __init__(self, address: str):
        self.messages: list[dict[str, Any]] = []
        protocol = Subprotocol(f"viser-v{viser.__version__}")
        self._socket = connect(
            address.replace("http", "ws"), subprotocols=[protocol], max_size=None, open_timeout=30, compression=None
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._reader.join(10)

    def send(self, kind: str, **fields: Any) -> None:
        self._socket.send(msgspec.msgpack.encode({"type": kind, **fields}))

    def look(self, *, position: Any = (0.0, 0.0, -3.0), width: int = 64, height: int = 48, **more: Any) -> None:
        """Report a camera that looks along z; by default one in front of the scene."""
        pose = {
            "wxyz": (1.0, 0.0, 0.0, 0.0), "position": tuple(map(float, position)), "fov": 0.8, "near": 0.01, "far": 1000.0,
            "image_height": height, "image_width": width, "look_at": (0.0, 0.0, 1.0), "up_direction": (0.0, -1.0, 0.0),
        }  # fmt: skip
        self.send("ViewerCameraMessage", **{**pose, **more})

    def use(self, label: str, value: Any = True) -> None:
        """Set the control with this label, or press it."""
        (uuid,) = {each["uuid"] for each in self.messages if each.get("props", {}).get("label") == label}
        self.send("GuiUpdateMessage", uuid=uuid, updates={"value": value})

    def received(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in list(self.messages) if each["type"] == kind]

    def splats(self) -> list[np.ndarray]:
        """Buffers (N, 8) uint32 of Gaussians, in the order in which they came."""
        buffers = []
        for each in list(self.messages):
            fields = each.get("props", each.get("updates", {}))
            if isinstance(fields.get("buffer"), bytes):
                buffers.append(np.frombuffer(fields["buffer"], np.uint32).reshape(-1, 8))
        return buffers

    def images(self) -> list[bytes]:
        """Files of background images, in the order in which they came."""
        return [each["rgb_data"] for each in self.received("BackgroundImageMessage") if each["rgb_data"]]

    def text(self) -> str:
        """The latest text of the first line of the panel."""
        (uuid,) = {each["uuid"] for each in self.received("GuiMarkdownMessage")[:1]}
        texts = [each["props"]["_markdown"] for each in self.received("GuiMarkdownMessage")[:1]]
        for each in self.received("GuiUpdateMessage"):
            if each["uuid"] == uuid and "_markdown" in each["updates"]:
                texts.append(each["updates"]["_markdown"])
        return texts[-1]

    def _read(self) -> None:
        try:
            for data in self._socket:
                assert isinstance(data, bytes)
                self.messages += _decoded(data)
        except ConnectionClosed:
            pass


def _decoded(data: bytes) -> list[dict[str, Any]]:
    """viser's windows: two lengths, compressed msgpack, then arrays that start at multiples of 8."""
    size = int.from_bytes(data[8:16], "little")
    content = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[16 : 16 + size]))
    place, arrays = 16 + size, []
    for length in content["binaryBufferLengths"]:
        place += -place % 8
        arrays.append(data[place : place + length])
        place += length
    return [_filled(message, arrays) for message in content["messages"]]


def _filled(value: Any, arrays: list[bytes]) -> Any:
    if isinstance(value, dict):
        if "__binary_index" in value:
            return arrays[value["__binary_index"]]
        return {key: _filled(each, arrays) for key, each in value.items()}
    return [_filled(each, arrays) for each in value] if isinstance(value, list | tuple) else value


def until(step: Callable[[], object], done: Callable[[], object], most_s: float = 60.0) -> None:
    """Call `step` until `done`."""
    ends = time.monotonic() + most_s
    while not done():
        assert time.monotonic() < ends, "nothing happened"
        step()
        time.sleep(0.01)


__all__ = ["Browser", "until"]
