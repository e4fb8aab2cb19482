"""Files in and out: odd and broken images, results in every format, and runs that were interrupted."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.pipelines.classify import ClassificationResult, ClassifyPipeline

from ...io.odd_files import dds
from ..assets import ASSETS
from .networks import COLOURS, labels, small


def test_odd_images(classifier: ClassifyPipeline, tmp_path: Path) -> None:
    made = {
        "dot.png": Image.new("RGB", (1, 1), "red"),
        "grey.png": Image.new("L", (50, 40), 200),
        "strip.png": Image.new("RGB", (1, 5000), "blue"),
        "wide.png": Image.new("RGB", (5000, 1), "blue"),
        "alpha.png": Image.new("RGBA", (60, 60), (255, 0, 0, 255)),
        "palette.gif": Image.new("RGB", (60, 60), "red").quantize(4),
        "deep.png": Image.fromarray(np.full((60, 60), 60000, np.uint16)),
        "cmyk.jpg": Image.new("CMYK", (60, 60), (0, 250, 250, 0)),
    }
    for name, image in made.items():
        image.save(tmp_path / name)
    got = dict(zip(made, labels(classifier.run([tmp_path / name for name in made], progress=False)), strict=True))
    wanted = {"dot.png": "red", "strip.png": "blue", "wide.png": "blue", "alpha.png": "red", "palette.gif": "red"}
    assert {name: got[name] for name in wanted} == wanted


def break_file(path: Path, how: str) -> None:
    if how == "of a rare kind":
        path.write_bytes(dds(93))
    elif how == "truncated":
        path.write_bytes((ASSETS / "queries" / "cat.jpg").read_bytes()[:3000])
    else:
        path.write_text({"empty": "", "text": "these are words"}[how])


@pytest.mark.parametrize("how", ["empty", "text", "truncated", "of a rare kind"])
def test_a_broken_image(classifier: ClassifyPipeline, folder: Path, tmp_path: Path, how: str) -> None:
    """A single one is an error; among others it is reported, and the others are processed."""
    break_file(folder / "4.jpg", how)
    with pytest.raises(InputError, match=r"4\.jpg"):
        classifier(folder / "4.jpg")
    with pytest.raises(InputError, match=r"4\.jpg"):
        classifier.features([folder / "0.png", folder / "4.jpg"])
    with pytest.raises(InputError, match=r"4\.jpg"):
        classifier.run(folder / "4.jpg", progress=False)
    with pytest.warns(UserWarning, match=r"4\.jpg: .*; skipped") as caught:
        results = classifier.run(folder, tmp_path / "out.npz", progress=False, batch_size=2)
    assert len(caught) == 1
    broken = [result for result in results if result.error]
    assert [(Path(result.source).name, result.predictions) for result in broken] == [("4.jpg", ())]
    assert labels([result for result in results if not result.error]) == list(COLOURS) * 3
    saved = np.load(tmp_path / "out.npz")
    assert len(saved["features"]) == 9
    assert not any(path.endswith("4.jpg") for path in saved["paths"])
    assert sum(row["error"] is not None for row in json.loads((tmp_path / "out.npz.json").read_text())["results"]) == 1


def test_no_input_can_be_read(classifier: ClassifyPipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        classifier(tmp_path / "no.jpg")
    with pytest.raises(InputError, match="no such file or folder"):
        classifier.run(tmp_path / "no", progress=False)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InputError, match="no images or videos found"):
        classifier.run(tmp_path / "hollow", progress=False)
    for file in folder.iterdir():
        file.write_bytes(b"")
    with (
        pytest.raises(InputError, match=r"none of the 9 images can be read, e\.g\. .*0\.png"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        classifier.run(folder, tmp_path / "out.html", progress=False)
    assert not (tmp_path / "out.html").exists()
    with pytest.raises(InputError, match=r"image 2: an array of shape \(5,\) is not an image"):
        classifier([Image.new("RGB", (9, 9)), np.zeros(5, np.uint8)])


@pytest.mark.parametrize("name", ["out.json", "out.csv", "out.html", "out.png", "out.jpg", "out.webp", "out.npz"])
def test_run_writes_by_the_ending(classifier: ClassifyPipeline, folder: Path, tmp_path: Path, name: str) -> None:
    results = classifier.run(folder, tmp_path / name, progress=False, top=2)
    record = name if name == "out.json" else f"{name}.json"
    saved = json.loads((tmp_path / record).read_text())
    assert saved["results"] == json.loads(json.dumps([result.to_dict() for result in results]))
    assert saved["options"]["weights"] == classifier.fingerprint
    assert saved["environment"]["versions"]["torch"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted({"images", record, name})
    if name == "out.csv":
        rows = list(csv.DictReader((tmp_path / name).open(newline="")))
        assert len(rows) == 18
        assert rows[2]["source"] == str(folder / "1.png")
        assert (rows[2]["rank"], rows[2]["label"], rows[2]["index"]) == ("1", "green", "1")
        assert float(rows[2]["probability"]) == results[1].predictions[0].probability
    elif name == "out.html":
        page = (tmp_path / name).read_text()
        assert page.count("data:image/jpeg") == 9
        assert page.count(f"{results[0].predictions[0].probability:.1%}") >= 1
    elif name == "out.npz":
        stored = np.load(tmp_path / name)
        assert stored["features"].dtype == np.float32
        assert np.array_equal(stored["features"], classifier.features(sorted(folder.iterdir())))
        assert stored["paths"].tolist() == [result.source for result in results]
    elif name != "out.json":
        assert Image.open(tmp_path / name).size[0] > 500
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="exists already.*--overwrite"):
        classifier.run(folder, tmp_path / name, progress=False)
    assert (tmp_path / name).read_bytes() == before
    classifier.run(folder / "0.png", tmp_path / name, progress=False, overwrite=True)
    assert (tmp_path / name).read_bytes() != before


def test_labels_cannot_break_the_page(folder: Path, tmp_path: Path) -> None:
    pipe = ClassifyPipeline(small(), image_size=64, labels=["<script>alert(1)</script>", 'a, "b"', "é 写真"])
    pipe.run(folder / "0.png", tmp_path / "out.html")
    assert "<script>" not in (tmp_path / "out.html").read_text(encoding="utf-8")
    pipe.run(folder / "0.png", tmp_path / "out.csv", overwrite=True)
    assert {row["label"] for row in csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8"))} == set(pipe.classes)


def test_features_in_addition_to_another_output(classifier: ClassifyPipeline, folder: Path, tmp_path: Path) -> None:
    classifier.run(folder, tmp_path / "out.csv", progress=False, features=tmp_path / "vectors.npz")
    assert len(np.load(tmp_path / "vectors.npz")["features"]) == 9
    assert sorted(file.name for file in tmp_path.iterdir()) == ["images", "out.csv", "out.csv.json", "vectors.npz"]
    with pytest.raises(InputError, match=r"vectors\.npz: exists already"):
        classifier.run(folder, tmp_path / "new.csv", progress=False, features=tmp_path / "vectors.npz")
    with pytest.raises(InputError, match=r"written as \.npz"):
        classifier.run(folder, progress=False, features=tmp_path / "vectors.txt")
    with pytest.raises(InputError, match="one file"):
        classifier.run(folder, tmp_path / "a.npz", progress=False, features=tmp_path / "b.npz")


def test_impossible_outputs(classifier: ClassifyPipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.html, .*\.npz"):
        classifier.run(folder, tmp_path / "out.docx", progress=False)
    with pytest.raises(InputError, match="create it first"):
        classifier.run(folder, tmp_path / "no" / "out.csv", progress=False)
    many = [folder / "0.png", *(folder / f"{number}.bmp" for number in range(300))]
    for path in many[1:]:
        Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(InputError, match=r"301 images do not fit into one \.webp image; write an \.html page"):
        classifier.run(many, tmp_path / "out.webp", progress=False)


def test_an_interrupted_run_resumes(
    classifier: ClassifyPipeline, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are not computed again unless the file has changed; with other settings, the work starts again."""
    want = classifier.run(folder, progress=False)
    stopped: list[str] = []

    def stop(result: ClassificationResult) -> None:
        stopped.append(result.source)
        if len(stopped) == 5:
            raise KeyboardInterrupt

    message = "interrupted; 5 of 9 images are done and kept in .*out.npz.part: run the same command again to resume"
    with pytest.raises(KeyboardInterrupt, match=message):
        classifier.run(folder, tmp_path / "out.npz", progress=False, on_result=stop)
    assert not (tmp_path / "out.npz").exists()
    Image.new("RGB", (50, 50), "blue").save(folder / "0.png")
    seen: list[str] = []
    real = classifier._prepare
    monkeypatch.setattr(classifier, "_prepare", lambda named: seen.append(Path(named[0]).name) or real(named))
    got = classifier.run(folder, tmp_path / "out.npz", progress=False)
    assert sorted(seen) == ["0.png", "5.png", "6.png", "7.png", "8.png"]
    assert labels(got) == ["blue", *labels(want)[1:]]
    assert got[1:] == want[1:]
    saved = np.load(tmp_path / "out.npz")
    assert np.allclose(saved["features"], classifier.features(sorted(folder.iterdir())), atol=1e-5)
    assert not (tmp_path / "out.npz.part").exists()
    (tmp_path / "out.csv.part").write_text("a file of mine")
    with pytest.raises(InputError, match="out.csv.part: exists and was not made by this command"):
        classifier.run(folder, tmp_path / "out.csv", progress=False)
