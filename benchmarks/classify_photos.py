"""Counts the photos with a clear ImageNet class that the classifiers recognise: photos from Python packages, labelled by hand.

    python -m benchmarks.classify_photos                        # all classifiers with available weights
    python -m benchmarks.classify_photos efficientnet_lite0     # this one

The photos are too few for an accuracy; they show whether a classifier works at all. They come from gradio and scikit-image (extra
`demo`, `pip install scikit-image`), and from visionzoo's own sample photos.
"""

from __future__ import annotations

import sys
import warnings
from importlib import resources
from pathlib import Path

from visionzoo.labels import imagenet_classes
from visionzoo.pipelines.classify import ClassificationResult, ClassifyPipeline
from visionzoo.registry import list_models, weight_source
from visionzoo.weights import locate

CATS = ("tabby", "tiger cat", "Egyptian cat")
"""ImageNet has no class for domestic cats as such."""

PHOTOS: dict[tuple[str, str], tuple[str, ...]] = {
    ("gradio", "media_assets/images/cheetah.jpg"): ("cheetah",),
    ("gradio", "media_assets/images/cheetah1.jpg"): ("cheetah",),
    ("gradio", "test_data/cheetah2.jpg"): ("cheetah",),
    ("gradio", "media_assets/images/lion.jpg"): ("lion",),
    ("skimage", "data/chelsea.png"): CATS,
    ("skimage", "data/coffee.png"): ("espresso", "cup"),
    ("skimage", "data/camera.png"): ("tripod",),
    ("skimage", "data/rocket.jpg"): ("missile", "projectile"),
    **{("visionzoo", f"assets/photos/cat_{number}.jpg"): CATS for number in range(1, 6)},
    **{("visionzoo", f"assets/photos/coffee_{number}.jpg"): ("espresso", "cup") for number in range(1, 6)},
    **{("visionzoo", f"assets/photos/camera_{number}.jpg"): ("tripod",) for number in range(1, 6)},
    **{("visionzoo", f"assets/photos/rocket_{number}.jpg"): ("missile", "projectile") for number in range(1, 6)},
}
"""(package, path inside it) -> names of correct classes. visionzoo's photos are parts and altered views of scikit-image's."""


def photos() -> dict[Path, tuple[str, ...]]:
    """The photos that are installed."""
    found = {}
    for (package, inner), names in PHOTOS.items():
        try:
            path = Path(str(resources.files(package)), inner)
        except ModuleNotFoundError:
            continue
        if path.is_file():
            found[path] = names
    return found


def main() -> None:
    known = set(imagenet_classes())
    labelled = photos()
    assert all(known.issuperset(names) for names in labelled.values())
    here = [name for name in list_models(task="classify", pretrained=True) if locate(weight_source(name)) is not None]
    whole = [path for path in labelled if "assets" not in path.parts[-3:]]
    for model in sys.argv[1:] or here:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = ClassifyPipeline.create(model, dtype="float32").run(list(labelled), progress=False)
        right = {Path(result.source): places(result, labelled[Path(result.source)]) for result in results}
        views = [path for path in labelled if path not in whole]
        for what, paths in (("whole photos", whole), ("parts and views of them", views)):
            first, five = (sum(right[path] <= places for path in paths) for places in (1, 5))
            print(f"{model}: {what}: {first} of {len(paths)} right, {five} within the first five")
        for result in results:
            best = ", ".join(f"{p.label} {p.probability:.0%}" for p in result.predictions[:3])
            print(f"   {'right' if right[Path(result.source)] == 1 else '     '} {Path(result.source).name:<16} {best}")


def places(result: ClassificationResult, names: tuple[str, ...]) -> int:
    """The rank of the best correct class; 1000 if it is not among the results."""
    return min((p.rank for p in result.predictions if p.label in names), default=1000)


if __name__ == "__main__":
    main()
