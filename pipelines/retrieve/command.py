"""`visionzoo retrieve`: index photos and search them by example."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from visionzoo import options
from visionzoo.console import counted, emit, note, printable
from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, OUTPUT, Checkpoint, Computing, Device, Engine, Json, Overwrite, Reporting

from .limits import MIN_SCORE, MIN_SCORE_ALONE

if TYPE_CHECKING:
    from .results import IndexReport

app = options.command_app(
    "retrieve",
    [
        "visionzoo retrieve samples -o samples",
        "visionzoo retrieve index PHOTOS -o photos.index",
        "visionzoo retrieve search photos.index QUERY.jpg --top 10 -o result.html",
        "visionzoo retrieve search photos.index QUERY.jpg --min-score 0.7 --copy-to FOUND",
        "visionzoo retrieve duplicates photos.index -o duplicates.html",
    ],
)


@options.subcommand(app)
def index(
    photos: Annotated[list[Path], options.inputs("Folders (searched recursively), files or glob patterns.")],
    /,
    *,
    output: Annotated[Path, options.output("Folder of the index; it is extended if it exists.")],
    model: Annotated[str | None, options.model("retrieve", "or timm:NAME; superglobal_lite0 by default")] = None,
    checkpoint: Checkpoint = None,
    max_side: Annotated[
        int | None,
        options.option(MODEL, "Shrink photos whose longest side has more pixels than this; 0 keeps their size."),
    ] = None,
    scales: Annotated[
        Literal[1, 3, 5] | None,
        options.option(MODEL, "Number of sizes at which a photo is described: 1 is fastest; the models' default is 3."),
    ] = None,
    store: Annotated[
        Literal["matrix", "faiss", "qdrant"], options.option(OUTPUT, "Where a new index keeps its descriptors.")
    ] = "matrix",
    storage: Annotated[
        Literal["float32", "float16"], options.option(OUTPUT, "Precision of stored descriptors (matrix and faiss).")
    ] = "float32",
    faiss_kind: Annotated[
        Literal["flat", "fp16", "ivf"],
        options.option(OUTPUT, "With --store faiss: exact, half precision, or approximate."),
    ] = "flat",
    qdrant_url: Annotated[
        str | None,
        options.option(
            OUTPUT, "Address of a Qdrant server (its key is read from QDRANT_API_KEY); by default a local folder."
        ),
    ] = None,
    prune: Annotated[bool, options.option(OUTPUT, "Remove photos from the index whose file no longer exists.")] = False,
    prune_empty: Annotated[
        bool,
        options.option(
            OUTPUT,
            "Like --prune, but also in folders that have no photos left (make sure that their disks are mounted).",
        ),
    ] = False,
    rebuild: Annotated[bool, options.option(OUTPUT, "Discard an existing index and make it again.")] = False,
    engine: Engine = "local",
    computing: Computing = Computing(),  # noqa: B008 (frozen)
) -> None:
    """Make an index of photos, or bring one up to date: only new and changed files are read.

    Files that cannot be read are reported, skipped, and tried again the next time; the exit code is then 1. The same command resumes
    after an interruption. A photo that was moved is recognised.

    Example: visionzoo retrieve index ~/Pictures -o photos.index
    """
    from visionzoo.errors import SomeFailed
    from visionzoo.io.files import check_name
    from visionzoo.jobs.resume import RESUME, Interrupted

    from ...models.superglobal.model import SCALES
    from .pipeline import RetrievePipeline

    made = (check_name(output) / "manifest.json").exists()
    for source in () if made else photos:
        if not source.exists() and not any(mark in str(source) for mark in "*?["):
            raise InputError(f"{source}: no such file or folder")
    settings: dict[str, Any] = {"model": model, "checkpoint": checkpoint, "max_side": max_side}
    if scales is not None:
        settings["scales"] = SCALES[scales]
    if made and not rebuild:
        pipe = RetrievePipeline.for_index(output, computing.device, computing.dtype, **settings)
    else:
        pipe = RetrievePipeline.create(device=computing.device, dtype=computing.dtype, **settings)
    try:
        report = pipe.index(
            photos,
            output,
            store=_store(store, storage, faiss_kind, qdrant_url),
            prune=prune,
            prune_empty=prune_empty,
            rebuild=rebuild,
            progress=not computing.quiet,
            engine=engine,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; finished work is kept in {output}: {RESUME}") from None
    if computing.json:
        emit(report.to_dict())
    else:
        _show(report, output, computing.quiet)
    if report.failed:
        raise SomeFailed(
            f"{counted(len(report.failed), 'file or folder', 'files or folders')} could not be read; the same command tries them again"
        )


def _show(report: IndexReport, output: Path, quiet: bool) -> None:
    for path, reason in report.failed:
        note(reason if str(path) in reason else f"{path}: {reason}")
    if report.removed:
        files = "its file no longer exists" if report.removed == 1 else "their files no longer exist"
        note(f"{counted(report.removed, 'photo')} removed from the index, as {files}", quiet=quiet)
    if left := len(report.vanished) - report.removed:
        unsure = 0 if report.removed > len(report.vanished) - len(report.unsure) else len(report.unsure)
        one = left == 1
        removing = f"to remove {'it' if one else 'them'} from the index, add"
        how = f"{removing} --prune"
        if unsure == left:
            how = f"if {'its' if one else 'their'} disk is not mounted, mount it; {removing} --prune-empty"
        elif unsure:
            how += f", and --prune-empty for the {unsure} in folders that have no others"
        which = f"is missing: {report.vanished[-1]}" if one else f"are missing, e.g. {report.vanished[-1]}"
        note(f"{counted(left, 'photo')} of the index {which}; {how}", quiet=quiet)
    moved = f", {report.moved} of them moved" if report.moved else ""
    skipped = f", {len(report.failed)} cannot be read" if report.failed else ""
    read = f"{report.added} read in {report.seconds:.1f} s"
    print(f"{output}: {counted(report.photos, 'photo')} ({read}, {report.unchanged} unchanged{moved}{skipped})")


@options.subcommand(app)
def search(
    index: Annotated[Path, options.inputs("An index made by `visionzoo retrieve index`.")],
    query: Annotated[list[Path], options.inputs("Images to search by: files, a folder or glob patterns.")],
    /,
    *,
    output: Annotated[
        Path | None,
        options.output(
            "Contact sheet (.html, .jpg, .png, .webp), or .json. The results are also written to OUTPUT.json."
        ),
    ] = None,
    top: Annotated[int, options.option(OUTPUT, "Number of photos to show for each query.")] = 10,
    min_score: Annotated[float | None, options.option(OUTPUT, "Leave out photos with a lower score.")] = None,
    copy_to: Annotated[
        Path | None, options.option(OUTPUT, "Copy the photos found to this folder; no file in it is replaced.")
    ] = None,
    rerank: Annotated[
        bool, options.option(MODEL, "Rerank the best candidates by comparing them with each other.")
    ] = False,
    box: Annotated[
        str | None, options.option(INPUT, "Search for this part of the query: x0,y0,x1,y1 in pixels.")
    ] = None,
    candidates: Annotated[int, options.option(MODEL, "Number of candidates that are reranked (M in the paper).")] = 400,
    neighbours: Annotated[
        int, options.option(MODEL, "Number of neighbours that refine a candidate (K in the paper).")
    ] = 9,
    beta: Annotated[float, options.option(MODEL, "Weight of a neighbour in the reranking.")] = 0.15,
    model: Annotated[str | None, options.option(MODEL, "Model that made the index (the default).")] = None,
    checkpoint: Annotated[
        Path | None, options.option(MODEL, "Weights file of the model, if it was moved since.")
    ] = None,
    overwrite: Overwrite = False,
    computing: Computing = Computing(),  # noqa: B008 (frozen)
) -> None:
    """Search an index by example: prints the best photos, and writes a contact sheet with -o.

    Example: visionzoo retrieve search photos.index query.jpg --top 10 --rerank -o result.html
    """
    from visionzoo.io.extensions import IMAGES
    from visionzoo.io.find import find_inputs
    from visionzoo.io.head import read_head
    from visionzoo.jobs import SomeFailed, saved_to, sidecar

    corners = None if box is None else _parse_box(box)
    queries = [path for path, _ in find_inputs(query, IMAGES)]
    if len(queries) == 1:
        read_head(queries[0], "an image file")  # before torch and the weights are loaded

    from .pipeline import RetrievePipeline
    from .results import MISSING
    from .searching import check_score

    check_score(min_score)
    pipe = RetrievePipeline.for_index(index, computing.device, computing.dtype, model=model, checkpoint=checkpoint)
    results = pipe.run(
        query, output, progress=not computing.quiet, index=index, overwrite=overwrite, box=corners, top=top,
        min_score=min_score, copy_to=copy_to, rerank=rerank,
        candidates=candidates, neighbours=neighbours, beta=beta,
    )  # fmt: skip
    if computing.json:
        emit([result.to_dict() for result in results])
    for result in () if computing.json else results:
        if len(results) > 1:
            print(printable(result.query))
        for match in result.matches:
            missing = f"  ({MISSING})" if match.missing else ""
            print(f"{match.rank:>4}  {match.score:.4f}  {printable(str(match.path))}{missing}")
        if not result.matches:
            note(f"{result.query}: no photo has a score of {min_score} or more", quiet=computing.quiet)
    if copy_to is not None:
        count = sum(match.copy is not None for result in results for match in result.matches)
        note(f"{counted(count, 'photo')} copied to {copy_to}", quiet=computing.quiet)
    if output is not None:
        note(saved_to(*dict.fromkeys([output, sidecar(output)])), quiet=computing.silent)
    if failed := len(queries) - len(results):
        raise SomeFailed(
            f"{failed} of {counted(len(queries), 'query', 'queries')} could not be read; the warnings above say why"
        )


@options.subcommand(app)
def duplicates(
    index: Annotated[Path, options.inputs("An index made by `visionzoo retrieve index`.")],
    /,
    *,
    output: Annotated[
        Path | None,
        options.output(
            "Contact sheet (.html, .jpg, .png, .webp), or .json. The results are also written to OUTPUT.json."
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        options.option(
            OUTPUT, f"Lowest score of duplicates: {MIN_SCORE} by default, {MIN_SCORE_ALONE} with --no-compare."
        ),
    ] = None,
    compare: Annotated[
        bool,
        options.option(
            MODEL,
            "Read photos that score enough and compare their images: this finds small copies and leaves out other views of a subject.",
        ),
    ] = True,
    overwrite: Overwrite = False,
    device: Device = "auto",
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Find groups of photos that show the same image: copies, other sizes and qualities, light edits. No file is changed.

    The first photo of a group has the most pixels; the others are listed with their similarity to it.

    Example: visionzoo retrieve duplicates photos.index -o duplicates.html
    """
    from visionzoo.devices import pick_device
    from visionzoo.errors import SomeFailed
    from visionzoo.jobs import Bars, refuse_inputs, saved_to, sidecar

    from ...models.superglobal.index import PhotoIndex
    from .duplicates import find_duplicates, write_duplicates
    from .results import check_sheet

    out = None if output is None else check_sheet(output, overwrite)
    with PhotoIndex.open(index) as opened:
        if out is not None and out.exists():
            refuse_inputs([out], (photo.path for photo in opened.photos()))
        with Bars(not reporting.silent) as bars:
            result = find_duplicates(opened, min_score, compare=compare, device=pick_device(device), progress=bars.show)
    if out is not None:
        settings = {"min_score": result.min_score, "compare": compare, "device": str(pick_device(device))}
        write_duplicates(out, result, {"index": str(index), **settings})
    if reporting.json:
        emit(result.to_dict())
    else:
        for number, group in enumerate(result.groups, 1):
            print(f"group {number}: {len(group)} photos")
            for photo in group:
                size = "" if photo.width is None else f"{photo.width} x {photo.height}"
                print(f"  {photo.score:.4f}  {size:>13}  {printable(str(photo.path))}")
    count = sum(map(len, result.groups))
    found = (
        f"{count} of {result.photos} photos in {counted(len(result.groups), 'group')}"
        if count
        else "no duplicates found"
    )
    note(f"{index}: {found} ({result.rule})", quiet=reporting.silent)
    if result.missing:
        one = len(result.missing) == 1
        why = "its file no longer exists" if one else "their files no longer exist"
        note(
            f"{counted(len(result.missing), 'photo')} left out, as {why}; `visionzoo retrieve index` with --prune removes "
            f"{'it' if one else 'them'} from the index",
            quiet=reporting.silent,
        )
    if output is not None:
        note(saved_to(*dict.fromkeys([output, sidecar(output)])), quiet=reporting.silent)
    for _, error in result.failed:
        note(error)
    if result.failed:
        raise SomeFailed(f"{counted(len(result.failed), 'photo')} could not be read; the lines above say why")


