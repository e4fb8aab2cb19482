"""The promises of every pipeline, for all tasks. A new task adds its tiny network, an input and a look at its result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import visionzoo
from tests import tiny
from tests.contract.setting import capture, draw, film, lines, made
from visionzoo.errors import InputError
from visionzoo.io.video import read_frames
from visionzoo.jobs import sidecar
from visionzoo.lazy import resolve
from visionzoo.registry import pipeline_entries
from visionzoo.stored import read_stored
from visionzoo.task import Task
from visionzoo.task_pipeline import TaskPipeline
from visionzoo.weights import WeightsError, read_metadata, save_safetensors

TASKS = [entry.task for entry in pipeline_entries()]
SINGLE = [entry.task for entry in pipeline_entries() if issubclass(resolve(entry.factory), TaskPipeline)]
"""Tasks whose pipelines hold one network, in one file. Those with several are folders of diffusers; see `tests/diffusion`."""


@dataclass(frozen=True)
class Case:
    """How a task is tested.

    Attributes:
        settings: settings of `create`, besides the network.
        options: options of `run`.
        output: extension of the file for one input.
        call: function of the pipeline and the input that returns the result as numbers.
        source: function that writes an input, whose second argument tells inputs apart.
        beside: other files next to the output and its sidecar, as extensions of the output's name.
        input: extension of inputs.
    """

    settings: dict[str, Any]
    options: dict[str, Any]
    output: str
    call: Callable[[Any, Path], np.ndarray]
    source: Callable[..., Path] = draw
    beside: tuple[str, ...] = ()
    input: str = ".png"


EDIT = {
    "prompt": "a girl with a blue shirt", "source_prompt": "a girl with a red shirt", "steps": 1, "guidance": 1.0,
    "window": 3, "phrase": "",
}  # fmt: skip
COLORIZE = {"prompt": "a girl", "steps": 1, "guidance": 1.0, "drop_remainder": False, "memory": "none"}
GENERATE = {"steps": 1, "guidance": 1.0, "fast_rank": 2}


def case_of(task: str, motion: Path, index: Path) -> Case:
    return {
        "classify": lambda: Case(
            {"image_size": 64},
            {},
            ".html",
            lambda pipe, path: np.array([p.probability for p in pipe(path, top=3).predictions]),
        ),
        "colorize": lambda: Case(
            {},
            {"reference": draw(motion.parent / "reference.png"), "reference_fit": "crop", **COLORIZE},
            ".mkv",
            lambda pipe, path: pipe(path, np.zeros((32, 48, 3), np.uint8), progress=lambda *_: None, **COLORIZE).frames,
            lines,
            input=".avi",
        ),
        "dehaze": lambda: Case({}, {}, ".png", lambda pipe, path: pipe(path).image),
        "edit": lambda: Case(
            {},
            EDIT,
            ".mkv",
            lambda pipe, path: np.stack(pipe(path, progress=lambda *_: None, **EDIT).frames),
            film,
            input=".avi",
        ),
        "generate": lambda: Case(
            {},
            {"actions": ["a red boat"], **GENERATE},
            ".mkv",
            lambda pipe, path: np.stack(pipe(path, ["a red boat"], progress=lambda *_: None, **GENERATE).frames),
        ),
        "interpolate": lambda: Case(
            {},
            {},
            ".mkv",
            lambda pipe, path: np.stack(list(pipe.stream([frame.pixels for frame in read_frames(path)]))),
            film,
            input=".avi",
        ),
        "reconstruct": lambda: Case(
            {},
            {"steps": 4},
            ".vzgs",
            lambda pipe, path: np.array(pipe(path, steps=4).history),
            capture,
            (".png",),
        ),
        "reenact": lambda: Case(
            {"size": 128},
            {"driving": motion, "crop": "none"},
            ".mkv",
            lambda pipe, path: pipe(path, motion, crop="none").frames,
        ),
        "retrieve": lambda: Case({"max_side": 64}, {"index": index}, ".html", lambda pipe, path: pipe.describe([path])),
    }[task]()


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(task: str, motion: Path, index: Path) -> Case:
    return case_of(task, motion, index)


@pytest.fixture
def pipe(task: str, case: Case) -> Any:
    return made(task, case.settings)


# Made


def test_the_class_describes_itself(task: str) -> None:
    (entry,) = (entry for entry in pipeline_entries() if entry.task == task)
    factory = resolve(entry.factory)
    assert issubclass(factory, Task)
    assert (factory.task, entry.task) == (task, task)
    assert factory.default_model in visionzoo.list_models(task=task)
    if task in SINGLE:
        assert isinstance(tiny.NETWORKS[task](), factory.networks)
    else:
        assert isinstance(tiny.PIPELINES[task](), factory)


@pytest.mark.parametrize("task", SINGLE, indirect=True)
def test_the_network_is_unchanged(task: str, case: Case, tmp_path: Path) -> None:
    network = tiny.NETWORKS[task]()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pipe = made(task, case.settings)
    case.call(pipe, case.source(tmp_path / f"a{case.input}"))
    assert pipe.network is network
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("task", SINGLE, indirect=True)
def test_saved_content_loads(task: str, case: Case, pipe: Any, tmp_path: Path) -> None:
    """Loaded from the folder and as a checkpoint, outputs and facts are equal, and the file has the same metadata in every task."""
    pipe.save_pretrained(tmp_path / "p")
    image = case.source(tmp_path / f"a{case.input}")
    want = case.call(pipe, image)
    stored = read_stored(tmp_path / "p" / "model.safetensors")
    assert (stored.model, stored.task) == ("custom", task)
    assert json.loads((tmp_path / "p" / "pipeline.json").read_text())["task"] == task
    for again in (
        type(pipe).from_pretrained(tmp_path / "p", "cpu", "float32"),
        visionzoo.pipeline(task, checkpoint=tmp_path / "p" / "model.safetensors", device="cpu", dtype="float32"),
    ):
        assert (again.name, again.config, again.fingerprint) == ("custom", pipe.config, pipe.fingerprint)
        assert np.array_equal(case.call(again, image), want)
        assert again.facts() == {**pipe.facts(), "checkpoint": str(tmp_path / "p" / "model.safetensors")}
        again.save_pretrained(tmp_path / "q")
        written = [tmp_path / folder / "model.safetensors" for folder in "pq"]
        assert read_metadata(written[0]) == read_metadata(written[1])


@pytest.mark.parametrize("task", SINGLE, indirect=True)
def test_files_and_names_of_other_models_are_refused(task: str, pipe: Any, tmp_path: Path) -> None:
    """A wrong task, another variant, an invalid file, and a network of another class."""
    create = type(pipe).create
    other = next(name for name in visionzoo.list_models() if visionzoo.model_card(name).task not in (task, "classify"))
    with pytest.raises(InputError, match=f"{other} is not a {pipe.kind} model; use .*{pipe.default_model}"):
        create(other)
    with pytest.raises(InputError, match="did you mean"):
        create(pipe.default_model + "x")
    with pytest.raises(InputError, match="network or a name, got Linear"):
        create(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="need a model name"):
        create(tiny.NETWORKS[task](), checkpoint="x.safetensors")
    variants = visionzoo.list_models(task=task)
    file = tmp_path / "other.safetensors"
    save_safetensors({"weight": torch.zeros(3)}, file, {"model": variants[0]})
    if len(variants) > 1:
        with pytest.raises(InputError, match=f"holds weights of {variants[0]}, not of {variants[1]}"):
            create(variants[1], checkpoint=file)
    save_safetensors({"weight": torch.zeros(3)}, file, {"model": other})
    with pytest.raises(InputError, match=f"is for '{other}', which is not a {pipe.kind} model|{other} is not a"):
        create(checkpoint=file)
    save_safetensors({"weight": torch.zeros(3)}, file, {})
    with pytest.raises(WeightsError, match=r"other\.safetensors does not fit"):
        create(checkpoint=file)
    with pytest.raises(WeightsError, match="gone"):
        create(checkpoint=tmp_path / "gone.safetensors")
    pipe.save_pretrained(tmp_path / "p")
    with pytest.raises(InputError, match="holds weights of a custom network"):
        create(pipe.default_model, checkpoint=tmp_path / "p" / "model.safetensors")


@pytest.mark.parametrize("task", SINGLE, indirect=True)
@pytest.mark.parametrize("broken", ["{}", "nonsense", "[1]", '{"model": "no such model"}'])
def test_a_folder_that_holds_no_pipeline(pipe: Any, tmp_path: Path, broken: str) -> None:
    pipe.save_pretrained(tmp_path)
    (tmp_path / "pipeline.json").write_text(broken)
    with pytest.raises(InputError, match=f"holds no saved {pipe.kind} pipeline"):
        type(pipe).from_pretrained(tmp_path)


def test_it_moves(pipe: Any) -> None:
    assert pipe.to("cpu") is pipe
    with pytest.raises(InputError, match="cuda:99"):
        pipe.to("cuda:99")


# Files


def test_a_file_is_written_whole_with_its_sidecar(case: Case, pipe: Any, tmp_path: Path) -> None:
    source, target = case.source(tmp_path / f"a{case.input}"), tmp_path / f"out{case.output}"
    pipe.run(source, target, progress=False, **case.options)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [source.name, *(f"{target.name}{ending}" for ending in ("", ".json", *case.beside))]
    )
    record = json.loads(sidecar(target).read_text())
    assert record["options"]["weights"] == pipe.fingerprint
    assert {"model", "checkpoint", "device", "dtype"} <= record["options"].keys()
    assert record["environment"]["versions"]["torch"]
    before = target.read_bytes()
    with pytest.raises(InputError, match=r"exists already; choose another name or add --overwrite"):
        pipe.run(source, target, progress=False, **case.options)
    assert target.read_bytes() == before
    pipe.run(source, target, progress=False, overwrite=True, **case.options)


def test_a_foreign_file_in_the_sidecars_place_is_kept(case: Case, pipe: Any, tmp_path: Path) -> None:
    place = tmp_path / f"out{case.output}.json"
    place.write_text('{"mine": 1}')
    with pytest.raises(InputError, match="exists already and was not written by visionzoo"):
        pipe.run(
            case.source(tmp_path / f"a{case.input}"), tmp_path / f"out{case.output}", progress=False, **case.options
        )
    assert place.read_text() == '{"mine": 1}'


def test_an_input_that_is_missing_or_broken(case: Case, pipe: Any, tmp_path: Path) -> None:
    target = tmp_path / f"out{case.output}"
    with pytest.raises(InputError, match=rf"gone\{case.input}: no such file"):
        pipe.run(tmp_path / f"gone{case.input}", target, progress=False, **case.options)
    broken = tmp_path / f"broken{case.input}"
    broken.write_bytes(b"words")
    with pytest.raises(InputError, match=rf"broken\{case.input}"):
        pipe.run(broken, target, progress=False, **case.options)
    assert [path.name for path in tmp_path.iterdir()] == [broken.name]


def test_an_output_at_an_impossible_place(case: Case, pipe: Any, tmp_path: Path) -> None:
    source = case.source(tmp_path / f"a{case.input}")
    with pytest.raises(InputError, match="does not exist; create it first"):
        pipe.run(source, tmp_path / "no" / f"out{case.output}", progress=False, **case.options)


def test_quiet_is_quiet(case: Case, pipe: Any, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pipe.run(case.source(tmp_path / f"a{case.input}"), tmp_path / f"out{case.output}", progress=False, **case.options)
    assert capfd.readouterr() == ("", "")


# Tasks that make one file from each file

FILE_TASKS = [entry.task for entry in pipeline_entries() if resolve(entry.factory).files]


@pytest.mark.parametrize("task", FILE_TASKS, indirect=True)
def test_several_files_go_to_a_folder(case: Case, pipe: Any, tmp_path: Path) -> None:
    """The folder's tree is kept, a broken file gives a warning, and finished outputs are not made again."""
    for number, name in enumerate(("b", "deep/c")):
        case.source(tmp_path / "in" / f"{name}{case.input}", number)
    broken = tmp_path / "in" / f"a{case.input}"
    broken.write_bytes(b"words")
    with pytest.warns(UserWarning, match=rf"a\{case.input}") as warned:
        results = pipe.run(tmp_path / "in", tmp_path / "out", progress=False, **case.options)
    assert len([one for one in warned if broken.name in str(one.message)]) == 1
    assert [result.error is None for result in results] == [False, True, True]
    outputs = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".json")
    assert [path.relative_to(tmp_path / "out").with_suffix("").as_posix() for path in outputs] == ["b", "deep/c"]
    broken.unlink()
    outputs[0].unlink()
    again = pipe.run(tmp_path / "in", tmp_path / "out", progress=False, **case.options)
    assert [result.skipped for result in again] == [False, True]


