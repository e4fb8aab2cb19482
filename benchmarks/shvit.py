"""SHViT's inference form compared with timm's (also fused), onnxruntime and OpenVINO, with the same weights.

visionzoo bench shvit_s1
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module, util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo import create_model, onnx_runtime
from visionzoo.benchmark import Contestant, Report, Table, compare
from visionzoo.compiled import compile_ahead
from visionzoo.models.shvit import SHViT
from visionzoo.models.shvit.checkpoint import to_timm


def seeded_network(name: str) -> SHViT:
    """A network with seeded weights and norms that are not trivial, so that folding has something to fold."""
    torch.manual_seed(0)
    model = create_model(name)
    assert isinstance(model, SHViT)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return model


def fused_timm(model: SHViT, name: str) -> nn.Module:
    """timm's network with the weights of `model`, fused by timm, in timm's layout."""
    network = import_module("timm").create_model(name).eval()
    network.load_state_dict(to_timm(model.state_dict()))
    return import_module("timm.utils.model").reparameterize_model(network)


def repeat(network: Callable[[Tensor], Any], x: Tensor, times: int) -> Tensor:
    """The output of the last of `times` runs; several, if one is too short to be timed."""
    with torch.inference_mode():
        for _ in range(times - 1):
            network(x)
        return network(x).float()


def judge(outputs: Sequence[Tensor]) -> list[str]:
    return [f"relative error {(out - outputs[0]).norm() / outputs[0].norm():.1e}" for out in outputs]


def benchmark(name: str, size: int, batch: int, rounds: int, command: str, compiled: bool = True) -> Table:
    """One table: logits of `batch` images of `size` x `size`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = seeded_network(name).to(device)
    x = torch.rand(batch, 3, size, size, device=device)
    networks: dict[str, Callable[[Tensor], Any]] = {}
    missing: list[str] = []
    if util.find_spec("timm"):
        networks["timm, fused, float32"] = fused_timm(model, name).to(device)
    else:
        missing.append("timm: skipped, so the first row is the reference; pip install 'visionzoo[retrieval]'")
    networks["visionzoo, fused, float32"] = model.fuse()
    networks["visionzoo, fused, bfloat16"] = model.fuse().to(torch.bfloat16)
    if compiled:
        # on a CPU, freezing packs the weights once; on a GPU, CUDA graphs save the launches
        how: dict[str, Any] = {"options": {"freezing": True}} if device == "cpu" else {"mode": "reduce-overhead"}
        for dtype in (torch.float32, torch.bfloat16):
            label = f"visionzoo, fused, {str(dtype).removeprefix('torch.')}, compiled"
            networks[label] = torch.compile(model.fuse().to(dtype), dynamic=False, **how)
            networks[f"{label} ahead of time"] = compile_ahead(model.fuse().to(dtype), x)
    if device == "cpu":
        with tempfile.TemporaryDirectory() as folder:  # both runtimes have read it before it is deleted
            missing += add_runtimes(networks, model.fuse(), x, Path(folder) / "network.onnx")
    times = 1 if batch > 1 and device == "cpu" else 10
    return compare(
        f"{name}: batch of {batch}, {size} x {size}",
        [Contestant(label, partial(repeat, network, x, times)) for label, network in networks.items()],
        rounds=rounds,
        command=command,
        items=batch * times,
        unit="images",
        judge=judge,
        notes=missing,
    )


def add_runtimes(networks: dict[str, Callable[[Tensor], Any]], network: nn.Module, x: Tensor, file: Path) -> list[str]:
    """Add `network` in other runtimes; returns a line for each that is not installed."""
    if not all(map(util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        return ["onnxruntime and OpenVINO: skipped; pip install 'visionzoo[export]' openvino"]
    networks["onnxruntime, float32 (visionzoo, runtime onnxruntime)"] = onnx_runtime.convert(network, x, file)
    if not util.find_spec("openvino"):
        return ["OpenVINO: skipped; pip install openvino"]
    for hint, dtype in (("f32", "float32"), ("bf16", "bfloat16")):
        networks[f"OpenVINO, {dtype}"] = openvino_network(file, hint)
    return []


def openvino_network(file: Path, precision: str) -> Callable[[Tensor], Tensor]:
    openvino = import_module("openvino")
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(str(file), "CPU", options).create_infer_request()
    return lambda x: torch.from_numpy(request.infer({"images": x.numpy()})[0])


def report(name: str, size: int, rounds: int, command: str) -> Report:
    return Report([benchmark(name, size, batch, rounds, command) for batch in (16, 1)])


def s1(rounds: int = 5, command: str = "") -> Report:
    """S1 at its training size, batches of 16 and of 1."""
    return report("shvit_s1", 224, rounds, command)


def s4(rounds: int = 5, command: str = "") -> Report:
    """S4 at its training size, batches of 16 and of 1."""
    return report("shvit_s4", 256, rounds, command)
