"""What locality measures read where nothing differs: the embedded base's own rollouts against others of its own.

    python -m benchmarks.locality_null [--replicates 200]

Training side: rollouts of training prompts, as an on-policy step has them; the other: rollouts of held-out prompts. Mean, sd
and the central 95% of the classifier's AUC and of the reachability gap, for several numbers of prompts a side, and for the
mean over a run's later probes.
"""

from __future__ import annotations

import argparse

import numpy as np

from stateshape.locality.probe import CUTS
from stateshape.locality.reachability import reachability_gap
from stateshape.locality.told_apart import c2st_auc
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Completion, SamplingSettings
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask

SIDES = ((16, 6), (16, 16), (64, 6), (64, 64), (128, 128))  # prompts: training rows of a step, and fresh rollouts
PROBES = (1, 4, 8)
POOL = 768  # prompts a side, of which a replicate draws its own
NEW_TOKENS = 96


def rollouts(policy: Policy, prompts: list[str], *, seed: int) -> list[Completion]:
    rows = [policy.encode_prompt(prompt) for prompt in prompts]
    return LocalSampler().sample(policy, rows, SamplingSettings(max_new_tokens=NEW_TOKENS), seed=seed)


def measured(training: list[Completion], own: list[Completion], rng: np.random.Generator) -> tuple[float, float]:
    """AUC and gap in nats, as a probe takes them."""
    prefixes, names = [], []
    for side in (training, own):
        cut = [
            (n, t)
            for n, row in enumerate(side)
            for t in rng.choice(len(row.ids), min(CUTS, len(row.ids)), replace=False)
        ]
        prefixes.append([side[n].ids[:t] for n, t in cut])
        names.append([str(n) for n, _ in cut])
    auc = c2st_auc(*prefixes, training_prompts=names[0], own_prompts=names[1], seed=int(rng.integers(2**31)))
    surprisals = [np.array([-logp for row in side for logp in row.logps[:-1]]) for side in (training, own)]
    gap = reachability_gap(*surprisals)
    assert auc is not None and gap is not None
    return auc, gap.mean_nats


def main(replicates: int) -> None:
    task = load_task("arithmetic")
    assert isinstance(task, GenerationTask)
    policy = Policy(open_weights("embedded", ModelSettings()), None)
    pools = [
        rollouts(policy, [item.prompt for item in items[:POOL]], seed=seed)
        for seed, items in enumerate((task.train, task.test))
    ]
    rng = np.random.default_rng(0)
    print("training rows  fresh  probes   AUC mean    sd  central 95%   gap mean     sd  central 95%")
    for sizes in SIDES:
        found = []
        for _ in range(replicates):
            chosen = [
                [pool[i] for i in rng.choice(len(pool), size, replace=False)]
                for pool, size in zip(pools, sizes, strict=True)
            ]
            found.append(measured(chosen[0], chosen[1], rng))
        for num_probes in PROBES if sizes[0] < 100 else (1,):
            means_R2 = np.array(found)[: replicates // num_probes * num_probes].reshape(-1, num_probes, 2).mean(axis=1)
            cells = []
            for values_R in means_R2.T:
                low, high = np.quantile(values_R, [0.025, 0.975])
                cells.append(f"{values_R.mean():8.3f} {values_R.std(ddof=1):5.3f}  {low:5.2f} to {high:5.2f}")
            print(f"{sizes[0]:13d}  {sizes[1]:5d}  {num_probes:6d}   " + "   ".join(cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    main(parser.parse_args().replicates)
