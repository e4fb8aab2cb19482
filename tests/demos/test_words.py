"""Messages for visitors: no paths, no commands, but a reason and what to do."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

from visionzoo.demos.words import explain, file_stem, for_visitors, problem, sentence
from visionzoo.errors import InputError, MissingDependencyError, VisionZooError
from visionzoo.weights import WeightsError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Trained on tiles (visionzoo fit --config dehazexl/nano). It is small.", "Trained on tiles. It is small."),
        ("Without blending (--no-blend), borders are visible.", "Without blending, borders are visible."),
        ("The default of `visionzoo retrieve`.", "The default of the retrieve page."),
        ("Trained by visionzoo for an hour.", "Trained by visionzoo for an hour."),
        ("a.mp4: has 3 frames; add --overwrite", "a.mp4: has 3 frames"),
        ("no weights; set VISIONZOO_HOME, or use pip install x", "no weights"),
        ("/srv/cache/weights/a.safetensors: damaged", "a.safetensors: damaged"),
        ("C:\\cache\\weights\\a.safetensors: damaged", "a.safetensors: damaged"),
        ("see https://example.org/a/b for it", "see https://example.org/a/b for it"),
        ("at least 3/4 of it", "at least 3/4 of it"),
    ],
)
def test_commands_and_paths_are_left_out(text: str, told: str) -> None:
    assert for_visitors(text) == told


def test_an_error_uses_the_users_name_of_the_file() -> None:
    error = InputError("/srv/uploads/ab12/x.jpg: not an image; run `git lfs pull`")
    assert explain(error, {"/srv/uploads/ab12/x.jpg": "my photo.jpg"}) == "my photo.jpg: not an image"


def test_errors_that_only_the_server_owner_can_fix_say_so() -> None:
    missing = MissingDependencyError(
        "reading videos needs the package 'av', which is not installed; install it with: pip install x"
    )
    assert (
        explain(missing)
        == "This server lacks a package for reading videos. Ask its operator, or try another kind of file."
    )
    weights = explain(WeightsError("x.one: not in the cache; pass --checkpoint FILE"))
    assert weights == "x.one: not in the cache. Choose another model, or ask the operator of this server."
    assert (
        explain(VisionZooError("--port is taken")) == "This cannot be done with these files and settings. Try others."
    )


def test_an_error_is_one_sentence_and_escaped() -> None:
    assert problem("pick <one> first") == '<div class="vz-problem" role="alert">Pick &lt;one&gt; first.</div>'
    assert sentence("photo.jpg: damaged") == "photo.jpg: damaged."
    assert sentence("my photo.jpg: damaged") == "my photo.jpg: damaged."
    assert sentence("shvit_s2.official: not here.") == "shvit_s2.official: not here."


@pytest.mark.parametrize("name", ["../../x <b>", "", None, "." * 300, "a" * 300, "C:\\a\\b.png"])
def test_names_of_downloads_are_for_any_system(name: str | None) -> None:
    stem = file_stem(name, "image")
    assert 0 < len(stem) <= 80
    assert all(letter.isalnum() or letter in " -_.()" for letter in stem)
