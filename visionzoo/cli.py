"""The command `visionzoo`: errors are one line each, and the exit code is 2 if the user can fix them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter

from . import __version__, registry
from .console import emit, fail, note, show_warnings_as_lines
from .errors import InputError, VisionZooError, unknown

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print as JSON on standard output.")]
Words = Annotated[
    str, Parameter(allow_leading_hyphen=True, help="Settings that override those of the files, as key=value.")
]
Config = Annotated[
    list[str],
    Parameter(
        name=["--config", "-c"],
        help="YAML file: a path, or a packaged name, SYSTEM/RECIPE. Of several, later ones override earlier ones.",
    ),
]

TASKS, TRAINING, TOOLS = Group("Tasks", sort_key=1), Group("Training", sort_key=2), Group("Tools", sort_key=3)


def build_app() -> App:
    """The command line: task commands come from the pipelines that are registered, and load when they are called."""
    app = App(
        name="visionzoo",
        version=__version__,
        help="Vision and video systems on current PyTorch. `visionzoo COMMAND --help` shows examples.",
        default_parameter=Parameter(json_list=False, json_dict=False),  # `[b].jpg` is a file name
        suppress_keyboard_interrupt=False,  # `main` reports what was kept
    )
    app["--help"].group = app["--version"].group = TOOLS
    for entry in registry.pipeline_entries():
        if entry.command:
            app.command(
                entry.command, name=entry.task, help=entry.summary[0].upper() + entry.summary[1:] + ".", group=TASKS
            )
    for function in (fit, validate, test, predict):
        app.command(function, group=TRAINING)
    for function in (models, info, demo, bench, export, doctor):
        app.command(function, group=TOOLS)
    app.command(weights_app)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit codes: 0 for success; 1 for a defect of ours, or when some of several files failed; 2 for an error that the user can fix; 130
    after an interruption.
    """
    show_warnings_as_lines()
    try:
        build_app()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except MissingArgumentError as error:
        fail(_missing(error))
        sys.exit(2)
    except CycloptsError as error:
        fail(str(error))
        sys.exit(2)
    except VisionZooError as error:
        fail(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        fail(str(error) or "interrupted")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `visionzoo … | head` is not an error
        sys.exit(0)
    sys.exit(0)


def _missing(error: MissingArgumentError) -> str:
    """Names a missing argument as the help does: INPUTS, or --output (-o)."""
    if error.argument is None:
        return str(error)
    name, *short = (name for name in error.argument.names if not name.startswith("--empty-"))
    if error.argument.field_info.is_positional:
        name = name.lstrip("-").upper()
    elif short:
        name = f"{name} ({short[0]})"
    command = " ".join(("visionzoo", *(error.command_chain or ())))
    return f"{name} is missing; `{command} --help` shows an example"


# Tools


def models(
    pattern: Annotated[str, Parameter(help='Wildcard for the names, e.g. "*_s1".')] = "*",
    *,
    task: Annotated[str | None, Parameter(help="List only the models of this task.")] = None,
    json: AsJson = False,
) -> None:
    """List the models with their task, their number of parameters, and where their weights come from.

    Example: visionzoo models "superglobal*"
    """
    from . import weights

    rows = []
    for name in registry.list_models(pattern, task=task):
        card = registry.model_card(name)
        source = card.weights[0] if card.weights else None
        rows.append(
            {
                "name": name,
                "task": card.task,
                "params": card.params,
                "weights": source.origin if source else None,
                "here": bool(source and weights.locate(source)),
            }
        )
    if json:
        emit(rows)
        return
    if not rows and task is not None:
        tasks = sorted({registry.model_card(name).task for name in registry.list_models()})
        raise InputError(f"no model {pattern!r} of the task {task!r}; the tasks are {', '.join(tasks)}")
    if not rows:
        raise unknown("model", pattern, registry.list_models())
    print(f"{'name':<22}{'task':<10}{'params':>9}  {'here':<5}weights from")
    for row in rows:
        print(
            f"{row['name']:<22}{row['task']:<10}{row['params'] / 1e6:>7.1f} M  "
            f"{'yes' if row['here'] else 'no':<5}{row['weights'] or 'none published'}"
        )


def info(
    name: Annotated[str, Parameter(help="Registered model (`visionzoo models` lists them).")], *, json: AsJson = False
) -> None:
    """Show a model's card: its purpose, inputs and outputs, weights and licences, and published results.

    Example: visionzoo info superglobal_r50
    """
    card = registry.model_card(name)
    if json:
        emit(card.to_dict())
    else:
        print(card)


def doctor(*, json: AsJson = False) -> None:
    """Show versions, devices, attention backends, optional packages and their purpose, and the folder of the weights.

    Example: visionzoo doctor
    """
    from .doctor import examine

    report = examine()
    if json:
        emit(report)
        return
    for section, facts in report.items():
        print(section)
        width = min(max(map(len, facts)), 34) + 2
        for key, value in facts.items():
            print(f"  {key:<{width}}{value}" if len(key) < width else f"  {key}: {value}")


def bench(
    name: Annotated[str | None, Parameter(help="Benchmark to run; without one, the benchmarks are listed.")] = None,
    *,
    vs: Annotated[str | None, Parameter(help="Peer to compare with; the list shows it.")] = None,
    rounds: Annotated[int, Parameter(help="Number of measurements of each, in turns; their median is reported.")] = 5,
    json: AsJson = False,
) -> None:
    """Measure time and memory, and those of a comparable implementation in the same run.

    Example: visionzoo bench superglobal-rerank
    """
    from .benchmark import list_benchmarks, run_benchmark

    if name is None:
        for known, summary in list_benchmarks().items():
            print(f"{known:<24}{summary}")
        return
    table = run_benchmark(name, vs=vs, rounds=rounds)
    if json:
        emit(table.to_dict())
    else:
        print(table.to_markdown())


def export(
    model: Annotated[
        str,
        Parameter(help="Registered classifier (`visionzoo models` lists them), or one of its checkpoints, MODEL.TAG."),
    ],
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File to write: .onnx, or .pt2 for torch.export.")],
    checkpoint: Annotated[Path | None, Parameter(help="Weights file to use instead of the published weights.")] = None,
    random: Annotated[bool, Parameter(negative="", help="Use random weights, to try out a deployment.")] = False,
    image_size: Annotated[
        int | None, Parameter(help="Side of the image in pixels; by default that of the training.")
    ] = None,
    fixed: Annotated[
        bool,
        Parameter(negative="", help="Accept only one image of this size; without it, any batch and size are accepted."),
    ] = False,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], Parameter(help="Precision of the weights.")
    ] = "float32",
    opset: Annotated[int | None, Parameter(help="ONNX opset; by default the one that torch chooses.")] = None,
    no_check: Annotated[
        bool,
        Parameter(
            name="--no-check", negative="", help="Skip running the file and comparing its outputs with the network's."
        ),
    ] = False,
    overwrite: Annotated[bool, Parameter(negative="", help="Replace an existing file.")] = False,
    json: AsJson = False,
) -> None:
    """Export a network as ONNX (needs the extra `export`) or as a torch.export program, and check the file's outputs.

    Example: visionzoo export shvit_s1 -o shvit_s1.onnx
    """
    from .io.files import check_output

    check_output(output, overwrite=overwrite)
    from .export import export_registered

    note(f"{output}: writing{'' if no_check else ' and checking'}, which takes about ten seconds", quiet=json)
    report = export_registered(
        model,
        output,
        checkpoint=checkpoint,
        random=random,
        image_size=image_size,
        dynamic=not fixed,
        dtype=dtype,
        opset=opset,
        check=not no_check,
    )
    if json:
        emit(report.to_dict())
    else:
        print(report)


