"""Actors of an existing Ray cluster, one per GPU, or per CPU; Ray restarts lost ones and repeats their shards."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from models.errors import InputError, RunnerError
from models.extras import import_optional
from models.runners.base import Item, Result, Runner
from models.runners.packing import pack, unpack

__all__ = ["RayRunner"]

_RETRIES = 3  # of a shard whose process or node was lost; a shard that always ends its process is an error


class RayRunner(Runner):
    """Runs in actors of the Ray cluster to which this process is connected, or that `ray.init` finds.

    An actor keeps the function until it ends, so that a network is loaded once. A lost process or node costs the
    shards that it was working on; they are repeated elsewhere.

    Args:
        workers: number of actors; None: as many as the cluster has GPUs for "cuda", or CPUs otherwise.
        device: where the network runs; "cuda" reserves one GPU per actor.
    """

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Runner.run`.

        Raises:
            InputError: there is no Ray cluster, or none with the device.
        """
        ray = _connected()
        from ray.util import ActorPool

        gpus = int(self.device.startswith("cuda"))
        available = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
        workers = self.workers or available
        if not workers:
            raise InputError(
                f"the Ray cluster has no {'GPU' if gpus else 'CPU'}; add a node, or pass --workers to wait for one"
            )
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": _RETRIES}
        packed = ray.put(pack(work))
        actors = [ray.remote(**options)(_Actor).remote() for _ in range(workers)]
        pool = ActorPool(actors)
        try:
            for item in items:
                if not pool.has_free():
                    yield pool.get_next_unordered()
                pool.submit(lambda actor, given: actor.run.remote([packed], given), item)
            while pool.has_next():
                yield pool.get_next_unordered()
        except ray.exceptions.RayTaskError as exc:
            raise exc.cause from exc
        except ray.exceptions.RayError as exc:
            raise RunnerError(
                f"a shard was lost {_RETRIES + 1} times, perhaps because memory ran out: {exc}; run the same command "
                "again"
            ) from exc
        finally:
            for actor in actors:
                ray.kill(actor)


class _Actor:
    """One process of the cluster; Ray sets its number of threads to its number of CPUs."""

    _work: Callable[[Any], Any] | None = None

    def run(self, packed: list[Any], item: Any) -> Any:
        """The result for an item; the function is fetched for the first one, also after a restart."""
        if self._work is None:
            import ray

            self._work = unpack(ray.get(packed[0]))
        return self._work(item)


def _connected() -> Any:
    """The module `ray`, connected to a cluster."""
    ray = import_optional("ray")
    if not ray.is_initialized():
        try:
            ray.init(address="auto")
        except ConnectionError as exc:
            raise InputError(
                f"no Ray cluster could be used ({exc}); run `ray start --head`, or set RAY_ADDRESS, and "
                "RAY_AUTH_MODE=token if the cluster requires a token"
            ) from exc
    return ray
