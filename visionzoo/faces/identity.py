"""Identity descriptors of the person in an image, from networks in the user's files."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError, require
from ..weights import WeightsError
from ..weights.torchscript import check_file, load_torchscript, short
from .detector import FaceDetector
from .face import check_image
from .network_files import DlibFaces, load_dlib

__all__ = ["DlibIdentity", "EmbeddingNetwork", "IdentityNetwork", "open_identity"]

ALIGNERS = ("shape_predictor_5_face_landmarks.dat", "shape_predictor_68_face_landmarks.dat")
SHAPES = ((3, 96, 96), (1, 128, 128), (3, 112, 112), (3, 128, 128), (3, 160, 160), (3, 224, 224))
"""(channels, height, width) to try if a network does not state its input size; OpenFace's comes first."""


class IdentityNetwork(Protocol):
    """Computes a descriptor of the person in an image."""

    name: str

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The descriptor (D,) of `image`, (H, W, 3) uint8 RGB, unscaled; None if the network needs a face and none is found.

        Raises InputError for a wrong shape or type.
        """
        ...


class DlibIdentity:
    """dlib's ResNet (dlib_face_recognition_resnet_model_v1.dat): 128 numbers for the aligned crop of the face.

    According to dlib's documentation, two images show the same person if their descriptors are less than 0.6 apart (squared: 0.36).

    Args:
        path: the unpacked file.
        predictor: dlib's shape predictor with 5 or 68 points, for the alignment; None: the one beside `path`.
        detector: detector for faces that dlib's own detector misses; see `DlibFaces`.

    Raises:
        MissingDependencyError: the package dlib is not installed.
        WeightsError: one of the files is missing, truncated, or holds something else.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        predictor: str | PathLike[str] | None = None,
        detector: FaceDetector | None = None,
    ) -> None:
        path = check_file(path, "dlib's face recognition network")
        if predictor is None:
            predictor = next((file for name in ALIGNERS if (file := path.with_name(name)).is_file()), None)
        if predictor is None:
            raise WeightsError(f"{path}: needs a shape predictor to align faces; put {ALIGNERS[0]} beside it")
        self._predict = load_dlib("shape_predictor", predictor, "a dlib shape predictor")
        self._describe = load_dlib("face_recognition_model_v1", path, "dlib's face recognition network")
        self._faces = DlibFaces(detector)
        self.name = f"dlib, {path.name}, upright by {Path(predictor).name}"

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        box = self._faces(check_image(image))
        if box is None:
            return None
        large, points, _ = self._faces.points(self._predict, image, box)
        return np.array(self._describe.compute_face_descriptor(large, points), np.float32)


