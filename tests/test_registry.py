"""Names of models: listing them, errors for wrong ones, and creating models."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch

import visionzoo as vz
from visionzoo.errors import InputError, MissingDependencyError, require
from visionzoo.registry import weight_source

LARGE = 200_000_000
"""Networks with more parameters are built without memory for them."""


def test_list_models_filters() -> None:
    assert {"superglobal_r50", "superglobal_r101", "superglobal_lite0"} <= set(vz.list_models())
    assert vz.list_models("superglobal_r*") == ["superglobal_r101", "superglobal_r50"]
    assert vz.list_models(task="no such task") == []
    assert set(vz.list_models(pretrained=True)) <= set(vz.list_models())


@pytest.mark.parametrize("name", vz.list_models())
def test_cards_have_the_right_number_of_parameters(name: str) -> None:
    card = vz.model_card(name)
    with torch.device("meta") if card.params > LARGE else contextlib.nullcontext():
        model = vz.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == card.params
    assert name in str(card)
    assert json.loads(json.dumps(card.to_dict()))["name"] == name
    assert not model.training


def test_unknown_name_suggests() -> None:
    with pytest.raises(InputError, match="did you mean superglobal_r50"):
        vz.create_model("superglobal_r5o")
    with pytest.raises(InputError, match="known: "):
        vz.model_card("zzz")
    with pytest.raises(InputError, match="retrieve"):
        vz.pipeline("retreive")


def test_a_tag_names_the_checkpoint() -> None:
    assert weight_source("shvit_s1").name == "shvit_s1.in1k"
    assert weight_source("shvit_s1.official").url
    assert vz.model_card("shvit_s1.official").name == "shvit_s1"
    with pytest.raises(InputError, match=r"no checkpoint 'shvit_s1.oficial'; did you mean shvit_s1.official"):
        vz.create_model("shvit_s1.oficial", pretrained=True)
    with pytest.raises(vz.VisionZooError, match=r"shvit_s1.official: .*put the file at .*shvit_s1.pth"):
        vz.create_model("shvit_s1.official", pretrained=True)


def test_unknown_config_field_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"no field 'gem_p'.*gemp_p"):
        vz.create_model("superglobal_r50", gem_p=3)


def test_pretrained_without_file_says_where_to_put_it() -> None:
    with pytest.raises(
        vz.VisionZooError,
        match=r"CVPR2022_CVNet_R50.pyth from https://github.com/sungonce/CVNet.*put the file at .*weights",
    ):
        vz.create_model("superglobal_r50", pretrained=True)
    with pytest.raises(InputError, match="not both"):
        vz.create_model("superglobal_r50", pretrained=True, checkpoint="x.pyth")


def test_require_names_the_extra() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'visionzoo\[gs\]'"):
        require("no_such_package_zzz", extra="gs", purpose="this test")
