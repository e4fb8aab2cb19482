#!/usr/bin/env bash
# Expected: a step of an optimizer between forward and backward is noticed. torch counts writes to every tensor, and the backward pass
# raises "modified by an inplace operation" if a tensor that it saved was written to since. The plain and `foreach` optimizers do that.
# Seen (torch 2.14.1, CPU): with `fused=True`, Adam, AdamW and SGD write to parameters without counting. `backward()` after the step
# uses the new weights and gives wrong gradients, without error or warning; whatever is cached by `tensor._version` stays stale.
# Do: clear such caches when a model changes between training and evaluation, or after each step of a fused optimizer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys

import torch

print("torch", torch.__version__)


def gradient(fused: bool) -> str:
    """The gradient of x in w * x, where w = 1 when it is used and 0.5 after a step."""
    w, x = torch.nn.Parameter(torch.ones(1)), torch.ones(1, requires_grad=True)
    y = w * x
    optimizer = torch.optim.SGD([w], lr=0.5, fused=fused)
    w.grad = torch.ones(1)
    optimizer.step()
    try:
        y.backward()
    except RuntimeError as error:
        return f"error: {str(error)[:80]}"
    return f"{x.grad.item()}, and w has been written to {w._version} times"


plain, fused = gradient(False), gradient(True)
print("plain:", plain)
print("fused:", fused, "(the gradient of the value that was used is 1.0)")
sys.exit(0 if plain.startswith("error") and fused.startswith("0.5") else 1)
PY
