"""`visionzoo view`: a reconstructed scene in the browser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from visionzoo import options as shared
from visionzoo.options import MODEL, OUTPUT, Device, Quiet

app = shared.command_app(
    "view",
    [
        "visionzoo view scene.vzgs",
        "visionzoo view scene.vzgs --mode render --port 8090",
        "visionzoo view output/hypernerf/espresso --device cuda",
    ],
    usage="visionzoo view SCENE [OPTIONS]",
)


@app.default
def view(
    scene: Annotated[
        Path,
        shared.inputs(
            "Scene (.vzgs), an output folder of the published code of MoDec-GS, Scaffold-GS or 4DGaussians, or a file of Gaussians "
            "that do not move (.ply, .compressed.ply, .spz, .splat)."
        ),
    ],
    /,
    *,
    port: Annotated[int, shared.option(OUTPUT, "Port to listen on.")] = 8080,
    host: Annotated[
        str, shared.option(OUTPUT, "Address to listen on; 0.0.0.0 makes the scene reachable from other machines.")
    ] = "127.0.0.1",
    mode: Annotated[
        Literal["auto", "render", "splats"],
        shared.option(
            MODEL,
            "How the scene is drawn: render sends images, with exact colours, depth or opacity; splats sends Gaussians, which the "
            "browser draws; auto is render on CUDA, and splats elsewhere. The page can switch.",
        ),
    ] = "auto",
    fps: Annotated[float, shared.option(OUTPUT, "Frames per second at most while the scene plays.")] = 24.0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Look at a reconstructed scene in the browser, at any time and from any side (needs the extra `gs`)."""
    from visionzoo.console import note
    from visionzoo.errors import InputError, require
    from visionzoo.serving import check_address

    from .render_options import check_scene

    check_scene(scene)
    if not (math.isfinite(fps) and 0 < fps <= 240):
        raise InputError(f"--fps must be above 0 and at most 240, got {fps:g}")
    check_address(host, port)
    require("viser", extra="gs", purpose="visionzoo view")  # before torch is loaded
    from .scene import Scene
    from .viewer import Viewer

    with Viewer(Scene.open(scene, device), host=host, port=port, mode=mode, fps=fps, title=scene.name) as viewer:
        note(f"the scene is at {viewer.address} (Ctrl-C ends it)", quiet=quiet)
        try:
            viewer.run()
        except KeyboardInterrupt:
            note("the viewer has ended", quiet=quiet)


__all__ = ["app"]
