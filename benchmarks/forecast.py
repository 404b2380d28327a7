"""Is what is foretold of a step's time true? The planned step on noise, many times, against the forecast of a trial.

    python benchmarks/forecast.py PREPROCESSED/plans.json [--net NET] [--step full recon] [--steps 100]

Run it on a quiet machine: a trial and a run beside other work are slowed down by different amounts.
"""

import argparse
import time
from pathlib import Path

from sulcnet.memory.speed import Here, here
from sulcnet.memory.tracing import built_loop
from sulcnet.plugins import find, names
from sulcnet.pretraining._options import MethodFamily
from sulcnet.records.memory import StepQuestion
from sulcnet.records.plan import Plan, load_plan


def views_of(name: str) -> int:
    """Give the views of a method, 0 of a strategy."""
    if name not in names("pretraining", "METHOD"):
        return 0
    family: MethodFamily = find("pretraining", name, "METHOD")
    return family.views


def question(plan: Plan, net: str, name: str, on: Here) -> StepQuestion:
    """Ask for the planned step."""
    network = plan.networks[net]
    step = network.step(name)
    small = on.small_step(plan, network.network, name, views_of(name))
    return small.replace(
        patch=step.patch_size,
        images=step.batch_size,
        windows=step.windows,
        bag=step.bag,
        accumulate=step.accumulate,
        recompute=step.recompute,
    )


def main() -> None:
    """Print a row per step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", type=Path)
    parser.add_argument("--net", default="resenc_unet")
    parser.add_argument("--step", nargs="+", default=["full", "recon"])
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    plan, on = load_plan(args.plans, "3d"), here()
    network = plan.networks[args.net]
    print(f"{on.name()}, {on.precision}")
    print(
        "| network | step | patch | foretold s | measured s | measured / foretold |"
    )
    print("|---|---|---|---|---|---|")
    for name in args.step:
        step = network.step(name)
        began = time.perf_counter()
        rate = on._trial(plan, network.network, name, views_of(name))
        trial = time.perf_counter() - began
        foretold = step.estimate.arithmetic / rate
        loop, batches = built_loop(question(plan, args.net, name, on), on.device)
        loop.step(batches)
        began = time.perf_counter()
        for _ in range(args.steps):
            loop.step(batches)
        measured = (time.perf_counter() - began) / args.steps
        patch = "x".join(map(str, step.patch_size))
        size = f"{patch}, {step.batch_size} of {step.windows} x {step.accumulate}"
        print(
            f"| {args.net} | {name} | {size} | {foretold:.2f} (trial {trial:.0f} s) "
            f"| {measured:.2f} | {measured / foretold:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
