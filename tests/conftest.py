"""Shared by all tests: no network, a separate cache, few threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# no test asserts a time, but hypothesis would on a busy machine
settings.register_profile("visionzoo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("visionzoo")
# shells start background jobs with Ctrl-C ignored; commands that tests interrupt would inherit that, and never end
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Networks in tests are tiny: on a busy machine, waiting for a second thread takes up to 70 times their CPU time.

    Before every test, as another one may have left more threads, with which sums differ in their last bits from run to run.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache is neither read nor written, and nothing is downloaded unless a test serves it."""
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    """Drives browsers; see tests/browsers.py."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def photo(tmp_path: Path):
    """Makes a small photo-like file: `photo("name.jpg", size=(160, 120), seed=1)`."""

    def make(name: str, size: tuple[int, int] = (160, 120), seed: int = 0, **save: object) -> Path:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (size[1] // 20 + 1, size[0] // 20 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **save)
        return path

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the numbers of tests in a machine-readable line."""
    stats = terminalreporter.stats
    count = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped")}
    terminalreporter.write_line(
        f"{count['passed']} passed, {count['failed'] + count['error']} failed, {count['skipped']} skipped"
    )
