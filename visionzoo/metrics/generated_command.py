"""The command `measure generated`: generated videos, beside true ones or along camera paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from visionzoo import options
from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, Device, Reporting

from .video_files import frames_of, is_truth, matching, toy_clip, video_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def generated(
    videos: Annotated[list[Path], options.inputs("Generated videos, or a folder of them.")],
    /,
    *,
    true: Annotated[
        Path | None,
        options.option(
            INPUT,
            "True video, folder of a clip of the toy world (which also holds the camera's path), or a folder with one of either for "
            "each generated video, of the same name.",
        ),
    ] = None,
    cameras: Annotated[
        Path | None,
        options.option(
            INPUT,
            "The camera at each frame, for revisits: .npy, or text with the numbers of a frame in each line; or a folder with such a "
            "file for each video.",
        ),
    ] = None,
    tolerance: Annotated[float, options.option(INPUT, "How near two camera states must be to be one place.")] = 1e-6,
    skip: Annotated[
        int, options.option(INPUT, "Frames at the beginning that were given, not generated; not compared.")
    ] = 0,
    detector: Annotated[
        Literal["adaptive", "content", "none"],
        options.option(MODEL, "Detector of scene cuts, of PySceneDetect (extra cuts)."),
    ] = "adaptive",
    threshold: Annotated[
        float | None, options.option(MODEL, "Threshold of the detector; by default that of PySceneDetect.")
    ] = None,
    min_scene_len: Annotated[int, options.option(MODEL, "Shortest scene in frames.")] = 15,
    lpips: Annotated[
        Path | None, options.option(MODEL, "Weights of torchvision's AlexNet, for LPIPS (needs --true).")
    ] = None,
    resnet18: Annotated[
        Path | None,
        options.option(
            MODEL, "Weights of torchvision's ResNet-18, for scene-return consistency (needs a camera path)."
        ),
    ] = None,
    i3d: Annotated[
        Path | None, options.option(MODEL, "Weights of I3D, such as rgb_imagenet.pt, for FVD (needs --true).")
    ] = None,
    random_features: Annotated[
        bool,
        options.option(
            MODEL,
            "Where no weights are given, use a seeded random network for SRC and FVD; the values mean nothing elsewhere.",
        ),
    ] = False,
    clip_length: Annotated[int, options.option(MODEL, "Frames of the clips of FVD.")] = 16,
    clip_stride: Annotated[int, options.option(MODEL, "Frames from one clip to the next.")] = 8,
    device: Device = "auto",
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Measure generated videos: PSNR, SSIM, LPIPS and FVD beside true videos, scene cuts, and revisits along camera paths.

    Examples: visionzoo measure generated walks --true clips --i3d rgb_imagenet.pt;
    visionzoo measure generated walk.mp4 --cameras walk.txt --resnet18 resnet18-f37072fd.pth
    """
    from visionzoo.console import emit
    from visionzoo.jobs.progress import Counter

    found = video_files(videos)
    truths = None if true is None else [matching(true, video, len(found), is_truth) for video in found]
    paths = None if cameras is None else [matching(cameras, video, len(found), _is_path) for video in found]
    states = None if paths is None else [_camera_states(path) for path in paths]
    opened = None if truths is None else [_opened(path) for path in truths]
    if states is None and opened is not None and all(known is not None for _, known in opened):
        states = [known for _, known in opened]
    if resnet18 is not None and states is None:
        raise InputError(
            "--resnet18 compares the frames of revisits; add --cameras, or --true with clips of the toy world"
        )
    for name, given in (("--lpips", lpips), ("--i3d", i3d)):
        if given is not None and opened is None:
            raise InputError(f"{name} compares with true videos; add --true")
    from visionzoo.devices import pick_device

    from . import RandomFeatures, generation_report, i3d_features, resnet18_features
    from .lpips import Lpips

    place = pick_device(device)
    known: Any = [states for states in (states or ()) if states is not None]
    src = clips = None
    if known:
        src = RandomFeatures() if resnet18 is None and random_features else None
        src = src if resnet18 is None else resnet18_features(resnet18, device=place)
    if opened is not None:
        clips = RandomFeatures() if i3d is None and random_features else None
        clips = clips if i3d is None else i3d_features(i3d, device=place)
    with Counter(len(found), "measuring", "video", shown=not reporting.silent) as bar:
        report = generation_report(
            [partial(frames_of, video) for video in found],
            true=None if opened is None else [frames for frames, _ in opened],
            cameras=known or None,
            tolerance=tolerance,
            skip=skip,
            lpips=None if lpips is None else Lpips(backbone=lpips),
            src=src,
            clips=clips,
            clip_length=clip_length,
            clip_stride=clip_stride,
            detector=False if detector == "none" else detector,
            threshold=threshold,
            min_scene_len=min_scene_len,
            progress=lambda _: bar.update(),
        )
    if reporting.json:
        emit({"files": [str(video) for video in found], **report.as_dict()})
    else:
        print(report)


def _is_path(path: Path) -> bool:
    return path.is_file()


def _opened(path: Path) -> tuple[Callable[[], Iterable[Any]], NDArray[np.float64] | None]:
    """A function that opens the frames of a true video, and the camera's path if it is known."""
    clip = toy_clip(path)
    return (partial(frames_of, path), None) if clip is None else (clip.video, clip.cameras)


def _camera_states(path: Path) -> NDArray[np.float64]:
    """(T, k), from a .npy file or from text."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            states = np.load(path, allow_pickle=False)
        else:
            text = path.read_text(encoding="utf-8").replace(",", " ")
            states = np.loadtxt(text.splitlines(), ndmin=2)
        return np.asarray(states, dtype=np.float64)
    except (OSError, ValueError, TypeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: cannot be read as camera states ({reason}); expected .npy, or text with the numbers of a frame in each line"
        ) from error


__all__ = ["generated"]
