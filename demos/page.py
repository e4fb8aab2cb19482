"""The shell of every demo page: heading, inputs on the left, Run and Cancel, results on the right, lasting errors, model facts.

A page is a module with a constant `TITLE` (the name of its tab) and a function

    def page(*, home: Path, index: Path | None = None) -> None:
        head("Remove haze from an image", "What the page does, in one sentence.")
        with Panel("dehaze", "Pick a sample or upload an image, then press Run.") as panel:
            with panel.inputs():
                box = panel.upload(IMAGE, "Hazy image")
                panel.samples([Sample(path, path.stem, (path,)) for path in samples(home)], [box])
            with panel.results():
                shown = gr.Image(interactive=False, format="png")
        panel.run(remove, [box], [shown])
        about(["dehazexl_nano"], {"How it works": "…"})

where `remove(work, upload)` returns HTML that sums up what was done, followed by a value for each output. It reports progress with
`work.report`, writes files to `work.folder()`, and raises `VisionZooError` for what the visitor can fix.
"""

from __future__ import annotations

import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gradio as gr
from gradio.context import Context

from visionzoo.console import note
from visionzoo.errors import VisionZooError

from .about import about, about_html
from .uploads import Box, Medium, names_of, new_folder, upload_box
from .words import explain, plain, problem
from .work import Cancelled, Work, progress_line, saved, summary

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Settings of events that take no time."""


def head(heading: str, subtitle: str, caution: str = "") -> None:
    """The heading of a page, one sentence on what it does, and what a visitor must know before using it.

    Args:
        subtitle: the sentence, as HTML.
        caution: what visitors must know, as HTML.
    """
    warning = f'<p class="vz-caution">{caution}</p>' if caution else ""
    gr.HTML(f'<div class="vz-head"><h1>{plain(heading)}</h1><p>{subtitle}</p>{warning}</div>')


# Layout


@dataclass(frozen=True)
class Sample:
    """Inputs to try a page with.

    Attributes:
        image: an image file, which is shown.
        label: what it shows; read out by screen readers.
        values: values of the components that are set.
    """

    image: Path
    label: str
    values: tuple[Any, ...]


class Panel:
    """Two columns, and what happens when Run is pressed.

    Args:
        name: the element ids begin with "vz-NAME-".
        empty: what the visitor has to do, as HTML; shown until there are results.
        wide: width of the results in elevenths of the page.
        cancel: label of the button that stops the work.
    """

    def __init__(self, name: str, empty: str, wide: int = 8, cancel: str = "Cancel"):
        self.name, self.wide, self._cancel_label = name, wide, cancel
        self.live: gr.HTML | None = None
        self.empty = f'<div class="vz-empty">{empty}</div>'
        self._fresh: list[Any] = []  # events after which old results no longer belong to the inputs
        self._row = gr.Row(elem_classes="vz-columns", equal_height=False)
        self._running: dict[str, threading.Event] = {}
        self._turns: dict[str, threading.Semaphore] = {}

    def __enter__(self) -> Self:
        self._row.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, place: TracebackType | None
    ) -> None:
        self._row.__exit__(kind, value, place)  # pyright: ignore[reportArgumentType]

    def id(self, part: str) -> str:
        return f"vz-{self.name}-{part}"

    @contextmanager
    def inputs(self) -> Iterator[None]:
        """The left column; Run and Cancel are placed below its content."""
        with gr.Column(scale=11 - self.wide, min_width=300, elem_classes="vz-inputs"):
            yield
            with gr.Row(elem_classes="vz-buttons"):
                self.button = gr.Button("Run", variant="primary", size="lg", min_width=120, elem_id=self.id("run"))
                self.cancel = gr.Button(
                    self._cancel_label, size="lg", min_width=90, scale=0, interactive=False, elem_id=self.id("cancel")
                )

    @contextmanager
    def results(self, live: bool = False) -> Iterator[None]:
        """The right column: a status line, and below it the content, once there are results.

        Args:
            live: also a place for intermediate results (`Work.show`), which is empty unless work is going on.
        """
        with gr.Column(scale=self.wide, min_width=300, elem_classes="vz-results"):
            self.status = gr.HTML(self.empty, elem_id=self.id("status"), elem_classes="vz-status")
            if live:
                self.live = gr.HTML(elem_id=self.id("live"))
            with gr.Column(visible=False, elem_id=self.id("results")) as self.group:
                yield

    def upload(self, medium: Medium, label: str, part: str = "upload", **options: Any) -> Box:
        """An upload box; see `uploads.upload_box`."""
        box = upload_box(medium, label, self.id(part), **options)
        self._fresh += [box.component.upload, box.component.clear]
        return box

    def samples(
        self, samples: Sequence[Sample], targets: Sequence[Box | Any], label: str = "Samples", shape: str = ""
    ) -> None:
        """Images that set the inputs when clicked.

        Args:
            targets: upload boxes and components that the values of a sample are for.
            shape: a CSS class, e.g. "vz-few" for a handful of large ones.
        """
        lines = [target.line for target in targets if isinstance(target, Box)]
        shown = gr.Dataset(
            components=[gr.Image(visible=False, label="sample", render=False)],
            samples=[[str(sample.image)] for sample in samples],
            label=label,
            type="index",
            layout="gallery",
            samples_per_page=len(samples),
            elem_id=self.id("samples"),
            elem_classes=["vz-samples", shape],
        )
        gr.HTML(_named_by(self.id("samples"), [sample.label for sample in samples]))
        home = Path(shown.GRADIO_CACHE)

        def choose(number: int) -> Any:
            values = [_as_upload(value, home) for value in samples[number].values]
            values += [box.hint() for box in targets if isinstance(box, Box)]
            return values[0] if len(values) == 1 else values  # for one output, gradio takes a list as its value

        shown.click(choose, shown, [*map(_component, targets), *lines], **QUIET)
        self._fresh.append(shown.click)

    def download(self) -> gr.HTML:
        """A place for links to files: give it what `saved` returns."""
        return gr.HTML(elem_id=self.id("download"), elem_classes="vz-downloads")

    # Running

    def run(
        self,
        function: Callable[..., tuple[Any, ...]],
        inputs: Sequence[Box | Any],
        outputs: Sequence[Any],
        *,
        raw: bool = True,
        also: Sequence[Any] = (),
        instead: Sequence[Any] = (),
        keep: bool = False,
        lane: str = "",
        at_once: int = 1,
    ) -> None:
        """Call `function(work, *inputs)` when Run is pressed; can be called again for other buttons (`instead`).

        Args:
            function: returns HTML that sums up what was done, and a value for each output.
            raw: pass values as the browser sends them: uploads are dictionaries, which `uploads.checked_path` reads.
                States need False.
            also: other events that start it, e.g. `field.submit`.
            instead: events that start it in place of Run.
            keep: earlier results stay visible meanwhile, and after an error.
            lane: work in the same lane runs one after the other; by default, each page has its own lane.
            at_once: for how many visitors `function` may run at the same time.
        """
        components = [*map(_component, inputs)]
        live = [] if self.live is None else [self.live]
        shared = [self.status, self.group, self.button, self.cancel, *live]
        turns = self._turns.setdefault(lane or self.name, threading.Semaphore(at_once))
        cleared = [""] * len(live)

        def begin(request: gr.Request) -> tuple[Any, ...]:
            self._running[str(request.session_hash)] = threading.Event()
            waiting = progress_line("waiting for its turn …")
            return (
                waiting,
                gr.skip() if keep else gr.Column(visible=False),
                gr.Button(interactive=False),
                gr.Button(interactive=True),
                *cleared,
            )

        def work(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
            stop = self._running.setdefault(str(request.session_hash), threading.Event())
            for status, shown, group, result in self._steps(function, values, stop, turns):
                running = group is None
                yield (
                    status,
                    gr.skip() if running or keep else gr.Column(visible=group),
                    gr.Button(interactive=not running),
                    gr.Button(interactive=running),
                    *(shown for _ in live),
                    *(result or [gr.skip()] * len(outputs)),
                )

        def cancel(request: gr.Request) -> str:
            self.stop(request)
            return progress_line("stopping …")

        def clear() -> tuple[Any, ...]:
            ready, idle = gr.Button(interactive=True), gr.Button(interactive=False)
            return self.empty, gr.Column(visible=False), ready, idle, *cleared

        show: dict[str, Any] = {"fn": None, "js": _SHOW.replace("ID", self.id("status"))}
        begun = gr.on([*instead] or [self.button.click, *also], begin, None, shared, queue=False, **QUIET)
        begun.then(**show).then(
            work,
            components,
            [*shared, *outputs],
            preprocess=not raw,
            concurrency_id=lane or self.name,
            concurrency_limit=at_once,
            **QUIET,
        ).then(**show)  # again: before, there may have been nothing to scroll to
        if instead:  # the rest is done for Run
            return
        self.cancel.click(cancel, None, self.status, queue=False, **QUIET)
        if (blocks := Context.root_block) is not None:
            blocks.unload(self.stop)  # the visitor left
        if self._fresh:
            gr.on(self._fresh, clear, None, shared, queue=False, **QUIET)

    def stop(self, request: gr.Request) -> None:
        """Stop the visitor's work at its next report."""
        if (event := self._running.get(str(request.session_hash))) is not None:
            event.set()

    def _steps(
        self,
        function: Callable[..., tuple[Any, ...]],
        values: Sequence[Any],
        stop: threading.Event,
        turns: threading.Semaphore,
    ) -> Iterator[tuple[Any, Any, bool | None, list[Any] | None]]:
        """Yields the status, the intermediate result, whether results are shown (None: not done yet), and the outputs until the
        work is done."""
        work = Work(Path(self.status.GRADIO_CACHE), names_of(*values), stop)
        done: list[Any] = []

        def call() -> None:
            try:
                with turns:  # the work of a visitor who left may still run
                    work.report("starting", 0, 0)
                    done.append(function(work, *values))
            except BaseException as error:  # handed to the visitor's thread
                done.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        status = live = ""
        try:
            thread.join(0.3)
            while thread.is_alive():
                before = status, live
                status, live = work.shown(), work.live
                if (status, live) != before:
                    yield (
                        gr.skip() if status == before[0] else status,
                        gr.skip() if live == before[1] else live,
                        None,
                        None,
                    )
                thread.join(0.2)
        finally:
            stop.set()
        result = done[0]
        if isinstance(result, BaseException):
            work.drop()
            yield self._error_html(result, work), "", False, None
        else:
            summary, *outputs = result
            yield summary, "", True, outputs

    def _error_html(self, error: BaseException, work: Work) -> str:
        """The message for the visitor; the server's log has the rest."""
        if isinstance(error, Cancelled):
            return f'<div class="vz-problem vz-calm" role="status">Cancelled.</div>{self.empty}'
        if isinstance(error, VisionZooError):
            note(f"{self.name} page: {error}")
            return problem(explain(error, work.names)) + self.empty
        traceback.print_exception(error)
        about = " and ".join(work.names.values())
        reason = f"this did not work{f' with {about}' if about else ''}, because of a fault in the program"
        return problem(f"{reason}. Try another file or other settings; the fault is in the server's log") + self.empty


