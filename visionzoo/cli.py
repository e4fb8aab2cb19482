"""The command `visionzoo`. Every error is a single line.

Exit codes: 0, everything succeeded; 1, some of the named inputs failed; 2, nothing could be done; 130, interrupted.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

from . import __version__, options, registry
from .console import emit, fail, note, show_warnings_as_lines
from .errors import InputError, VisionZooError, unknown
from .options import INPUT, MODEL, OUTPUT, SPEED, Json, Overwrite, Reporting, refuse_empty_paths
from .training.command import fit, predict, test, validate
from .usage_errors import usage_error
from .weights.places import keep_others_offline

TASKS, TRAINING, TOOLS = Group("Tasks", sort_key=1), Group("Training", sort_key=2), Group("Tools", sort_key=3)


def build_app(exporter: registry.Exporter | None = None) -> App:
    """Build the command line: task commands come from the registered pipelines and are loaded when they are called.

    Args:
        exporter: what the command `export` is; by default, it exports networks.
    """
    app = App(
        name="visionzoo",
        version=__version__,
        help="Vision and video systems on current PyTorch. `visionzoo COMMAND --help` shows examples.",
        # `[b].jpg` is a file name, not markup; no automatic negative flags; "default: False" is not shown
        default_parameter=Parameter(
            json_list=False, json_dict=False, negative="", show_default=lambda value: None if value is False else value
        ),
        config=refuse_empty_paths,
        suppress_keyboard_interrupt=False,  # `main` reports what was kept
    )
    app["--help"].group = app["--version"].group = TOOLS
    for entry in registry.pipeline_entries():
        if entry.command:
            app.command(entry.command, name=entry.task, help=_sentence(entry.summary), group=TASKS)
        for more in entry.commands:
            app.command(more.place, name=more.name, help=_sentence(more.summary), group=TASKS)
    for function in (fit, validate, test, predict):
        app.command(function, group=TRAINING)
    for function in (models, info, demo, bench, doctor):
        app.command(function, group=TOOLS)
    if exporter is None:
        app.command(export, group=TOOLS, help_epilogue=_other_exports())
    else:
        app.command(exporter.place, name="export", help=_sentence(exporter.summary), group=TOOLS)
    app.command(
        "visionzoo.weights.command:app",
        name="weights",
        help="List, download, verify and convert checkpoints.",
        group=TOOLS,
    )
    app.command("visionzoo.data.command:app", name="data", help="Make data for training and tests.", group=TOOLS)
    app.command(
        "visionzoo.metrics.command:app", name="measure", help="Measure edited and generated videos.", group=TOOLS
    )
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with one of the codes above."""
    words = ["./-" if word == "-" else word for word in (sys.argv[1:] if arguments is None else arguments)]
    app = build_app(_exporter_of(words))
    keep_others_offline()
    try:
        # `./-` is the same path as `-`, and no parser takes it for an option
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        how = {word: any(_is_on(word, *item) for item in bound.arguments.items()) for word in ("quiet", "json")}
        show_warnings_as_lines(**how)
        command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        fail(usage_error(app, error))
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


def _exporter_of(words: list[str]) -> registry.Exporter | None:
    """For the words `export FILE`: the exporter of the task that exports such files; None for a network."""
    if words[:1] != ["export"]:
        return None
    inputs = [
        (before, word)
        for before, word in itertools.pairwise(words)
        if not word.startswith("-") and before not in ("-o", "--output")
    ]
    known = registry.list_models()
    if any(word in known for _, word in inputs):
        return None
    for exporter in (entry.exporter for entry in registry.pipeline_entries()):
        for before, word in inputs if exporter else ():
            assert exporter is not None
            is_folder = exporter.folders and not before.startswith("-") and os.path.isdir(word)
            if is_folder or os.path.splitext(word)[1].lower() in exporter.reads:
                return exporter
    return None


def _other_exports() -> str:
    """The end of the help of `export`: what else it exports."""
    found = [entry.exporter for entry in registry.pipeline_entries() if entry.exporter]
    return "  \n".join(
        f"`{each.example}`: {each.summary}. `--help` after the file shows its options." for each in found
    )


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def _is_on(word: str, name: str, value: object) -> bool:
    return getattr(value, word) if isinstance(value, Reporting) else name == word and bool(value)


# Tools


def models(
    pattern: Annotated[str, options.inputs('Wildcard for the names, e.g. "*_s1".')] = "*",
    /,
    *,
    task: Annotated[str | None, options.inputs("List only the models that this task can use.")] = None,
    json: Json = False,
) -> None:
    """List the models with their task, number of parameters and origin of weights.

    Example: visionzoo models "superglobal*"
    """
    from . import weights

    rows = []
    for name in _models_for(task, pattern):
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
    if not rows:
        raise unknown("model", pattern, _models_for(task))
    names, tasks = (max(len(key), *(len(row[key]) for row in rows)) + 2 for key in ("name", "task"))
    print(f"{'name':<{names}}{'task':<{tasks}}{'params':>9}  {'here':<5}weights from")
    for row in rows:
        print(
            f"{row['name']:<{names}}{row['task']:<{tasks}}{row['params'] / 1e6:>7.1f} M  "
            f"{'yes' if row['here'] else 'no':<5}{row['weights'] or 'none published'}"
        )
    also = next((entry.also for entry in registry.pipeline_entries() if entry.task == task), None)
    if also is not None:
        print(f"and {also}")
    note("visionzoo info NAME shows a model's card")


