"""A ninth system: the files that must be written for it, and the places that then show it automatically."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FILES = {
    "models/inverter/__init__.py": """
from visionzoo.cards import ModelCard, WeightSource
from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

weights = WeightSource("inverter.one", "inverter.safetensors", "MIT", url="https://example.org/inverter.safetensors")
card = ModelCard("inverter", "invert", "Turns light into dark.", "images", "images", 1, weights=(weights,))
register_model(card, builder=f"{__name__}.model:build")
register_converter(f"{__name__}.checkpoint", networks=[f"{__name__}.model:Inverter"])
""",
    "models/inverter/model.py": """
from dataclasses import dataclass
import torch
from torch import nn
from visionzoo.config import configure

@dataclass(frozen=True)
class InverterConfig:
    white: float = 1.0

class Inverter(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.gain = config, nn.Parameter(torch.ones(1))
    def forward(self, x):
        return self.config.white - self.gain * x

def build(name, **overrides):
    return Inverter(configure(InverterConfig(), overrides))
""",
    "models/inverter/checkpoint.py": """
def to_ours(state, model):
    return {"gain": state["published.gain"]}
""",
    "pipelines/invert/__init__.py": """
from visionzoo.registry import Bench, Need, register_pipeline

register_pipeline("invert", factory=f"{__name__}.pipeline:InvertPipeline", command=f"{__name__}.command:app",
    summary="turn light into dark", page="visionzoo.demos.invert",
    benches=[Bench("inverter", "benchmarks.inverter:benchmark", "inversion", "numpy")],
    needs=[Need("no_such_package_zzz", "invert", "inverting faster")])
""",
    "pipelines/invert/pipeline.py": """
import time
from pathlib import Path
import torch
from PIL import Image
from visionzoo.io.extensions import IMAGES, IMAGES_WRITTEN
from visionzoo.io.files import atomic_path
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.jobs import FileJob, FileResult, Kind, write_sidecar
from visionzoo.task_pipeline import TaskPipeline
from ...models.inverter.model import Inverter

class InvertPipeline(TaskPipeline):
    task, kind, default_model, networks = "invert", "inverting", "inverter", (Inverter,)
    files = "visionzoo.pipelines.invert.pipeline:InvertJob"

    def __init__(self, model, name="custom", device="auto", dtype="auto", checkpoint=None):
        super().__init__(model, name, device, dtype, checkpoint)
        self.model = model.to(self.device)

    @classmethod
    def create(cls, model=None, device="auto", dtype="auto", checkpoint=None, **overrides):
        return cls._from_opened(cls.open(model, checkpoint, overrides), device, dtype)

    @torch.inference_mode()
    def __call__(self, image):
        return to_uint8(self.model(to_float(load_image(image))))

class InvertJob(FileJob):
    kinds, done = (Kind("image", IMAGES, "image", IMAGES_WRITTEN, ".png"),), "inverted"

    def __init__(self, pipe):
        self.pipe = pipe

    def convert(self, source, target, report):
        with atomic_path(target) as temporary:
            Image.fromarray(self.pipe(source)).save(temporary)
        result = FileResult(str(source), str(target), seconds=1.0)
        write_sidecar(target, {"result": result.to_dict()}, self.pipe.facts())
        return result
""",
    "pipelines/invert/command.py": """
from pathlib import Path
from visionzoo import options
from .pipeline import InvertPipeline

app = options.command_app("invert", ["visionzoo invert light.png -o dark.png"])

@app.default
def invert(source: Path, *, output: Path, checkpoint: Path | None = None):
    InvertPipeline.create(checkpoint=checkpoint).run(source, output, progress=False)
""",
    "demos/invert.py": """
TITLE = "Invert"

def page(*, home, index=None):
    pass
""",
    "benchmarks/inverter.py": """
def benchmark(*, rounds, command):
    print("measured", command)
    return None
""",
}
"""Files of the system, in its own folders."""

CENTRAL = ["pyproject.toml", "mkdocs.yml", "CHANGELOG.md"]
"""Other files that change: dependencies, the navigation of the docs, the change log."""

TRY = """
import json, sys
import numpy as np, torch
from PIL import Image
from visionzoo import benchmark, doctor, registry
from visionzoo.demos.app import pages
from visionzoo.weights import save_safetensors
import visionzoo

save_safetensors({"published.gain": torch.full((1,), 0.5)}, "published.safetensors")
Image.fromarray(np.full((8, 9, 3), 100, np.uint8)).save("light.png")
pipe = visionzoo.pipeline("invert", checkpoint="published.safetensors", device="cpu")
pipe.save_pretrained("saved")
again = type(pipe).from_pretrained("saved", "cpu")
from visionzoo.cli import main
try:
    main(["invert", "light.png", "--output", "dark.png", "--checkpoint", "published.safetensors"])
except SystemExit as stop:
    assert stop.code == 0, stop.code
print("FOUND", json.dumps({
    "model": registry.list_models("inverter*"), "task": "invert" in visionzoo.list_pipelines(),
    "source": [source.name for source in registry.all_sources() if source.name == "inverter.one"],
    "pixel": int(np.asarray(Image.open("dark.png"))[0, 0, 0]), "again": int(again("light.png")[0, 0, 0]),
    "record": json.load(open("dark.png.json"))["options"]["model"],
    "bench": benchmark.list_benchmarks()["inverter"], "page": pages()["invert"],
    "doctor": doctor._optional(next(n for n in doctor.needs() if n.module == "no_such_package_zzz")),
}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the new system in it."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("visionzoo", "models", "pipelines", "demos", "configs", "benchmarks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (root / "visionzoo" / "assets").symlink_to(ROOT / "visionzoo" / "assets")
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, text in FILES.items():
        assert not (root / name).exists(), "a file of the system, not of the house"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_new_system_shows_everywhere_by_itself(checkout: Path, tmp_path: Path) -> None:
    """No existing file is changed, and models, weights, command, pipeline, benchmark, page and doctor know the system."""
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.split("FOUND", 1)[1])
    assert found["model"] == ["inverter"]
    assert found["task"] is True
    assert found["source"] == ["inverter.one"]
    assert (found["pixel"], found["again"], found["record"]) == (205, 205, "inverter")
    assert found["bench"] == "inversion, compared with: numpy"
    assert found["page"] == "visionzoo.demos.invert"
    assert found["doctor"] == "missing: inverting faster; pip install 'visionzoo[invert]'"
    own = {name.split("/")[0] + "/" + name.split("/")[1].removesuffix(".py") for name in FILES}
    assert own == {"models/inverter", "pipelines/invert", "demos/invert", "benchmarks/inverter"}
    assert len(CENTRAL) <= 4
