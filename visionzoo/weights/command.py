"""The command `weights`: list, download, verify and convert checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from visionzoo import options, registry
from visionzoo.console import counted, emit, fail, note
from visionzoo.errors import InputError, SomeFailed, VisionZooError
from visionzoo.options import INPUT, MODEL, OUTPUT, Json, Overwrite, Quiet

app = App(name="weights", help="List, download, verify and convert checkpoints.")


@app.command(name="list")
def weights_list(*, json: Json = False) -> None:
    """List the published checkpoints with origin, licence and local path.

    Example: visionzoo weights list
    """
    from visionzoo import weights

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


@app.command
def fetch(
    names: Annotated[list[str], options.inputs("Names of checkpoints or models.")],
    /,
    *,
    force: Annotated[bool, options.option(OUTPUT, "Download the file again, even if it is in the cache.")] = False,
    quiet: Quiet = False,
) -> None:
    """Download checkpoints into the cache, or explain how to get them by hand.

    Example: visionzoo weights fetch superglobal_lite0
    """
    from visionzoo import weights

    sources = [registry.require_source(name) for name in names]  # arguments are checked before anything is downloaded
    with _each(len(sources), "downloaded") as attempt:
        for source in sources:
            with attempt():
                path = weights.fetch(source, force=force, progress=not quiet)
                if not quiet:
                    print(path)


@app.command
def verify(
    files: Annotated[
        list[str], options.inputs("Names of checkpoints to check, or files whose SHA-256 checksum is printed.")
    ],
    /,
) -> None:
    """Check downloaded checkpoints against their known checksums.

    Example: visionzoo weights verify superglobal_lite0
    """
    from visionzoo import weights

    with _each(len(files), "verified") as attempt:
        for name in files:
            with attempt():
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
                print(
                    f"{path}: {'the checksum is correct' if source.sha256 else 'is in the cache; no checksum is published'}"
                )


@contextmanager
def _each(count: int, done: str) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Process several checkpoints; the error of one is reported, and the others are still processed.

    Args:
        count: number of checkpoints. If there is only one, its error is raised.
        done: what is done to a checkpoint, as a participle, e.g. "verified".

    Raises:
        SomeFailed: some failed (raised at the end).
        InputError: all failed.
    """
    errors: list[VisionZooError] = []

    @contextmanager
    def attempt() -> Iterator[None]:
        try:
            yield
        except VisionZooError as error:
            if count == 1:
                raise
            errors.append(error)
            fail(str(error))

    yield attempt
    if errors:
        kind = SomeFailed if len(errors) < count else InputError
        raise kind(f"{len(errors)} of {count} checkpoints could not be {done}; the lines above say why")


@app.command
def convert(
    source: Annotated[Path, options.inputs("Checkpoint file to convert.")],
    output: Annotated[Path, options.option(OUTPUT, "File to write (.safetensors).")],
    /,
    *,
    model: Annotated[
        str | None,
        options.option(
            MODEL,
            "Registered model of the checkpoint, unless the file states it; keys are then converted and checked.",
        ),
    ] = None,
    to: Annotated[
        Literal["ours", "official"],
        options.option(MODEL, "Key names to write: ours or those of the published code."),
    ] = "ours",
    unsafe: Annotated[
        bool,
        options.option(
            INPUT, "Allow a pickle to run code when it is loaded. Use this only for files from authors you trust."
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert a checkpoint to safetensors, in our key names or the published ones.

    Example: visionzoo weights convert CVPR2022_CVNet_R50.pyth r50.safetensors --model superglobal_r50
    """
    from visionzoo import weights
    from visionzoo.io.files import check_output
    from visionzoo.jobs import refuse_inputs

    if output.suffix != ".safetensors":
        raise InputError(f"{output}: the output must have the extension .safetensors")
    check_output(output, overwrite=overwrite)
    refuse_inputs([output], [source])
    count = weights.convert_checkpoint(source, output, model=model, to=to, unsafe=unsafe)
    note(f"{counted(count, 'tensor')} saved to {output}")


__all__ = ["app"]