class EmbeddingNetwork:
    """A network in a TorchScript or ONNX file that maps images to descriptors, e.g. OpenFace's nn4.small2.

    The whole frame is resized (bilinear, antialiased) to the input size, without face detection or alignment, as the published
    AED does with OpenFace. The first of several outputs is used. Three channels get values in [0, 1], as OpenFace expects; one
    channel gets grey in [-1, 1], as the 128 x 128 ArcFace network of the published CSIM expects. Any other scaling must be part
    of the network. Tested only with synthetic networks: neither of the two published ones was available.

    Args:
        path: `.onnx` for ONNX, else TorchScript. The network maps one image (1, 1 or 3, H, W) to (1, D) or (D,). An ONNX file
            states the input size; if it is dynamic, and for TorchScript, the first of `SHAPES` that works is used. See `shape`.
        order: order of three channels, "bgr" or "rgb"; the published AED uses "bgr".
        shape: channels, height and width of the input, if the file does not state them.
        device: where TorchScript runs; ONNX runs on the CPU.

    Raises:
        WeightsError: the file is missing, truncated, or not such a network.
        MissingDependencyError: onnxruntime is not installed (`.onnx` only).
        InputError: an unknown order, or a shape that contradicts the file.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        order: Literal["bgr", "rgb"] = "bgr",
        shape: tuple[int, int, int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if order not in ("bgr", "rgb"):
            raise InputError(f"the order of channels must be bgr or rgb, got {order!r}")
        path, self.order = Path(path), order
        if path.suffix.lower() == ".onnx":
            self._run, fixed = _open_onnx(path)
            kind = "ONNX"
        else:
            self._run, fixed = _open_torchscript(path, device), (None, None, None)
            kind = "TorchScript"
        known = _shapes(fixed, shape)
        if not known:
            raise InputError(f"{path} takes images of {_sizes(fixed)} (channels, height, width), got the shape {shape}")
        self.channels, self.height, self.width = self._first_fitting(path, known)
        order_of = "grey" if self.channels == 1 else order.upper()
        self.name = f"{kind}, {path.name}, {self.height} x {self.width} {order_of}"

    def _first_fitting(self, path: Path, shapes: list[tuple[int, ...]]) -> tuple[int, int, int]:
        why = ""
        for shape in shapes:
            if shape[0] not in (1, 3):
                raise WeightsError(
                    f"{path}: takes {shape[0]} channels, expected a network for images with 1 or 3 channels"
                )
            try:
                self._numbers(np.zeros((1, *shape), np.float32))
                channels, height, width = shape
                return channels, height, width
            except Exception as error:  # the two runtimes raise various errors for a wrong shape
                why = why or short(error)
        raise WeightsError(
            f"{path}: gives no descriptor for an image of {', '.join(map(_sizes, shapes))} ({why}); "
            "expected a network from (1, C, H, W) to (1, D)"
        )

    def _numbers(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        found = self._run(x)
        if found.ndim == 2 and len(found) == 1:
            found = found[0]
        if found.ndim != 1 or len(found) < 2:
            raise ValueError(f"gives {found.shape}")
        return found.astype(np.float32)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        pil = Image.fromarray(check_image(image))
        if self.channels == 1:
            pil = pil.convert("L")
        resized = np.asarray(pil.resize((self.width, self.height), Image.Resampling.BILINEAR), np.float32)
        if self.channels == 1:
            return self._numbers(((resized - 127.5) / 127.5)[None, None])
        planes = resized[..., ::-1] if self.order == "bgr" else resized
        return self._numbers(np.ascontiguousarray(planes.transpose(2, 0, 1))[None] / np.float32(255))


Sizes = tuple[int | None, ...]


def _shapes(fixed: Sizes, wanted: tuple[int, int, int] | None) -> list[tuple[int, ...]]:
    """Shapes to try, given the sizes that the file fixes: `wanted` if it agrees, else `SHAPES` with the fixed sizes filled in."""
    if wanted is not None:
        return [wanted] if all(a in (None, b) for a, b in zip(fixed, wanted, strict=True)) else []
    if all(size is not None for size in fixed):
        return [tuple(size or 0 for size in fixed)]
    tried = [tuple(a or b for a, b in zip(fixed, one, strict=True)) for one in SHAPES if fixed[0] in (None, one[0])]
    return list(dict.fromkeys(tried)) or [(fixed[0] or 0, fixed[1] or 96, fixed[2] or 96)]


def _sizes(sizes: Sizes) -> str:
    return " x ".join("?" if size is None else str(size) for size in sizes)


def _open_torchscript(path: Path, device: torch.device | str) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    network = load_torchscript(path, "a network that describes faces", device)

    @torch.inference_mode()
    def run(x: NDArray[np.float32]) -> NDArray[Any]:
        found = network(torch.from_numpy(x).to(device))
        return (found[0] if isinstance(found, list | tuple) else found).float().cpu().numpy()

    return run


def _open_onnx(path: Path) -> tuple[Callable[[NDArray[np.float32]], NDArray[Any]], Sizes]:
    """A function that runs the network, and its channels, height and width; None if dynamic."""
    check_file(path, "a network that describes faces")
    onnxruntime: Any = require("onnxruntime", extra="export", purpose=f"running {path.name}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise WeightsError(f"{path}: not an ONNX network, or truncated ({short(error)}); download it again") from error
    [*inputs], first = session.get_inputs(), session.get_inputs()[0]
    if len(inputs) != 1 or len(first.shape) != 4 or first.type != "tensor(float)":
        raise WeightsError(
            f"{path}: takes {len(inputs)} inputs, the first {first.shape} {first.type}; "
            "expected one image (1, C, H, W) in float32"
        )

    def run(x: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(session.run(None, {first.name: x})[0])

    return run, tuple(size if isinstance(size, int) and size > 0 else None for size in first.shape[1:])


def open_identity(
    path: str | PathLike[str],
    *,
    predictor: str | PathLike[str] | None = None,
    order: Literal["bgr", "rgb"] = "bgr",
    shape: tuple[int, int, int] | None = None,
    detector: FaceDetector | None = None,
    device: torch.device | str = "cpu",
) -> IdentityNetwork:
    """Open the identity network in a file: dlib's for the extension `.dat`, else an `EmbeddingNetwork` in ONNX or TorchScript.

    Args:
        path: dlib_face_recognition_resnet_model_v1.dat, OpenFace's nn4.small2 as TorchScript or `.onnx`, or another network that
            maps an image to a descriptor. A TorchScript file is a program: open only files whose author you trust.
        predictor, detector: see `DlibIdentity`; used only for dlib.
        order, shape: see `EmbeddingNetwork`; not used for dlib.
        device: where TorchScript runs; the others run on the CPU.

    Raises:
        WeightsError: the file is missing, truncated, or holds something else.
        MissingDependencyError: dlib or onnxruntime is not installed.
        InputError: an unknown order, or a shape that contradicts the file.
    """
    if Path(path).suffix.lower() == ".dat":
        return DlibIdentity(path, predictor, detector)
    return EmbeddingNetwork(path, order, shape, device)
