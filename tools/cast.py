"""The rendered heads of the sample clips and of the training of mcnet_nano."""

from __future__ import annotations

import numpy as np

from .heads import Shape
from .portraits import Look

WOMAN = (
    Shape(female=0.95, old=0.05, asian=0.2),
    Look(
        skin=(0.62, 0.37, 0.27),
        lips=(0.5, 0.13, 0.14),
        make_up=0.5,
        length=5.6,
        thickness=0.13,
        hairline=-0.1,
        shirt=(0.35, 0.08, 0.1),
        background=((0.5, 0.45, 0.4), (0.2, 0.17, 0.15)),
    ),
)
MAN = (
    Shape(female=0.05, old=0.25, african=0.1),
    Look(hair=(0.09, 0.05, 0.02), eyes=(0.08, 0.14, 0.2), stubble=0.5, light=-40, seed=1),
)

_SKINS = np.array([(0.75, 0.50, 0.40), (0.62, 0.37, 0.27), (0.50, 0.28, 0.18), (0.30, 0.15, 0.09), (0.12, 0.06, 0.04)])
_HAIRS = np.array(
    [
        (0.02, 0.015, 0.012),
        (0.07, 0.035, 0.02),
        (0.16, 0.08, 0.04),
        (0.38, 0.25, 0.12),
        (0.3, 0.29, 0.28),
        (0.25, 0.07, 0.03),
    ]
)
_EYES = np.array([(0.06, 0.035, 0.02), (0.12, 0.07, 0.03), (0.08, 0.14, 0.2), (0.09, 0.13, 0.07)])
_LOCAL = {
    "head": (
        "oval",
        "round",
        "square",
        "rectangular",
        "triangular",
        "invertedtriangular",
        "diamond",
        "fat-incr",
        "fat-decr",
    ),
    "nose": (
        "hump-incr",
        "scale-horiz-incr",
        "scale-horiz-decr",
        "scale-vert-incr",
        "point-up",
        "point-down",
        "volume-incr",
    ),
    "chin": ("width-incr", "width-decr", "height-incr", "height-decr", "prominent-incr", "jaw-drop-incr", "cleft-incr"),
    "mouth": (
        "scale-horiz-incr",
        "scale-horiz-decr",
        "lowerlip-volume-incr",
        "upperlip-volume-incr",
        "trans-up",
        "trans-down",
    ),
    "eyebrows": ("angle-down", "angle-up", "trans-down", "trans-up"),
}


def random_head(seed: int) -> tuple[Shape, Look]:
    """A head of any age, sex and origin."""
    rng = np.random.default_rng(seed)
    female = float(np.clip(rng.integers(2) * 0.8 + rng.uniform(0, 0.2), 0, 1))
    african, asian, _ = (float(share) for share in rng.dirichlet([0.5, 0.5, 0.7]))
    local = {}
    for group, names in _LOCAL.items():
        for name in rng.choice(names, 2, replace=False):
            local[f"{group}/{name if group == 'head' else f'{group}-{name}'}"] = float(rng.uniform(0.1, 0.6))
    local = {name.replace("head/", "head/head-"): weight for name, weight in local.items()}
    eyes = float(rng.uniform(-0.4, 0.4))
    for side in "lr":
        local[f"eyes/{side}-eye-scale-{'incr' if eyes > 0 else 'decr'}"] = abs(eyes)
    old = float(rng.beta(1, 2))
    shape = Shape(female, old, african, asian, float(rng.uniform(-0.6, 0.6)), local)

    darkness = float(np.clip(3.4 * african + 1.0 * asian + rng.uniform(-0.3, 1.0), 0, 4))
    skin = np.stack([np.interp(darkness, np.arange(5), _SKINS[:, k]) for k in range(3)]) * rng.uniform(0.92, 1.08, 3)
    dark = african + asian > 0.6
    hair = _HAIRS[4 if old > 0.75 else rng.integers(2 if dark else len(_HAIRS))] * rng.uniform(0.7, 1.3)
    eye = _EYES[0 if dark else rng.integers(len(_EYES))]
    lips = skin * np.array([0.82, 0.5, 0.58])
    woman = female > 0.5
    return shape, Look(
        skin=_colour(skin),
        lips=_colour(lips + (np.array([0.15, -0.02, 0.0]) * rng.random() if woman else 0)),
        hair=_colour(hair),
        eyes=_colour(eye),
        shirt=_colour(rng.uniform(0.02, 0.5, 3)),
        background=(_colour(rng.uniform(0.05, 0.7, 3)), _colour(rng.uniform(0.02, 0.5, 3))),
        brows=float(rng.uniform(0.6, 0.95)),
        stubble=0.0 if woman else float(rng.choice([0.0, 0.4, 0.95])),
        freckles=float(rng.choice([0.0, 0.0, 0.5])),
        make_up=float(rng.uniform(0, 1)) if woman else 0.0,
        length=float(rng.uniform(5.2, 6.8)) if rng.random() < (0.75 if woman else 0.12) else None,
        thickness=float(rng.uniform(0.06, 0.2)),
        hairline=float(rng.uniform(-0.15, 0.12)),
        parting=float(rng.uniform(-0.4, 0.4)),
        collar=float(rng.uniform(-0.15, 0.25)),
        light=float(rng.uniform(-60, 60)),
        warm=float(rng.uniform(-0.6, 1)),
        seed=seed,
    )


def _colour(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in np.clip(values, 0.004, 0.9))
    return red, green, blue
