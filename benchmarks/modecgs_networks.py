"""The networks of MoDec-GS, from anchors to Gaussians, compared with the structure of the published code written in torch.

python -m benchmarks.modecgs_networks
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.benchmark import Contestant, Report, Table, compare
from visionzoo.models.modecgs import MoDecGS, MoDecGSConfig
from visionzoo.models.modecgs.deformation import Field
from visionzoo.models.modecgs.hexplane import AXES

ANCHORS = 4000
CENTER = torch.tensor([0.0, 0.0, -3.0])
TIMES = (0.05, 0.3, 0.43, 0.47)


class Published(nn.Module):
    """The published structure on the weights of `model`: one lookup per plane, one layer after the other per head, encodings of which
    only the first columns are used, the anchors deformed for every frame, and a table of all columns of all Gaussians."""

    def __init__(self, model: MoDecGS):
        super().__init__()
        assert model.global_deformation is not None
        assert model.local_deformation is not None
        self.model = [model]  # not a submodule: the weights are the model's
        self.time_network = nn.Sequential(nn.Linear(9, 64), nn.ReLU(), nn.Linear(64, 32))
        self.fields = (model.global_deformation.field, model.local_deformation.field)
        self.planes = [nn.ParameterList(self._planes(field)) for field in self.fields]

    @staticmethod
    def _planes(field: Field) -> list[Tensor]:
        levels = range(len(field.planes.levels))
        return [
            field.planes.plane(level, index).detach().contiguous() for level in levels for index in range(len(AXES))
        ]

    def planes_parameters(self) -> list[Tensor]:
        """The planes of both fields, which are copies of the model's."""
        return [plane for planes in self.planes for plane in planes]

    def forward(self, center: Tensor, time: float, visible: Tensor | None = None) -> tuple[Tensor, ...]:
        (model,) = self.model
        anchors, networks, k = model.anchors, model.networks, model.config.num_offsets
        canonical = self._canonical_time(time)
        positions = anchors["positions"]
        _encoded(positions, 10)
        self.time_network(_encoded(positions.new_full((len(positions), 1), canonical), 4))
        change = self._changes(0, positions, canonical)
        move, other = model.global_deformation.gates(anchors["dynamics"])  # pyright: ignore[reportOptionalMemberAccess]
        positions = positions + move * change["positions"]
        features = anchors["features"] + other * change["features"]
        offsets = anchors["offsets"] + other[..., None] * change["offsets"].view(-1, k, 3)
        scaling = anchors["scaling"].exp() + other * change["scaling"]
        if visible is not None:
            positions, features, offsets, scaling = (v[visible] for v in (positions, features, offsets, scaling))

        away = positions - center
        view = away / away.norm(dim=1, keepdim=True)
        inputs = torch.cat([features, view], dim=1)
        codes = networks.appearance[torch.zeros(len(inputs), dtype=torch.long)]
        alphas = networks.opacity(inputs).tanh().reshape(-1, 1)
        shown = alphas[:, 0] > 0
        colors = networks.color(torch.cat([inputs, codes], dim=1)).sigmoid().reshape(-1, 3)
        covariance = networks.covariance(inputs).reshape(-1, 7)
        repeated = torch.cat([scaling, positions], dim=1).repeat_interleave(k, dim=0)
        table = torch.cat([repeated, colors, covariance, offsets.reshape(-1, 3)], dim=1)[shown]
        scaling, positions, colors, covariance, offsets = table.split([6, 3, 3, 7, 3], dim=1)
        means = positions + offsets * scaling[:, :3]
        scales, quats = scaling[:, 3:] * covariance[:, :3].sigmoid(), covariance[:, 3:]

        for value, powers in ((means, 10), (scales, 2), (quats, 2)):
            _encoded(value, powers)
        change = self._changes(1, means, time)
        quats = F.normalize(quats + change["quats"], dim=1)
        return means + change["means"], quats, scales + change["scales"], alphas[shown][:, 0], colors

    def _canonical_time(self, time: float) -> float:
        borders = self.model[0].intervals.borders
        nearest = min(borders, key=lambda border: abs(border - time))
        return float(nearest if nearest <= time else nearest - 1 / len(borders))

    def _changes(self, which: int, points: Tensor, time: float) -> dict[str, Tensor]:
        field, planes = self.fields[which], list(self.planes[which])
        places = torch.cat([field.planes.normalized(points), points.new_full((len(points), 1), time)], dim=1)
        levels = []
        for level in range(len(field.planes.levels)):
            product: Any = 1.0
            for index, axes in enumerate(AXES):
                grid = places[None, None, :, list(axes)]
                plane = planes[level * len(AXES) + index]
                sampled = F.grid_sample(plane, grid, padding_mode="border", align_corners=True)
                product = product * sampled.view(plane.shape[1], -1).T
            levels.append(product)
        hidden = field.hidden(torch.cat(levels, dim=1))
        return {name: head(hidden) for name, head in field.heads.items()}


