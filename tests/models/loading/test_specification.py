"""A specification comes back as it was written; nothing else from outside reaches a constructor."""

import json
from typing import Any

import pytest

from models.errors import InputError
from models.loading import NetworkSpec

SPECS = (
    NetworkSpec("plumbline", "resnet8", {"num_classes": 3}, 3, (3, 8, 8), (0.0,) * 3, (1.0,) * 3),
    NetworkSpec("torchvision", "resnet18", {}, 1000, (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    NetworkSpec("file", "build", {}, 2, (3, 4096, 1), (-1.0, 0.5, 2.0), (0.25,) * 3, source_sha256="0a" * 32),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.source)
def test_a_specification_is_restored(spec: NetworkSpec) -> None:
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert NetworkSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("source", ["plumbline", "torchvision"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": 1},
        {"progress": 1},
        {"width_per_group": 1_000_000},
        {"num_classes": 3, "width_per_group": 64},
        {"weights": "DEFAULT"},
        {"num_classes": 4},
        {"num_classes": 3.0},
        {"num_classes": True},
        {"num_classes": None},
        {"num_classes": [3]},
        [],
        ["num_classes"],
        None,
    ],
    ids=str,
)
def test_only_arguments_that_are_ever_written_are_taken(source: str, arguments: Any) -> None:
    with pytest.raises(InputError, match="arguments"):
        NetworkSpec.from_json({**SPECS[0].to_json(), "source": source, "arguments": arguments})


OPTIONS = {"batch_normalization": False, "step_size": 0.1, "filters": 32, "blocks": 50, "fixed_encoder": True}


def test_options_are_restored_for_our_own_networks_only(seed: int) -> None:
    fields = {**SPECS[0].to_json(), "arguments": {"num_classes": 3, **OPTIONS}}
    assert NetworkSpec.from_json(json.loads(json.dumps(fields))).arguments == fields["arguments"]
    for other in SPECS[1:]:
        for option, value in OPTIONS.items():
            with pytest.raises(InputError, match="arguments"):
                NetworkSpec.from_json({**other.to_json(), "arguments": {option: value}})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_normalization", 1),
        ("batch_normalization", "false"),
        ("step_size", 0),
        ("step_size", True),
        ("step_size", float("nan")),
        ("step_size", 1e9),
        ("filters", 10**9),
        ("filters", 32.0),
        ("blocks", 10_000),
        ("blocks", [9]),
        ("fixed_encoder", None),
    ],
)
def test_options_have_their_type_and_range(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=option):
        NetworkSpec.from_json({**SPECS[0].to_json(), "arguments": {option: value}})


def test_one_class_is_no_true() -> None:
    fields = {**SPECS[0].to_json(), "num_classes": 1}
    assert NetworkSpec.from_json({**fields, "arguments": {"num_classes": 1}}).num_classes == 1
    with pytest.raises(InputError, match="arguments"):
        NetworkSpec.from_json({**fields, "arguments": {"num_classes": True}})


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize(
    "values",
    [
        [10**400, 0.5, 0.5],
        [0.5, float("nan"), 0.5],
        [0.5, 0.5, float("inf")],
        [0.5, 0.5, -float("inf")],
        [True, 0.5, 0.5],
        ["0.5", 0.5, 0.5],
        [0.5, 0.5],
        [[0.5], 0.5, 0.5],
        0.5,
        "123",
        {"0": 1, "1": 1, "2": 1},
    ],
    ids=lambda values: str(values)[:20],
)
def test_the_normalisation_is_three_finite_numbers(name: str, values: Any) -> None:
    with pytest.raises(InputError, match=f"finite numbers as {name}"):
        NetworkSpec.from_json({**SPECS[0].to_json(), name: values})


@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1.0, -(10**5)])
def test_std_is_positive_and_mean_any(value: float) -> None:
    fields = SPECS[0].to_json()
    with pytest.raises(InputError, match="positive"):
        NetworkSpec.from_json({**fields, "std": [0.5, value, 0.5]})
    assert NetworkSpec.from_json({**fields, "mean": [0.5, value, 0.5]}).mean == (0.5, float(value), 0.5)


@pytest.mark.parametrize(
    "shape", [[3, 4097, 8], [3, 8, 20_000], [3, 0, 8], [3, 8, True], [3, 8], [1, 8, 8], [], "388", 3]
)
def test_image_sides_are_bounded(shape: Any) -> None:
    with pytest.raises(InputError, match="4096 pixels"):
        NetworkSpec.from_json({**SPECS[0].to_json(), "image_shape": shape})
