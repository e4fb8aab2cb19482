"""Model cards of the networks that come with LOVECon (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

_LOVECON = "LOVECon: Text-driven Training-Free Long Video Editing with ControlNet"
_TITLE = "Real-Time Intermediate Flow Estimation for Video Frame Interpolation"

CARDS = (
    ModelCard(
        name="lovecon_nano",
        task="edit",
        summary="Small networks in the layout of Stable Diffusion with a ControlNet for Canny edges, trained on the toy world, "
        "so that LOVECon edits its videos on a CPU.",
        inputs="noisy latents (B, 8, 16, 16) of toy_vae, timesteps (B,) from 0 to 999, text states (B, 77, 96), Canny edges "
        "(B, 3, 128, 128) float32, 0 or 1",
        outputs="velocity (B, 8, 16, 16) (v-prediction)",
        params=5_342_720,
        paper=f"{_LOVECON}, arXiv 2023, https://arxiv.org/abs/2310.09711",
        weights=(
            WeightSource(
                name="lovecon_nano.worlds",
                file="lovecon_nano",
                license="Apache-2.0",
                bundled="weights/lovecon",
                size_mb=14.3,
                note="A folder in diffusers' layout, trained by visionzoo on one shared CPU core in an hour, on 14,000 frames of the "
                "toy world (visionzoo fit --config lovecon/nano).",
            ),
        ),
        limits="It knows the toy world only, at 128 x 128 pixels, and only the words of its captions.",
    ),
    ModelCard(
        name="rife_hdv3",
        task="interpolate",
        summary="Estimates the frame halfway between two frames: flows in both directions, in three steps from coarse to fine. "
        "LOVECon smooths edited videos with it.",
        inputs="two frames, each (B, 3, H, W) float32, RGB in [0, 1], of any size (padded to multiples of 32)",
        outputs="(B, 3, H, W) float32, RGB in [0, 1]",
        params=2_277_600,
        paper=f"{_TITLE}, ECCV 2022, https://arxiv.org/abs/2011.06294",
        code="https://github.com/hzwer/ECCV2022-RIFE",
        code_license="MIT",
        weights=(
            WeightSource(
                name="rife_hdv3.official",
                file="flownet.pkl",
                license="MIT",
                page="https://github.com/YBYBZhang/ControlVideo (checkpoints/flownet.pkl; the same file is RIFEModel/flownet.pkl of "
                "https://github.com/zhijie-group/LOVECon)",
                size_mb=12.2,
                note="Trained by RIFE's authors in 2021. `git hash-object flownet.pkl` prints "
                "40d18f5f29ca184f15d5048805b27def63d3cc80. The teacher in the file (block_tea) is not read.",
            ),
        ),
        limits="Large movements, thin moving objects and repeated patterns give ghosts; scale=0.5 helps with large movements. It "
        "only makes frames halfway between two frames.",
        citation=f"Huang, Zhang, Heng, Shi, Zhou. {_TITLE}. ECCV 2022",
    ),
    ModelCard(
        name="rife_nano",
        task="interpolate",
        summary="The network of rife_hdv3 with a third of its channels, small enough to be trained on a CPU.",
        inputs="two frames, each (B, 3, H, W) float32, RGB in [0, 1], of any size (padded to multiples of 32)",
        outputs="(B, 3, H, W) float32, RGB in [0, 1]",
        params=294_783,
        paper=f"{_TITLE}, ECCV 2022, https://arxiv.org/abs/2011.06294",
        limits="No weights come with visionzoo: trained on one CPU core for 40 minutes (visionzoo fit --config lovecon/rife), it "
        "beats blending by far, but not OpenCV's DIS flow where much moves fast.",
    ),
)
