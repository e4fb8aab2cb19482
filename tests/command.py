"""The command line, run in this process."""

from __future__ import annotations

import pytest

from visionzoo.cli import main


def run(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    """Run `visionzoo WORDS…`; returns its exit code, standard output and standard error, which never hold a traceback."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(stop.value.code or 0), out, err
