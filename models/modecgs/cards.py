"""Model cards of the registered variants (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard

_TITLE = "MoDec-GS: Global-to-Local Motion Decomposition and Temporal Interval Adjustment for Compact Dynamic 3D Gaussian Splatting"

CARDS = (
    ModelCard(
        name="modecgs",
        task="reconstruct",
        summary="A small dynamic scene, trained from one video with camera poses: anchors on a voxel grid spawn Gaussians; one field "
        "moves the anchors once per segment of time, another moves the Gaussians at the exact time.",
        inputs="camera centre (3,) and a time in [0, 1]; a new scene starts from a point cloud (n, 3)",
        outputs="Gaussians for any renderer: means, quaternions, scales, opacities and RGB colours, all after activation",
        params=2_338_575,
        paper=f"{_TITLE}, CVPR 2025, https://arxiv.org/abs/2501.03714",
        code="https://github.com/skwak-kaist/MoDec-GS",
        code_license="Gaussian-Splatting licence of Inria and MPII: research only, not for commercial use",
        limits="Each scene is trained separately, and no trained scenes are published. Camera poses must be known; they "
        "should come from the parts of the scene that do not move. The parameters counted here are those of the "
        "networks; each anchor adds 73 numbers.",
        citation=f"Kwak, Kim, Jeong, Cheong, Oh, Kim. {_TITLE}. CVPR 2025",
    ),
)