@options.subcommand(app)
def info(
    index: Annotated[Path, options.inputs("An index made by `visionzoo retrieve index`.")],
    /,
    *,
    verify: Annotated[bool, options.option(INPUT, "Also check every descriptor and the catalogue.")] = False,
    json: Json = False,
) -> None:
    """Show what an index holds and which model made it.

    Example: visionzoo retrieve info photos.index --verify
    """
    from ...models.superglobal.index import PhotoIndex

    with PhotoIndex.open(index) as opened:
        manifest = opened.manifest
        facts: dict[str, Any] = {
            "index": str(index),
            "photos": len(opened),
            "model": manifest.model,
            "weights": manifest.fingerprint,
            "dim": manifest.dim,
            "max_side": manifest.max_side,
            "store": manifest.store,
            "unreadable": [photo.error for photo in opened.photos(failed=True)],
        }
        problems = opened.check() if verify else []
    if verify:
        facts["problems"] = problems
    if json:
        emit(facts)
    else:
        for key, value in facts.items():
            if isinstance(value, list):
                print(f"{key:<11}{len(value)}")
                for item in value:
                    print(f"{'':<11}{item}")
            else:
                print(f"{key:<11}{value}")
    if problems:
        what = f"damaged index ({counted(len(problems), 'problem')}, listed above)"
        raise InputError(f"{index}: {what}; run `visionzoo retrieve index` with --rebuild")


