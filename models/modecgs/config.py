"""What a MoDec-GS is made of (arXiv 2501.03714); the defaults are the published network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from visionzoo.errors import InputError

GATES = ("mask", "mul")
ACTIVATIONS = ("sigmoid", "relu", "tanh")
INTERVALS = ("released", "paper")

MAX_DEPTH = 64
MAX_LEVELS = 16

BITS = (8, 16)
"""The fewest and the most bits per number of a `.vzgs`."""

APPEARANCE_ROW = 10
"""The row of the published appearance embedding that every camera and every anchor reads."""


@dataclass(frozen=True)
class MoDecGSConfig:
    """Anchors, the networks that turn them into Gaussians, and the two fields that move them.

    With `deform_global=False, deform_local=False` it is Scaffold-GS, a static scene (`scaffold_config`).

    Attributes:
        num_anchors: rows of a new model's table of anchors; growing, pruning and loading change the table, not this number.
        num_offsets: Gaussians that an anchor spawns (k).
        feature_dim: width of an anchor's feature (f), and of the hidden layers of the anchor networks.
        appearance_dim: width of the appearance code that the colour network reads; 0 for none.
        appearance_rows: appearance codes; the published model uses one for all cameras, Scaffold-GS one per camera.
        feature_bank: mix features of three resolutions by the view (Scaffold-GS).
        opacity_dist, covariance_dist, color_dist: give the distance to the camera to that network.
        voxel_size: side of the finest cells that hold one anchor each; 0 derives it from the points (`anchors.voxel_size_of`).
        shared_dynamics: one number per anchor gates both its position and its other attributes, instead of one each.
        position_gate: "mask", which moves an anchor or does not, or "mul", which scales its movement.
        attribute_gate: the same for its feature, offsets and scaling.
        gate_activation: what turns an anchor's dynamics into a gate: "sigmoid", "relu" or "tanh".
        global_resolution: cells of the global field along x, y, z and time.
        global_levels: multipliers of the spatial resolution.
        global_channels: channels of its planes.
        local_resolution, local_levels, local_channels: the same for the local field.
        width, depth: hidden width and number of layers of the networks behind both fields.
        num_segments: temporal segments (K), each with its own canonical scaffold.
        intervals: "released" looks a segment up as the published code does, "paper" by the last border before the time.
        deform_global, deform_local: whether the field exists.
    """

    num_anchors: int = 0
    num_offsets: int = 10
    feature_dim: int = 32
    appearance_dim: int = 16
    appearance_rows: int = 1
    feature_bank: bool = False
    opacity_dist: bool = False
    covariance_dist: bool = False
    color_dist: bool = False
    voxel_size: float = 0.01
    shared_dynamics: bool = False
    position_gate: str = "mask"
    attribute_gate: str = "mul"
    gate_activation: str = "sigmoid"
    global_resolution: tuple[int, ...] = (32, 32, 32, 10)
    global_levels: tuple[int, ...] = (1, 2)
    global_channels: int = 16
    local_resolution: tuple[int, ...] = (64, 64, 64, 100)
    local_levels: tuple[int, ...] = (1, 2)
    local_channels: int = 16
    width: int = 128
    depth: int = 1
    num_segments: int = 8
    intervals: str = "released"
    deform_global: bool = True
    deform_local: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, {"num_anchors": 0, "appearance_dim": 0})
        choices = {
            "position_gate": GATES,
            "attribute_gate": GATES,
            "gate_activation": ACTIVATIONS,
            "intervals": INTERVALS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("global_resolution", "local_resolution"):
            check_resolution(name, getattr(self, name))
        for name in ("global_levels", "local_levels"):
            check_levels(name, getattr(self, name))
        if not isinstance(self.voxel_size, int | float) or not 0 <= self.voxel_size < float("inf"):
            raise InputError(f"voxel_size must be a finite number of at least 0, got {self.voxel_size!r}")
        if self.feature_bank and self.feature_dim % 4:
            raise InputError(f"feature_dim must be a multiple of 4 with feature_bank, got {self.feature_dim}")

    @property
    def dynamics_dim(self) -> int:
        """Gating numbers per anchor; none in a scene without a global field."""
        return (1 if self.shared_dynamics else 2) if self.deform_global else 0


def check_numbers(config: Any, least: dict[str, int]) -> None:
    """Raise `InputError` unless integers are integers of at least 1, or of what `least` says, and flags are flags."""
    for field in fields(config):
        value = getattr(config, field.name)
        lowest = least.get(field.name, 1)
        if type(field.default) is int and (type(value) is not int or value < lowest):
            raise InputError(f"{field.name} must be an integer of at least {lowest}, got {value!r}")
        if type(field.default) is bool and type(value) is not bool:
            raise InputError(f"{field.name} must be true or false, got {value!r}")
    if config.depth > MAX_DEPTH:
        raise InputError(f"depth must be at most {MAX_DEPTH}, got {config.depth}")


def check_resolution(name: str, resolution: tuple[int, ...]) -> None:
    """Raise `InputError` unless `resolution` has four sides of at least 2 cells."""
    if len(resolution) != 4 or not all(type(side) is int and side >= 2 for side in resolution):
        raise InputError(f"{name} must be four integers (x, y, z, time) of at least 2, got {resolution}")


def check_levels(name: str, levels: tuple[int, ...]) -> None:
    """Raise `InputError` unless `levels` are up to 16 multipliers of a resolution."""
    if not 1 <= len(levels) <= MAX_LEVELS or not all(type(level) is int and level >= 1 for level in levels):
        raise InputError(f"{name} must be one to {MAX_LEVELS} integers of at least 1, got {str(levels)[:80]}")


def check_bits(name: str, bits: int) -> None:
    """Raise `InputError` unless a `.vzgs` can store numbers in that many bits."""
    if type(bits) is not int or not BITS[0] <= bits <= BITS[1]:
        raise InputError(f"{name} must be an integer from {BITS[0]} to {BITS[1]}, got {bits!r}")


def scaffold_config(**overrides: object) -> MoDecGSConfig:
    """Scaffold-GS (CVPR 2024): a static scene. Defaults of its published code; `overrides` are fields."""
    settings: dict = {"appearance_dim": 0, "voxel_size": 0.001, "deform_global": False, "deform_local": False}
    return MoDecGSConfig(**{**settings, **overrides})