def _component(target: Box | Any) -> Any:
    return target.component if isinstance(target, Box) else target


def _as_upload(value: Any, home: Path) -> Any:
    """One of our files, or a list of them, in the form of an upload."""
    if isinstance(value, list):
        return [_as_upload(one, home) for one in value]
    if not isinstance(value, Path):
        return value
    return str(shutil.copy2(value, new_folder(home) / value.name))


def _named_by(elem_id: str, labels: Sequence[str]) -> str:
    """Names for buttons that have none in gradio; read by `NAMES`."""
    names = "".join(f"<i>{plain(label)}</i>" for label in labels)
    return f'<div class="vz-names" data-for="{elem_id}" hidden>{names}</div>'


_SHOW = """() => {
  const status = document.getElementById("ID");
  if (status && status.getBoundingClientRect().top > window.innerHeight * 0.45) status.scrollIntoView({behavior: "smooth"});
}"""
"""On a narrow screen, the results are below the inputs."""

NAMES = """<script>
// Names for what has none in gradio: sample images, and images without a description.
(() => {
  const name = () => {
    for (const list of document.querySelectorAll(".vz-names")) {
      const items = document.getElementById(list.dataset.for)?.querySelectorAll(".gallery-item") || [];
      items.forEach((item, at) => {
        const text = list.children[at]?.textContent || "sample";
        if (item.getAttribute("aria-label") !== text) { item.setAttribute("aria-label", text); item.title = text; }
        item.querySelectorAll("img").forEach(image => { if (image.alt !== text) image.alt = text; });
      });
    }
    for (const image of document.querySelectorAll("img:not([alt]), img[alt='']")) {
      const block = image.closest("[id^=vz-]"), label = block?.querySelector("label")?.textContent?.trim();
      image.alt = label || (block ? block.id.replace(/^vz-/, "").replaceAll("-", " ") : "image");
    }
    for (const upload of document.querySelectorAll(".vz-upload :is(button.upload-container, input[type=file])")) {
      const label = upload.closest("[id^=vz-]")?.querySelector("label")?.textContent?.trim() || "File";
      const text = `${label}: drop a file here or press Enter to choose one`;
      if (upload.getAttribute("aria-label") !== text) upload.setAttribute("aria-label", text);
    }
  };
  let waiting = false;
  const later = () => {
    if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; name(); }); }
  };
  new MutationObserver(later).observe(document, {childList: true, subtree: true, attributes: true, attributeFilter: ["alt", "src"]});
})();
</script>"""

__all__ = [
    "NAMES", "Cancelled", "Panel", "Sample", "Work", "about", "about_html", "head", "progress_line", "saved", "summary",
]  # fmt: skip
