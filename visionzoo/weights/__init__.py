"""Find, download, verify, convert and load checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach

_names = {
    "StateDict": f"{__name__}.reading:StateDict",
    "WeightSource": "visionzoo.cards:WeightSource",
    "WeightsError": "visionzoo.errors:WeightsError",
    "converter_of": f"{__name__}.converters:converter_of",
    "download": f"{__name__}.fetching:download",
    "fetch": f"{__name__}.fetching:fetch",
    "file_sha256": f"{__name__}.fetching:file_sha256",
    "find_state_dict": f"{__name__}.reading:find_state_dict",
    "fingerprint": f"{__name__}.reading:fingerprint",
    "load_checkpoint": f"{__name__}.loading:load_checkpoint",
    "locate": f"{__name__}.places:locate",
    "misfit": f"{__name__}.loading:misfit",
    "offline": f"{__name__}.places:offline",
    "read_checkpoint": f"{__name__}.reading:read_checkpoint",
    "read_metadata": f"{__name__}.reading:read_metadata",
    "register_converter": f"{__name__}.converters:register_converter",
    "save_safetensors": f"{__name__}.reading:save_safetensors",
    "to_official": f"{__name__}.loading:to_official",
    "verify": f"{__name__}.fetching:verify",
    "weights_dir": f"{__name__}.places:weights_dir",
}
__getattr__, __dir__ = attach(__name__, _names)

if TYPE_CHECKING:
    from ..cards import WeightSource as WeightSource
    from ..errors import WeightsError as WeightsError
    from .converters import converter_of as converter_of
    from .converters import register_converter as register_converter
    from .fetching import download as download
    from .fetching import fetch as fetch
    from .fetching import file_sha256 as file_sha256
    from .fetching import verify as verify
    from .loading import load_checkpoint as load_checkpoint
    from .loading import misfit as misfit
    from .loading import to_official as to_official
    from .places import locate as locate
    from .places import offline as offline
    from .places import weights_dir as weights_dir
    from .reading import StateDict as StateDict
    from .reading import find_state_dict as find_state_dict
    from .reading import fingerprint as fingerprint
    from .reading import read_checkpoint as read_checkpoint
    from .reading import read_metadata as read_metadata
    from .reading import save_safetensors as save_safetensors