@pytest.mark.parametrize("task", FILE_TASKS, indirect=True)
def test_a_folder_that_cannot_be_created(case: Case, pipe: Any, tmp_path: Path) -> None:
    for name in "ab":
        case.source(tmp_path / "in" / f"{name}{case.input}")
    (tmp_path / "file").write_text("a file")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"is a file"):
            pipe.run(tmp_path / "in", place, progress=False, **case.options)
    with pytest.raises(InputError, match="with several inputs, the output must be a folder"):
        pipe.run(tmp_path / "in", tmp_path / f"out{case.output}", progress=False, **case.options)
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("task", FILE_TASKS, indirect=True)
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_resume(case: Case, pipe: Any, tmp_path: Path) -> None:
    for name in "abc":
        case.source(tmp_path / "in" / f"{name}{case.input}")

    def stop(result: Any) -> None:
        raise KeyboardInterrupt

    message = "interrupted; 1 of 3 files are finished: run the same command again to resume"
    with pytest.raises(KeyboardInterrupt, match=message):
        pipe.run(tmp_path / "in", tmp_path / "out", progress=False, on_result=stop, **case.options)
    results = pipe.run(tmp_path / "in", tmp_path / "out", progress=False, **case.options)
    assert [result.skipped for result in results] == [True, False, False]