def _models_for(task: str | None, pattern: str = "*") -> list[str]:
    """Names of the models that a task can use, or of all models.

    Raises:
        InputError: there is no such task; the message lists the tasks.
    """
    if task is None:
        return registry.list_models(pattern)
    tasks = registry.list_tasks()
    if task not in tasks:
        raise InputError(f"there is no task {task!r}; the tasks are {', '.join(tasks)}")
    return registry.usable_models(task, pattern)


def info(
    name: Annotated[str, options.inputs("Registered model (`visionzoo models` lists them).")],
    /,
    *,
    json: Json = False,
) -> None:
    """Show a model's card: its purpose, inputs and outputs, weights and licences, and published results.

    Example: visionzoo info superglobal_r50
    """
    card = registry.model_card(name)
    if json:
        emit(card.to_dict())
    else:
        print(card)


def doctor(
    *,
    deep: Annotated[
        bool, options.option(INPUT, "Also compile and run the attention kernels, which takes about 15 seconds.")
    ] = False,
    json: Json = False,
) -> None:
    """Show versions, devices, attention backends, optional packages with their purpose, and the weights folder.

    Example: visionzoo doctor --deep
    """
    from .doctor import examine

    report = examine(deep=deep)
    if json:
        emit(report)
        return
    for section, facts in report.items():
        print(section)
        width = min(max(map(len, facts)), 34) + 2
        for key, value in facts.items():
            print(f"  {key:<{width}}{value}" if len(key) < width else f"  {key}: {value}")


def bench(
    name: Annotated[
        str | None, options.inputs("Benchmark to run; without it, or with `list`, all benchmarks are listed.")
    ] = None,
    /,
    *,
    vs: Annotated[str | None, options.inputs("Peer to compare with, as shown in the list.")] = None,
    rounds: Annotated[
        int, options.option(SPEED, "Number of alternating measurements of each contestant; the median is reported.")
    ] = 5,
    json: Json = False,
) -> None:
    """Measure time and memory in comparison with another implementation, in the same run.

    Example: visionzoo bench superglobal-rerank
    """
    from .benchmark import list_benchmarks, run_benchmark

    if rounds < 1:
        raise InputError(f"--rounds must be at least 1, got {rounds}")
    if name in (None, "list"):
        known = list_benchmarks()
        if json:
            emit(known)
        else:
            print("\n".join(f"{each:<24}{summary}" for each, summary in known.items()))
        return
    table = run_benchmark(name, vs=vs, rounds=rounds)
    if json:
        emit(table.to_dict())
    else:
        print(table.to_markdown())


def export(
    model: Annotated[
        str,
        options.option(
            MODEL, "Registered classifier (`visionzoo models` lists them), or one of its checkpoints, MODEL.TAG."
        ),
    ],
    /,
    *,
    output: Annotated[Path, options.output("File to write: .onnx, or .pt2 for torch.export.")],
    checkpoint: options.Checkpoint = None,
    random: Annotated[bool, options.option(MODEL, "Use random weights, to try out a deployment.")] = False,
    image_size: Annotated[
        int | None, options.option(MODEL, "Side of the image in pixels; by default the training size.")
    ] = None,
    fixed: Annotated[
        bool,
        options.option(
            MODEL, "Export for a single image of this size; without it, any batch and image size are accepted."
        ),
    ] = False,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], options.option(OUTPUT, "Precision of the weights.")
    ] = "float32",
    opset: Annotated[int | None, options.option(OUTPUT, "ONNX opset; by default the one that torch chooses.")] = None,
    no_check: Annotated[
        bool,
        options.option(
            SPEED, "Do not run the exported file to compare its outputs with the network's.", name="--no-check"
        ),
    ] = False,
    overwrite: Overwrite = False,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Export a network as ONNX (needs the extra `export`) or as a torch.export program, and check the file's outputs.

    Example: visionzoo export shvit_s1 -o shvit_s1.onnx
    """
    from .export.arguments import check_export
    from .io.files import check_output

    check_output(output, overwrite=overwrite)
    check_export(
        model,
        output,
        checkpoint=checkpoint,
        random=random,
        image_size=image_size,
        opset=opset,
        check=not no_check,
        dtype=dtype,
    )  # before torch and weights are loaded
    from .export import export_registered

    doing = f"writing{'' if no_check else ' and checking'}"
    report = export_registered(
        model,
        output,
        checkpoint=checkpoint,
        random=random,
        image_size=image_size,
        on_open=lambda: note(f"{output}: {doing}, which takes about ten seconds", quiet=reporting.silent),
        dynamic=not fixed,
        dtype=dtype,
        opset=opset,
        check=not no_check,
    )
    if reporting.json:
        emit(report.to_dict())
    elif not reporting.quiet:
        print(report)


def demo(
    task: Annotated[str | None, options.inputs("Show only the page of this task.")] = None,
    /,
    *,
    port: Annotated[int, options.option(OUTPUT, "Port to listen on.")] = 7860,
    host: Annotated[
        str,
        options.option(OUTPUT, "Address to listen on; 0.0.0.0 makes the pages reachable from other machines."),
    ] = "127.0.0.1",
    index: Annotated[
        Path | None,
        options.inputs("Index for the retrieval page to search; by default an index of the sample photos."),
    ] = None,
) -> None:
    """Open the demo pages in a browser (needs the extra `demo`).

    Example: visionzoo demo retrieve --port 7860
    """
    launch = import_module("visionzoo.demos.app").launch
    launch(task, port=port, host=host, index=index)
