"""Settings of `training.small_sets`, at a size for two cores.

The networks have 8 or 16 filters where the thesis has 32 (MNIST), 100 (ResNet-9 on CIFAR) or 256 (10-1 ResNet), and
table 25's has 10 blocks instead of 20. The thesis does not state the numbers of epochs on small sets other than table
1's 30, the λ of tables 1 and 25, the weights of the cost of tables 8 to 11 and of Figure 14, the initial weights of
Figure 14, and the learning rates of module-wise training on MNIST; they are chosen here.
"""

from collections.abc import Iterator

from benchmarks.training.instances import Setting

__all__ = ["INSTANCES", "RESULTS", "settings"]

# The experiments of every file of results.
RESULTS = {
    "small_sets": ("table-1", "figure-11", "table-25", "table-2"),
    "fixed_weight": ("table-18", "table-17", "figure-14"),
    "modules": ("figure-43", "table-11", "multi-lap", "table-30"),
}
INSTANCES = {"table-1": 10, "figure-11": 2, "table-25": 10, "table-2": 10}  # 3 of the others

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
    small_sets = [*_table_1(), *_figure_11(), *_table_25(), *_table_2()]
    return [*small_sets, *_fixed_weight(), *_figure_14(), *_modules()]


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


def _fixed_weight() -> Iterator[Setting]:
    for experiment, dataset, images, epochs, batch in (
        ("table-18", "cifar10", 100, 30, 20), ("table-18", "cifar10", 1000, 10, 50),
        ("table-17", "cifar100", 1000, 10, 50),
    ):  # fmt: skip
        for method, objective, options in (
            ("vanilla", "cross_entropy", {}), ("least action, λ0 = 0.1", "least_action", _STRONG),
            ("fixed λ = 0.2", "least_action", {"fixed_weight": 0.2}),
        ):  # fmt: skip
            yield Setting(
                experiment=experiment, method=method, dataset=dataset, images=images, objective=objective,
                options=options, network="one_representation_resnet9", arguments={"filters": 16},
                recipe={**_COMMON, "epochs": epochs, "batch_size": batch, "crop_padding": 4, "flip": True},
                every=1 if images == 1000 else 5,
            )  # fmt: skip


def _figure_14() -> Iterator[Setting]:
    for blocks in (10, 20, 40):
        for method, objective, options, step in (
            ("vanilla", "cross_entropy", {}, 1.0), ("fixed λ = 0.01", "least_action", {"fixed_weight": 0.01}, 1.0),
            ("step 0.1", "cross_entropy", {}, 0.1),
        ):  # fmt: skip
            yield Setting(
                experiment="figure-14", method=method, dataset="cifar10-16", images=500, objective=objective,
                options=options, network="one_representation_resnet9",
                arguments={"filters": 8, "blocks": blocks, "batch_normalization": False, "step_size": step},
                recipe={**_COMMON, "epochs": 12, "batch_size": 50, "gain": 1.0}, tracked=0,
            )  # fmt: skip


def _modules() -> Iterator[Setting]:
    """The 10-1 ResNet with 16 filters as 11 or 4 modules; methods of one mode or number of modules are compared."""
    parallel, four, heavy = {"modules": 11}, {"modules": 4}, {"modules": 4, "split": "weight"}
    in_turn = {"modules": 11, "mode": "sequential", "growth": 0.2}
    laps = {**in_turn, "mode": "multi_lap", "laps": 5}
    taus = (0.03, 0.5, 5.0, 50.0, 500.0)
    for experiment, epochs, methods in (
        ("figure-43", 20, {"VanGL": parallel, **{f"TRGL, τ = {tau:g}": {**parallel, "tau": tau} for tau in taus}}),
        ("figure-43", 20, {"end to end": {}}),
        ("table-11", 77, {"VanGL": in_turn, "TRGL, τ = 0.5": {**in_turn, "tau": 0.5}}),
        ("multi-lap", 77, {"VanGL": laps, "TRGL, τ = 0.5": {**laps, "tau": 0.5}}),
        ("table-30", 20, {"VanGL": four, "TRGL, τ = 0.5": {**four, "tau": 0.5}}),
        ("table-30", 20, {"VanGL*": heavy, "TRGL*, τ = 0.5": {**heavy, "tau": 0.5}}),
    ):
        for method, options in methods.items():
            yield Setting(
                experiment=experiment, method=method, dataset="cifar10-16", images=500,
                objective="module_wise" if options else "cross_entropy", options=options,
                network="shallow_resnet10", arguments={"filters": 16},
                recipe={**_COMMON, "epochs": epochs, "batch_size": 50, "learning_rate": 0.05, "gain": 0.05}, tracked=0,
            )  # fmt: skip