def demo(
    task: Annotated[str | None, Parameter(help="Show only the page of this task.")] = None,
    *,
    port: Annotated[int, Parameter(help="Port to listen on.")] = 7860,
    host: Annotated[
        str, Parameter(help="Address to listen on; 0.0.0.0 makes the pages reachable from other machines.")
    ] = "127.0.0.1",
    index: Annotated[
        Path | None, Parameter(help="Index that the retrieval page searches; by default one of the sample photos.")
    ] = None,
) -> None:
    """Open the demo pages in a browser (needs the extra `demo`).

    Example: visionzoo demo retrieve --port 7860
    """
    launch = import_module("visionzoo.demos.app").launch
    launch(task, port=port, host=host, index=index)


# Training


def fit(*overrides: Words, config: Config, json: AsJson = False) -> None:
    """Train a model with the settings of YAML files.

    Example: visionzoo fit --config superglobal/tiny trainer.max_epochs=2
    """
    _train("fit", config, overrides, json)


def validate(*overrides: Words, config: Config, json: AsJson = False) -> None:
    """Validate a model with the settings of YAML files.

    Example: visionzoo validate --config superglobal/tiny ckpt_path=last
    """
    _train("validate", config, overrides, json)


def test(*overrides: Words, config: Config, json: AsJson = False) -> None:
    """Evaluate a model with the settings of YAML files, and show published results for comparison.

    Example: visionzoo test --config superglobal/roxford data.root=DATASETS model.checkpoint=CVPR2022_CVNet_R50.pyth
    """
    _train("test", config, overrides, json)


