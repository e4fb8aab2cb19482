"""The controls of a viewer in the browser.

viser calls their functions in threads of its own. None of them touches the scene: each asks for a change, which the viewer makes in
the thread that renders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from visionzoo.console import counted

from .playback import SPEEDS, ViewState
from .scene import Scene
from .visitors import Visitor

if TYPE_CHECKING:
    import viser

Request = Callable[[], object]

MODES = {"browser": "splats", "server": "render"}
SHOWS = ("color", "depth", "opacity")
SIDES = (256, 2048, 64)


class Panel:
    """The controls, bound to a state.

    Args:
        server: where they are shown.
        scene: what is looked at.
        state: what they change.
        ask: called with every change, to be made later.
        go_to: moves the camera of a client, by its number, to a training view.
        title: first line, in Markdown.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        scene: Scene,
        state: ViewState,
        ask: Callable[[Request], None],
        go_to: Callable[[int, int], object],
        title: str,
    ):
        self._state, self._ask, self._go_to, self._title = state, ask, go_to, title
        gui: Any = server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        gui.set_panel_label("visionzoo")
        self._about = gui.add_markdown(title)
        playback = state.playback
        with gui.add_folder("Playback") as self._times:
            self.time = gui.add_slider("Time", 0.0, 1.0, 0.001, playback.time, hint="0 is the start, 1 the end.")
            self.play = gui.add_button("Play")
            self.speed = gui.add_dropdown("Speed", tuple(SPEEDS), initial_value="1")
            self.loop = gui.add_checkbox("Loop", playback.loop)
        with gui.add_folder("Camera"):
            last = len(scene.cameras) - 1
            self.view = gui.add_slider(
                "View", 0, max(last, 1), 1, 0, disabled=not last,
                hint="Move the camera, and the time, to those of a training view.",
            )  # fmt: skip
            self.reset = gui.add_button("Reset camera", hint="Back to this view.")
            self.cameras = gui.add_checkbox("Training cameras", False)
        with gui.add_folder("Display"):
            names = {mode: name for name, mode in MODES.items()}
            self.mode = gui.add_dropdown(
                "Drawn by", tuple(MODES), initial_value=names[state.mode],
                hint="The browser moves smoothly; the server shows exact colours, depth and opacity.",
            )  # fmt: skip
            self.follow = gui.add_checkbox(
                "Colours of this view", state.follow,
                hint="Colours depend on the direction of view: use those of your camera, or else of the mean training camera.",
            )  # fmt: skip
            self.show = gui.add_dropdown("Show", SHOWS, initial_value=state.show)
            self.side = gui.add_slider(
                "Longer side", *SIDES, state.most_side, hint="Pixels of a rendered image while nothing moves."
            )
        self._bind()
        self.refresh(scene, [])

    def _bind(self) -> None:
        state, playback = self._state, self._state.playback
        self._on(self.time, lambda value, client: playback.seek(value))
        self._on(self.speed, lambda value, client: setattr(playback, "speed", SPEEDS.get(value, playback.speed)))
        self._on(self.loop, lambda value, client: setattr(playback, "loop", bool(value)))
        self._on(self.follow, lambda value, client: setattr(state, "follow", bool(value)))
        self._on(self.mode, lambda value, client: setattr(state, "mode", MODES.get(value, state.mode)))
        self._on(self.show, lambda value, client: setattr(state, "show", value if value in SHOWS else state.show))
        self._on(self.side, lambda value, client: setattr(state, "most_side", min(max(int(value), SIDES[0]), SIDES[1])))
        self._on(self.view, lambda value, client: self._go_to(client, value))
        self.play.on_click(lambda event: self._ask(playback.toggle))
        self.reset.on_click(lambda event: self._ask(lambda: self._go_to(event.client_id, self.view.value)))

    def _on(self, handle: Any, change: Callable[[Any, int], object]) -> None:
        """Ask for `change`, with a value and the number of a client, when someone uses a control, not when the viewer sets it."""

        async def changed(event: Any) -> None:  # in viser's own loop, before the viewer can set another value
            value = handle.value
            if event.client_id is not None:
                self._ask(lambda: change(value, event.client_id))

        handle.on_update(changed)

    def refresh(self, scene: Scene, visitors: list[Visitor]) -> None:
        """Show the state in the controls, and what the visitors see."""
        state = self._state
        _set(self._times, "visible", not scene.is_static)
        _set(self.time, "value", round(state.playback.time, 3))
        _set(self.play, "label", "Pause" if state.playback.playing else "Play")
        _set(self.follow, "visible", state.mode == "splats")
        _set(self.show, "visible", state.mode == "render")
        _set(self.side, "visible", state.mode == "render")
        lines = [self._title]
        for visitor in visitors[:1]:
            size = " at {} x {}".format(*visitor.size) if visitor.size[0] else ""
            lines.append(counted(visitor.count, "Gaussian") + size)
        _set(self._about, "content", "  \n".join(lines))


def _set(handle: Any, name: str, value: object) -> None:
    """Send a change, if it is one."""
    if getattr(handle, name) != value:
        setattr(handle, name, value)


__all__ = ["MODES", "Panel"]
