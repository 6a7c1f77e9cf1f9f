"""The histograms of the head's weights at a tiny size."""

from pathlib import Path

from benchmarks.tables.training import head_weights
from benchmarks.training.head_weights import draw, run
from models.datasets.base import DatasetRequest, load_dataset


def test_both_networks_have_all_weights_of_both_layers(tmp_path: Path, seed: int) -> None:
    data = load_dataset("digits", DatasetRequest(split="train", resize=8)).limited(40, seed)
    networks = run(data, data, epochs=1, seed=seed, filters=2)
    for network in networks:
        for layer in network["layers"]:
            assert sum(layer["counts"]) == layer["shape"][0] * layer["shape"][1]
            assert layer["mean_absolute"] <= layer["standard_deviation"] * 1.5
    assert [layer["shape"] for layer in networks[0]["layers"]] == [[128, 32], [10, 128]]
    assert [line.split(" | ")[0] for line in head_weights({"networks": networks})[2:]] == [
        "| vanilla",
        "| least action",
    ]
    draw(networks, tmp_path / "head.png")
    assert (tmp_path / "head.png").is_file()
