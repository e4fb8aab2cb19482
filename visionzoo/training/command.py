"""The commands `fit`, `validate`, `test` and `predict`: train and evaluate models with the settings of YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from visionzoo import options
from visionzoo.options import INPUT, Json

from .configuration import packaged_configs

Words = Annotated[
    str,
    options.option(
        INPUT,
        "Settings that override those of the files, as key=value: trainer.max_epochs=3, data.root=FOLDER, model.lr=0.01 (short for "
        "model.init_args.lr), ckpt_path=last to resume, vars.NAME=value for a value that a recipe uses in several places.",
        allow_leading_hyphen=True,
    ),
]
Config = Annotated[
    list[str],
    options.option(
        INPUT,
        "YAML file: a path, or the name of a packaged recipe. Later files override earlier ones. Packaged recipes: "
        f"{', '.join(packaged_configs())}.",
        name=["--config", "-c"],
    ),
]


def fit(*overrides: Words, config: Config, json: Json = False) -> None:
    """Train a model with the settings of YAML files.

    Example: visionzoo fit --config superglobal/tiny trainer.max_epochs=2
    """
    _train("fit", config, overrides, json)


def validate(*overrides: Words, config: Config, json: Json = False) -> None:
    """Validate a model with the settings of YAML files.

    Example: visionzoo validate --config superglobal/tiny ckpt_path=last
    """
    _train("validate", config, overrides, json)


def test(*overrides: Words, config: Config, json: Json = False) -> None:
    """Evaluate a model with the settings of YAML files, and show published results for comparison.

    Example: visionzoo test --config superglobal/roxford data.root=DATASETS model.checkpoint=CVPR2022_CVNet_R50.pyth
    """
    _train("test", config, overrides, json)


def predict(*overrides: Words, config: Config, json: Json = False) -> None:
    """Run a model on the data of a configuration and write its predictions.

    Example: visionzoo predict --config superglobal/roxford_1m data.root=DATASETS
    """
    _train("predict", config, overrides, json)


def _train(subcommand: str, config: list[str], overrides: Sequence[str], json: bool) -> None:
    from .run import run

    run(subcommand, config, list(overrides), json=json)


__all__ = ["fit", "predict", "test", "validate"]
