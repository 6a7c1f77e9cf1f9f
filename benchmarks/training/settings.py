"""Settings of `training.small_sets`, at a size for two cores.

The networks have 16 filters where the thesis has 32 (MNIST) or 100 (CIFAR-10), and table 25's has 10 blocks instead of
20. The thesis does not state the numbers of epochs on small sets other than table 1's 30, the λ of tables 1 and 25, and
the learning rates of module-wise training on MNIST; they are chosen here.
"""

from collections.abc import Iterator

from benchmarks.training.instances import Setting

__all__ = ["EXPERIMENTS", "INSTANCES", "settings"]

EXPERIMENTS = ("table-1", "figure-11", "table-25", "table-2")
INSTANCES = {"table-1": 10, "figure-11": 2, "table-25": 10, "table-2": 10}

# The thesis's appendix F.1: SGD, momentum 0.9, weight decay 1e-4, learning rate 0.01 up to epoch 120, and orthogonal
# weights of gain 0.01; section 4's networks have 0.05.
_COMMON = {
    "learning_rate": 0.01, "schedule": "constant", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
    "initialization": "orthogonal", "gain": 0.01, "precision": "float32", "crop_padding": 0, "flip": False,
}  # fmt: skip

# Both are published: MNIST's in appendix F.2 (for its decodings; section 3.5 names none), CIFAR-10's in section 3.5.
_WEAK = {"initial_weight": 5.0, "increase": 1.0, "update_every": 5}
_STRONG = {"initial_weight": 0.1, "increase": 0.1, "update_every": 50}


def settings() -> list[Setting]:
    """All settings by experiment; the other methods of a row are compared with the first."""
    return [*_table_1(), *_figure_11(), *_table_25(), *_table_2()]


def _table_1() -> Iterator[Setting]:
    # In the thesis 128 images are a batch, so that 100 make one step an epoch. Here 100 are a batch, so that none
    # is left out; and, for enough steps, 20.
    for batch, sizes in ((100, (100, 200, 500)), (20, (100,))):
        for images in sizes:
            for method, objective, options in (
                ("vanilla", "cross_entropy", {}),
                ("least action, λ0 = 5", "least_action", _WEAK),
                ("least action, λ0 = 0.1", "least_action", _STRONG),
            ):
                yield Setting(
                    experiment="table-1", method=method, dataset="mnist", images=images, objective=objective,
                    options=options, network="one_representation_resnet9", arguments={"filters": 16},
                    recipe={**_COMMON, "epochs": 30, "batch_size": batch},
                )  # fmt: skip


def _figure_11() -> Iterator[Setting]:
    for scheme, gains in (
        ("orthogonal", (0.01, 0.1, 0.3, 1.0, 2.0, 4.0)), ("normal", (0.001, 0.01, 0.03, 0.1, 0.2, 0.4)),
    ):  # fmt: skip
        for gain in gains:
            yield Setting(
                experiment="figure-11", method=f"{scheme}, {gain:g}", dataset="mnist", images=500,
                objective="cross_entropy", network="one_representation_resnet9", arguments={"filters": 16},
                recipe={**_COMMON, "epochs": 15, "batch_size": 20, "initialization": scheme, "gain": gain}, tracked=0,
            )  # fmt: skip


def _table_25() -> Iterator[Setting]:
    parallel = {"modules": 10, "mode": "parallel"}
    for images in (150, 600):
        for method, objective, options in (
            ("VanGL", "module_wise", parallel),
            ("TRGL, λ1 = 1", "module_wise", {**parallel, "initial_weight": 1.0, "increase": 1.0, "update_every": 50}),
            ("TRGL, τ = 0.05", "module_wise", {**parallel, "tau": 0.05}),
            ("end to end", "cross_entropy", {}),
        ):
            yield Setting(
                experiment="table-25", method=method, dataset="mnist", images=images, objective=objective,
                options=options,
                network="one_representation_resnet20", arguments={"filters": 16, "blocks": 10},
                recipe={**_COMMON, "epochs": 30, "batch_size": 30, "gain": 0.05}, tracked=0,
            )  # fmt: skip


def _table_2() -> Iterator[Setting]:
    for images, epochs in ((1000, 30), (5000, 10)):
        for method, objective, options in (
            ("vanilla", "cross_entropy", {}), ("least action, λ0 = 0.1", "least_action", _STRONG),
        ):  # fmt: skip
            yield Setting(
                experiment="table-2", method=method, dataset="cifar10", images=images, objective=objective,
                options=options, network="one_representation_resnet9", arguments={"filters": 16},
                recipe={**_COMMON, "epochs": epochs, "batch_size": 100, "crop_padding": 4, "flip": True},
            )  # fmt: skip
