"""One adaptive attack, shard by shard, and the confirmation of its images by the pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.common.norms import perturbation_norms
from models.progress import progress_bar
from service.adaptive.caching import STARTS_FROM_FOOLED, AdaptiveCache
from service.adaptive.context import AttackContext, AttackRun
from service.adaptive.records import AdaptiveSet
from service.adaptive.settings import ADAPTIVE_ATTACKS

__all__ = ["AdaptiveJob", "run_in_shards"]

_RESULT = {"images", "evaded", "queries", "gradients"}  # arrays of every shard; the others are flags of one attack


@dataclass(frozen=True, eq=False)
class AdaptiveJob:
    """One attack on some of the images.

    Args:
        name: of the attack, one of `ADAPTIVE_ATTACKS`.
        attempted: ``(N,)`` bool, the images to attack.
        run: attacks some rows of the images under a seed.
        epsilon: L∞ budget; None for attacks that minimise the perturbation.
        steps: of a descent, for the cache key; 0 for other attacks.
        surrogate: weights of the surrogate that the attack follows, if any, for the cache key.
    """

    name: str
    attempted: NDArray[np.bool_]
    run: AttackRun
    epsilon: float | None = None
    steps: int = 0
    surrogate: Mapping[str, NDArray[np.float32]] | None = None


def run_in_shards(context: AttackContext, cache: AdaptiveCache, job: AdaptiveJob) -> AdaptiveSet:
    """Run the job, read finished shards from the cache, and score all claimed images again."""
    rows = np.flatnonzero(job.attempted)
    images = context.images.clone()
    claimed = np.zeros(len(job.attempted), np.bool_)
    queries, gradients = np.zeros((2, len(job.attempted)), np.int64)
    extra: dict[str, NDArray[np.bool_]] = {}
    store = cache.store(job.name, rows, {"epsilon": job.epsilon, "steps": job.steps}, job.surrogate)
    label = job.name if job.epsilon is None else f"{job.name} {job.epsilon * 255:.3g}/255"
    with progress_bar(total=len(rows), what=label, unit="image", show=context.progress) as bar:
        for index, first in enumerate(range(0, len(rows), context.settings.shard_size)):
            part = rows[first : first + context.settings.shard_size]
            shard = None if store is None else store.load_intact(index)
            if shard is None:
                shard = _attack_shard(context, job, part, index)
                if store is not None:
                    store.save(index, shard)
            evaded = shard["evaded"]
            claimed[part], queries[part], gradients[part] = evaded, shard["queries"], shard["gradients"]
            images[part[evaded]] = context.tensor(shard["images"][evaded])
            for key in shard.keys() - _RESULT:
                extra.setdefault(key, np.zeros(len(job.attempted), np.bool_))[part] = shard[key]
            bar.update(len(part))
    predicted, flagged = context.system.classify(images)
    evaded = claimed & (predicted != context.truth) & ~flagged
    linf, l2 = context.distances(images)
    from_fooled = None
    if job.name in STARTS_FROM_FOOLED:
        from_fooled = perturbation_norms(context.fooled, images)[1].cpu().numpy()
    return AdaptiveSet(
        name=job.name,
        epsilon=job.epsilon,
        images=images.cpu().numpy(),
        attempted=job.attempted,
        evaded=evaded,
        not_confirmed=claimed & ~evaded,
        linf=linf,
        l2=l2,
        l2_from_fooled=from_fooled,
        queries=queries,
        gradients=gradients,
        extra=extra,
    )


def _attack_shard(
    context: AttackContext, job: AdaptiveJob, rows: NDArray[np.int64], index: int
) -> dict[str, NDArray[Any]]:
    # 32 bits of a hash, so that neither attacks nor shards share their noise.
    attack = ADAPTIVE_ATTACKS.index(job.name)
    seed = int(np.random.SeedSequence([context.settings.seed, attack, index]).generate_state(1)[0])
    result, flags = job.run(rows, seed)
    assert result.images.shape == context.images[rows].shape
    return {key: values.detach().cpu().numpy() for key, values in (result._asdict() | flags).items()}
