"""Headless Chromium for tests of pages. One Playwright serves a whole process: a second one cannot start beside it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from typing import Any

import pytest

FLAGS = ("--disable-background-networking", "--disable-component-update", "--no-first-run")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def launch(playwright: Any, *flags: str) -> Any:
    """Start the browser that is installed; the test is skipped if there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"the browser tests need one of {', '.join(BROWSERS)} on the PATH")
    root: Sequence[str] = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    return playwright.chromium.launch(executable_path=found, args=[*FLAGS, *flags, *root])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