def predict(*overrides: Words, config: Config, json: AsJson = False) -> None:
    """Run a model on the data of a configuration, and write its predictions.

    Example: visionzoo predict --config superglobal/roxford_1m data.root=DATASETS
    """
    _train("predict", config, overrides, json)


def _train(subcommand: str, config: list[str], overrides: Sequence[str], json: bool) -> None:
    from .training.run import run

    run(subcommand, config, list(overrides), json=json)


# Weights

weights_app = App(name="weights", help="List, download, verify and convert checkpoints.", group=TOOLS)


@weights_app.command(name="list")
def weights_list(*, json: AsJson = False) -> None:
    """List the published checkpoints with their origin, their licence and the path of the file.

    Example: visionzoo weights list
    """
    from . import weights

    rows = []
    for source in registry.all_sources():
        found = weights.locate(source)
        rows.append(
            {
                "name": source.name,
                "origin": source.origin,
                "license": source.license,
                "file": str(found) if found else None,
            }
        )
    if json:
        emit(rows)
        return
    for row in rows:
        print(
            f"{row['name']}\n  from     {row['origin']}\n  licence  {row['license']}\n  file     {row['file'] or 'not in the cache'}"
        )
    print(f"folder: {weights.weights_dir()}")


@weights_app.command
def fetch(
    names: Annotated[list[str], Parameter(help="Names of checkpoints or models.")],
    *,
    force: Annotated[bool, Parameter(negative="", help="Download the file again, even if it is in the cache.")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="Show no progress bar.")] = False,
) -> None:
    """Download checkpoints into the cache, or explain how to get them by hand.

    Example: visionzoo weights fetch superglobal_lite0
    """
    from . import weights

    for name in names:
        print(weights.fetch(registry.require_source(name), force=force, progress=not quiet))


@weights_app.command
def verify(
    files: Annotated[
        list[str], Parameter(help="Names of checkpoints to check, or files whose SHA-256 checksum is printed.")
    ],
) -> None:
    """Check downloaded checkpoints against their known checksums.

    Example: visionzoo weights verify superglobal_lite0
    """
    from . import weights

    for name in files:
        if Path(name).is_file():
            print(f"{weights.file_sha256(name)}  {name}")
            continue
        source = registry.require_source(name)
        path = weights.locate(source)
        if path is None:
            raise InputError(
                f"{source.name}: is not in the cache; download it with `visionzoo weights fetch {source.name}`"
            )
        weights.verify(path, source.sha256)
        print(f"{path}: {'the checksum is correct' if source.sha256 else 'is in the cache; no checksum is published'}")


@weights_app.command
def convert(
    source: Annotated[Path, Parameter(help="Checkpoint file to convert.")],
    output: Annotated[Path, Parameter(help="File to write (.safetensors).")],
    *,
    model: Annotated[
        str | None,
        Parameter(help="Registered model that the file belongs to; its keys are then converted and checked."),
    ] = None,
    to: Annotated[
        Literal["ours", "official"], Parameter(help="Key names to write: ours, or those of the published code.")
    ] = "ours",
    unsafe: Annotated[
        bool,
        Parameter(
            negative="", help="Allow a pickle to run code when it is read. Use it only for files of authors you trust."
        ),
    ] = False,
    overwrite: Annotated[bool, Parameter(negative="", help="Replace an existing file.")] = False,
) -> None:
    """Convert a checkpoint to safetensors, in our key names or the published ones.

    Example: visionzoo weights convert CVPR2022_CVNet_R50.pyth r50.safetensors --model superglobal_r50
    """
    from . import weights
    from .io.files import check_output

    if output.suffix != ".safetensors":
        raise InputError(f"{output}: the output is written as safetensors: choose a name that ends in .safetensors")
    check_output(output, overwrite=overwrite)
    state: Any
    about = {}
    if model is not None:
        network = weights.load_checkpoint(registry.create_model(model), source, unsafe=unsafe)
        state = network.state_dict() if to == "ours" else weights.to_official(network)
        about = {"model": registry.model_entry(model).card.name, "config": "{}"}
    elif to == "official":
        raise InputError("--to official needs --model NAME, which defines the key names")
    else:
        state = weights.find_state_dict(weights.read_checkpoint(source, unsafe=unsafe), str(source))
    weights.save_safetensors(state, output, about)
    note(f"{output}: {len(state)} tensors")
