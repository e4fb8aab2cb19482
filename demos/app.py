"""The demo pages of all tasks as one web application: `visionzoo demo`."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from visionzoo.console import note
from visionzoo.errors import InputError, require, unknown, writing
from visionzoo.registry import pipeline_entries
from visionzoo.serving import check_address

if TYPE_CHECKING:
    import gradio as gr

OWN = {"memory": "visionzoo.demos.memory"}
"""Pages that belong to no task."""


SWEEP_S = 600
"""Seconds between two searches for uploads and results that are older than an hour."""


def pages() -> dict[str, str]:
    """Name -> module whose function `page(home=…, index=…)` lays out the page, and whose constant `TITLE` names its tab."""
    return {**{entry.task: entry.page for entry in pipeline_entries() if entry.page}, **OWN}


def demo_home() -> Path:
    """The folder in which the demo keeps its sample index and uploads; nothing is written anywhere else."""
    home = os.environ.get("VISIONZOO_HOME")
    return (Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("visionzoo"))) / "demo"


def build(task: str | None = None, *, index: Path | None = None) -> gr.Blocks:
    """The page of `task`, or those of all tasks as tabs.

    Args:
        task: one of `pages()`; None for all of them.
        index: the index that the retrieval page searches; None indexes the sample photos.

    Raises:
        InputError: an unknown task, or an index that cannot be searched.
        MissingDependencyError: gradio is not installed.
    """
    known = pages()
    if task is not None and task not in known:
        raise unknown("demo", task, known)
    home = demo_home().absolute()
    tasks = [task] if task else list(known)
    with empty(home) as blocks:
        import gradio as gr  # `empty` has set what it reads when it is imported

        modules = [import_module(known[name]) for name in tasks]
        if len(modules) == 1:
            modules[0].page(home=home, index=index)
        else:
            for module in modules:
                with gr.Tab(module.TITLE):
                    module.page(home=home, index=index)
    return blocks


def empty(home: Path) -> gr.Blocks:
    """Blocks in which pages are laid out.

    Raises:
        MissingDependencyError: gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    gr = require("gradio", extra="demo", purpose="visionzoo demo")
    os.environ["GRADIO_TEMP_DIR"] = str(uploads_folder(home))  # read by each component, and by each request
    return gr.Blocks(title="visionzoo", analytics_enabled=False, fill_width=True, delete_cache=(SWEEP_S, 3600))


_uploads: dict[Path, tempfile.TemporaryDirectory[str]] = {}


def uploads_folder(home: Path) -> Path:
    """The folder of uploads and results of this process, which is deleted when it ends."""
    if home not in _uploads:
        with writing(home):
            (home / "uploads").mkdir(parents=True, exist_ok=True)
            _uploads[home] = tempfile.TemporaryDirectory(dir=home / "uploads", ignore_cleanup_errors=True)
    return Path(_uploads[home].name)


def start(blocks: gr.Blocks, *, port: int, host: str) -> str:
    """Serve the result of `build` from a thread; returns the address. `blocks.close()` ends it.

    Raises:
        InputError: the port is in use, or the host is not an address of this machine.
    """
    from .page import NAMES
    from .style import CSS, theme
    from .uploads import MAX_MB, SCRIPT

    check_address(host, port)
    threading.Thread(target=_sweep_repeatedly, args=(uploads_folder(demo_home().absolute()),), daemon=True).start()
    try:
        _, address, _ = blocks.queue(max_size=32).launch(
            prevent_thread_lock=True,
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=f"{MAX_MB}mb",
            theme=theme(),
            css=CSS,
            head=SCRIPT + NAMES,
        )
    except OSError as error:  # taken between the check and the start
        raise InputError(f"port {port} on {host} cannot be used ({error}); choose another with --port") from error
    return address


def _sweep_repeatedly(home: Path) -> None:
    """Delete old results for as long as the folder exists. gradio does this for uploads."""
    from .work import sweep

    while home.exists():
        sweep(home)
        time.sleep(SWEEP_S)


def launch(task: str | None, *, port: int, host: str, index: Path | None) -> None:
    """Serve the demo until Ctrl-C."""
    check_address(host, port)  # before the photos are described, which takes a while
    blocks = build(task, index=index)
    address = start(blocks, port=port, host=host)
    note(f"the demo is at {address} (Ctrl-C ends it)")
    blocks.block_thread()


__all__ = ["build", "launch", "pages", "start"]
