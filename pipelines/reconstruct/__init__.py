"""Moving scenes from a video with camera poses: reconstruct them, render them, look at them, export them."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, Command, Exporter, Need, register_pipeline

register_pipeline(
    "reconstruct",
    factory=f"{__name__}:ReconstructPipeline",
    command=f"{__name__}.command:app",
    summary="make a moving 3D scene from a video with camera poses",
    page="visionzoo.demos.reconstruct",
    commands=(
        Command("render", f"{__name__}.render_command:app", "make a video of a reconstructed scene"),
        Command("view", f"{__name__}.view_command:app", "look at a reconstructed scene in the browser"),
    ),
    exporter=Exporter(
        f"{__name__}.export_command:app",
        reads=(".vzgs", ".ply", ".spz", ".splat"),
        folders=True,
        example="visionzoo export scene.vzgs -o splats.ply",
        summary="write a reconstructed scene for viewers of Gaussian splats",
    ),
    needs=(Need("gsply", "gs", "reading and writing .spz files of Gaussian splats"),),
    benches=(
        Bench(
            "modecgs-networks", "benchmarks.modecgs_networks:benchmark", "MoDec-GS: anchors to Gaussians and back",
            "the published structure",
        ),
        Bench(
            "modecgs-training", "benchmarks.modecgs_training:benchmark", "MoDec-GS: a training step of a tiny scene",
            "the published structure with tiles in torch",
        ),
        Bench(
            "modecgs-size", "benchmarks.modecgs_size:benchmark", "MoDec-GS: megabytes and PSNR of a scene",
            "4DGaussians",
        ),
    ),
)  # fmt: skip

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
