"""A Stable Diffusion folder for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_diffusion


@pytest.fixture(scope="session")
def stable_diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny Stable Diffusion; tests do not change it."""
    return tiny_diffusion.save_stable_diffusion(tmp_path_factory.mktemp("stable_diffusion"))