options.samples_command(
    app,
    "retrieve",
    f"{__package__}.samples:write_samples",
    folder="samples",
    help="Write the bundled sample collection: 65 photos and 13 queries, with free licences (see its README.md).",
    then="visionzoo retrieve index samples/photos -o photos.index",
)


def _parse_box(text: str) -> tuple[float, ...]:
    try:
        corners = tuple(float(part) for part in text.replace(" ", "").split(","))
    except ValueError:
        corners = ()
    if len(corners) != 4:
        raise InputError(f"--box must be x0,y0,x1,y1 in pixels, e.g. --box 40,60,300,420; got {text!r}")
    return corners


def _store(backend: str, storage: str, faiss_kind: str, qdrant_url: str | None) -> dict[str, Any]:
    """Options of a new index's store, for `visionzoo.memory.open_store`."""
    if qdrant_url and backend != "qdrant":
        raise InputError("--qdrant-url needs --store qdrant")
    if faiss_kind != "flat" and backend != "faiss":
        raise InputError("--faiss-kind needs --store faiss")
    if backend == "qdrant":
        if storage != "float32":
            raise InputError("--storage needs --store matrix or faiss, as Qdrant stores its own precision")
        return {"backend": backend, "url": qdrant_url} if qdrant_url else {"backend": backend}
    options = {"backend": backend}
    if storage != "float32":
        options["storage"] = storage
    if backend == "faiss":
        options["kind"] = faiss_kind
    return options
