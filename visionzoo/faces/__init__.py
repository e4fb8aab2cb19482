"""Faces in pictures and clips: find, follow, cut out square, paste back, steady keypoints, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach as _attach

_names = {
    "CropBox": "visionzoo.faces.crop:CropBox",
    "Face": "visionzoo.faces.face:Face",
    "FaceDetector": "visionzoo.faces.detector:FaceDetector",
    "FaceTrack": "visionzoo.faces.track:FaceTrack",
    "IdentityNetwork": "visionzoo.faces.identity:IdentityNetwork",
    "LandmarkFinder": "visionzoo.faces.landmarks:LandmarkFinder",
    "OneEuroFilter": "visionzoo.faces.smoothing:OneEuroFilter",
    "centre_box": "visionzoo.faces.crop:centre_box",
    "choose_face": "visionzoo.faces.crop:choose_face",
    "concerns": "visionzoo.faces.crop:concerns",
    "crop_face": "visionzoo.faces.crop:crop_face",
    "detector_reasons": "visionzoo.faces.detector:detector_reasons",
    "face_box": "visionzoo.faces.crop:face_box",
    "fixed_box": "visionzoo.faces.track:fixed_box",
    "follow_face": "visionzoo.faces.track:follow_face",
    "moving_boxes": "visionzoo.faces.track:moving_boxes",
    "open_detector": "visionzoo.faces.detector:open_detector",
    "open_identity": "visionzoo.faces.identity:open_identity",
    "open_landmarks": "visionzoo.faces.landmarks:open_landmarks",
    "paste_face": "visionzoo.faces.paste:paste_face",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .crop import CropBox as CropBox
    from .crop import centre_box as centre_box
    from .crop import choose_face as choose_face
    from .crop import concerns as concerns
    from .crop import crop_face as crop_face
    from .crop import face_box as face_box
    from .detector import FaceDetector as FaceDetector
    from .detector import detector_reasons as detector_reasons
    from .detector import open_detector as open_detector
    from .face import Face as Face
    from .identity import IdentityNetwork as IdentityNetwork
    from .identity import open_identity as open_identity
    from .landmarks import LandmarkFinder as LandmarkFinder
    from .landmarks import open_landmarks as open_landmarks
    from .paste import paste_face as paste_face
    from .smoothing import OneEuroFilter as OneEuroFilter
    from .track import FaceTrack as FaceTrack
    from .track import fixed_box as fixed_box
    from .track import follow_face as follow_face
    from .track import moving_boxes as moving_boxes