def _encoded(values: Tensor, powers: int) -> Tensor:
    """Concatenate values with sines and cosines of their multiples."""
    angles = (values[..., None] * 2.0 ** torch.arange(powers)).flatten(1)
    return torch.cat([values, angles.sin(), angles.cos()], dim=1)


def seeded_model() -> MoDecGS:
    """A model of the published size with random weights, whose fields move its anchors."""
    torch.manual_seed(0)
    model = MoDecGS(MoDecGSConfig(num_anchors=ANCHORS))
    with torch.no_grad():
        model.anchors["positions"].uniform_(-1, 1)
        for name, low, high in (("features", -1, 1), ("offsets", -0.5, 0.5), ("scaling", -3, -2), ("dynamics", -1, 1)):
            model.anchors[name].uniform_(low, high)
        for name, parameter in model.named_parameters():
            if ".planes.planes." in name:
                parameter.uniform_(0.8, 1.2)
            elif ".out.weight" in name:
                parameter.mul_(0.05)
    return model.eval()


def judge(outputs: Sequence[Tensor]) -> list[str]:
    first = outputs[0].double()
    return ["", *(f"relative difference {float((o - first).norm() / first.norm()):.1e}" for o in outputs[1:])]


def inference(form: Callable[[Tensor, float], Sequence[Tensor]]) -> Tensor:
    """Means of the Gaussians of four frames, which lie in three segments."""
    with torch.no_grad():
        return torch.cat([form(CENTER, time)[0] for time in TIMES])


def training(form: Callable[[Tensor, float], Sequence[Tensor]], features: nn.Parameter) -> Tensor:
    """The gradient that one frame gives to the anchors' features."""
    outputs = form(CENTER, TIMES[0])
    torch.stack([value.square().sum() for value in outputs]).sum().backward()
    assert features.grad is not None
    found, features.grad = features.grad, None
    return found


def benchmark(rounds: int = 5, command: str = "python -m benchmarks.modecgs_networks") -> Report:
    """Two tables: frames at inference, and one frame forward and backward."""
    model = seeded_model()
    forms = (("published structure", Published(model)), ("visionzoo", lambda center, time: model(center, time).tensors))
    tables: list[Table] = []
    for title, run, items in (
        (f"MoDec-GS, {ANCHORS} anchors to Gaussians: frames at inference", inference, len(TIMES)),
        (f"MoDec-GS, {ANCHORS} anchors to Gaussians: forward and backward", training, 1),
    ):
        more = () if run is inference else (model.anchors["features"],)
        model.train(run is training)
        contestants = [Contestant(name, partial(run, form, *more)) for name, form in forms]  # pyright: ignore
        tables.append(
            compare(title, contestants, rounds=rounds, command=command, items=items, unit="frames", judge=judge)
        )
    return Report(tables)


if __name__ == "__main__":
    print(benchmark().to_markdown())
