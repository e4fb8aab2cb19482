"""A scene in the browser, with its time: `visionzoo view`, and the live preview of a training.

Browsers connect to a viser server, which runs in threads of its own. Everything that touches the scene happens in the thread that
calls `Viewer.step`, so a training can show its model between two iterations without locks.
"""

from __future__ import annotations

import contextlib
import io
import queue
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from visionzoo.errors import InputError, require
from visionzoo.serving import check_address

from .browser_splats import browser_scale
from .fitting import evenly
from .playback import Mode, Playback, ViewState
from .scene import Scene
from .view_panel import Panel
from .visitors import Pose, Visitor, field_of_view, mean_center

require("viser", extra="gs", purpose="a viewer of scenes")
import viser  # noqa: E402
import viser.transforms  # noqa: E402

DEFAULT_SECONDS = 5.0
MOST_FRUSTUMS = 60
IDLE_S = 0.5


class _Server(viser.ViserServer):
    def request_share_url(self, verbose: bool = True) -> str | None:
        """Nothing: a browser could otherwise ask viser to make the scene public through a server of its authors."""
        return None


class Viewer:
    """A scene in the browser.

        with Viewer(Scene.open("scene.vzgs")) as viewer:
            print(viewer.address)
            viewer.run()

    Args:
        scene: what to show.
        host, port: address to listen at.
        mode: "render" for images from the server, with exact colours; "splats" for Gaussians that the browser draws; "auto" is render
            on CUDA, and splats elsewhere.
        fps: frames per second while the scene plays.
        title: what the scene is called.

    Attributes:
        state: what the controls set.
        address: for the browser.

    Raises:
        InputError: the port is in use, or the host is not an address of this machine.
        MissingDependencyError: viser is not installed.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        mode: Literal["auto", "render", "splats"] = "auto",
        fps: float = 24.0,
        title: str = "scene",
    ):
        self.scene, self.fps, self.version = scene, fps, 0
        chosen: Mode = mode if mode != "auto" else "render" if scene.device.type == "cuda" else "splats"
        first = scene.cameras[0]
        self.state = ViewState(mode=chosen, playback=Playback(_seconds(scene), first.time))
        self.scale = browser_scale(scene.gaussians(mean_center(scene), first.time))
        self._requests: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._visitors: dict[int, Visitor] = {}
        self._last = time.monotonic()
        self.server = _start(host, port)
        self.address = address_of(host, port)
        self._look_around()
        self.panel = Panel(self.server, scene, self.state, self.ask, self.go_to, _title(scene, title))
        self.panel.cameras.on_update(lambda event: self.ask(self._show_cameras))
        self.server.on_client_connect(self._arrived)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        with contextlib.redirect_stdout(io.StringIO()):  # viser says so
            self.server.stop()

    def ask(self, change: Callable[[], object]) -> None:
        """Let the thread that renders make a change; any thread may ask."""
        self._requests.put(change)

    def run(self) -> None:
        """Serve until Ctrl-C."""
        while True:
            self.step(self._pause())

    def step(self, wait_s: float = 0.0) -> bool:
        """Make the changes that were asked for, and send what is new; returns whether anything was sent.

        Args:
            wait_s: seconds to wait for the first change.
        """
        self._make_changes(wait_s)
        now = time.monotonic()
        self.state.playback.advance(now - self._last)
        self._last = now
        visitors = self._present()
        sent = [visitor.update(self.scene, self.state, self.version) for visitor in visitors]
        self.panel.refresh(self.scene, visitors)
        return any(sent)

    def replace(self, scene: Scene) -> None:
        """Show another scene, or the same one after it has changed; cameras stay where they are."""
        self.scene = scene
        self.version += 1

    @property
    def has_visitors(self) -> bool:
        """Whether any browser is connected."""
        return bool(self.server.get_clients())

    def go_to(self, client_id: int, view: float) -> None:
        """Move the camera of a browser to a training view, and the scene to its time if it does not play."""
        visitor = self._visitors.get(client_id)
        if visitor is None:
            return
        chosen = self.scene.cameras[int(min(max(view, 0), len(self.scene.cameras) - 1))]
        visitor.place(chosen.camera, self._distance(chosen.camera))
        if not self.state.playback.playing:
            self.state.playback.seek(chosen.time)

    # What happens in the thread that renders

    def _make_changes(self, wait_s: float) -> None:
        try:
            change = self._requests.get(timeout=wait_s) if wait_s > 0 else self._requests.get_nowait()
            while True:
                change()
                change = self._requests.get_nowait()
        except queue.Empty:
            pass

    def _pause(self) -> float:
        """Seconds until something is due without a request."""
        now = time.monotonic()
        if self.state.playback.playing and self._visitors:
            return max(self._last + 1 / self.fps - now, 0.0)
        due = [wait for each in self._visitors.values() if (wait := each.due(now)) is not None]
        return min([IDLE_S, *due])

    def _present(self) -> list[Visitor]:
        """The connected browsers; new ones start at the first training view."""
        clients = self.server.get_clients()
        self._visitors = {number: each for number, each in self._visitors.items() if number in clients}
        for number in clients.keys() - self._visitors.keys():
            if Pose.of(clients[number].camera) is None:  # e.g. a window without a size
                continue
            self._visitors[number] = Visitor(clients[number], self.scale)
            camera = self.scene.cameras[int(self.panel.view.value)].camera
            self._visitors[number].place(camera, self._distance(camera))
        return list(self._visitors.values())

    def _distance(self, camera: Any) -> float:
        """How far in front of a camera the point is around which it turns."""
        ahead = float((self.scene.focus - camera.centre) @ camera.world_to_camera[2, :3])
        spread = float(np.linalg.norm(self.scene.focus - camera.centre))
        return max(ahead, 0.1 * spread, 1e-6)

    def _show_cameras(self) -> None:
        """Show or hide the training cameras, which are added when they are shown for the first time."""
        if not self._frustums and self.panel.cameras.value:
            for number, each in enumerate(evenly(self.scene.cameras, MOST_FRUSTUMS)):
                camera = each.camera
                turn = viser.transforms.SO3.from_matrix(camera.world_to_camera[:3, :3].T)
                self._frustums.append(
                    self.server.scene.add_camera_frustum(
                        f"/cameras/{number}", field_of_view(camera, camera.width / camera.height),
                        camera.width / camera.height, scale=0.06 * self._distance(camera) * self.scale,
                        thickness=1.5, thickness_units="screen", color=(60, 110, 220), wxyz=turn.wxyz,
                        position=camera.centre * self.scale, cast_shadow=False, receive_shadow=False,
                    )
                )  # fmt: skip
        for frustum in self._frustums:
            frustum.visible = bool(self.panel.cameras.value)

    # What happens once, or in threads of viser

    def _look_around(self) -> None:
        """Tell browsers which way is up, and where they start."""
        camera = self.scene.cameras[0].camera
        axes = camera.world_to_camera[:3, :3]
        self._frustums: list[viser.CameraFrustumHandle] = []
        self.server.scene.set_up_direction(self.scene.up)
        start = self.server.initial_camera
        start.position = camera.centre * self.scale
        start.look_at = (camera.centre + self._distance(camera) * axes[2]) * self.scale
        start.up, start.fov = -axes[1], field_of_view(camera, camera.width / camera.height)
        start.near, start.far = 0.01, max(1000.0, 100 * self._distance(camera) * self.scale)

    def _arrived(self, client: viser.ClientHandle) -> None:
        client.camera.on_update(lambda camera: self.ask(_nothing))
        self.ask(_nothing)


def address_of(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    return f"http://{'localhost' if host in ('0.0.0.0', '::') else f'[{host}]' if ':' in host else host}:{port}"


def _nothing() -> None:
    """A request that only wakes the viewer."""


def _start(host: str, port: int) -> viser.ViserServer:
    check_address(host, port)
    with contextlib.redirect_stdout(io.StringIO()):  # viser prints a table
        server = _Server(host, port, verbose=False)
        if server.get_port() == port:
            return server
        server.stop()
    raise InputError(f"port {port} on {host} is in use; choose another with --port")  # viser takes the next one


def _seconds(scene: Scene) -> float:
    """How long a scene plays."""
    if scene.facts.fps and scene.facts.frames > 1:
        return scene.facts.frames / scene.facts.fps
    return DEFAULT_SECONDS


def _title(scene: Scene, title: str) -> str:
    """The name of a scene, and what its file says."""
    facts = [f"{len(scene.cameras)} training views"] if scene.facts.cameras else []
    facts += [f"{value:.1f} dB on {name.partition('/')[0]} views" for name, value in scene.facts.scores.items()]
    name = title.translate({ord(mark): f"\\{mark}" for mark in "\\`*_{}[]<>()#+-.!|"})  # no Markdown
    return "  \n".join([f"**{name}**", *([", ".join(facts)] if facts else [])])


__all__ = ["Viewer", "address_of"]
