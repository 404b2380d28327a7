"""Does pre-training leave something in a frozen encoder that a straight line can read?

    python benchmarks/probe.py                     # every method, 5 seeds, two runs at a time; prints a table
    python benchmarks/probe.py --seeds 1 --methods mae

Each method is pre-trained on the training phantoms without their labels. Then the network is frozen, every image goes
through the encoder once, and a logistic regression learns the class from the region in which the sulcus can lie: from
the bottleneck in 3 x 3 x 3 cells of it (`place`; chosen on seed 0), or from the mean of every stage over it (`mean`).
Random weights are those that the same seed's pre-training began with. The difference to them is paired by seed and by
test phantom.
"""

import csv
from pathlib import Path

import numpy as np
from _paired import balanced, compare, study

DATASET = "Dataset903_Probe"
SHAPE, SPACING, PATCH = (44, 56, 48), 2.2, (24, 24, 24)
COHORT = (
    180,
    20,
    100,
)  # training, validation, test phantoms; the probe learns from the first
EPOCHS, BATCH, FEATURES = 8, 2, 8
CELLS, READOUTS = 3, ("place", "mean")
RANDOM, CLASS = "random", "classification"
SAMPLES = "batch=4"  # per step: many small steps, the runs are short
METHODS = {
    "recon": (),
    "mae": (),
    "adversarial": (),
    "contrastive": (),
    "contrastive_patch": (),
    "diffusion": (),
}
PENALTIES = 10.0 ** np.arange(
    -4, 2
)  # inverse ridge of the logistic regression, chosen on training phantoms


def prepare(root: Path) -> None:
    """Draw, plan and prepare the cohort."""
    from sulcnet.memory.planning import plan_dataset
    from sulcnet.phantoms.dataset import Cohort, write_dataset
    from sulcnet.planning.planner import PlanRequest
    from sulcnet.records.workspace import Workspace
    from sulcnet.runs.preparing import fingerprint_dataset, preprocess_dataset

    folders = Workspace.find(root).folders(DATASET)
    total = sum(COHORT)
    write_dataset(
        folders.raw,
        Cohort(12, (SPACING,) * 3, SHAPE),
        total,
        shares=(COHORT[0] / total, COHORT[1] / total),
    )
    fingerprint_dataset(folders, 2, True)
    plan_dataset(
        folders, PlanRequest("resenc_unet", FEATURES, patch=PATCH, batch=BATCH)
    )
    preprocess_dataset(folders, "3d", 2, False)


def one(root: Path, method: str, seed: int, epochs: int) -> None:
    """Pre-train with one method and seed (or not at all), and write what the probe says of every test phantom."""
    import torch

    from sulcnet.assembly.transfer import load_pretrained
    from sulcnet.networks import build
    from sulcnet.records.plan import load_plan
    from sulcnet.records.run import Execution, RunSpec
    from sulcnet.records.workspace import EXPORT, Workspace
    from sulcnet.runs.execute import execute

    shared = Workspace.find(root)
    workspace = Workspace(
        shared.raw, shared.preprocessed, root / f"results_{method}", "benchmark"
    )
    folders = workspace.folders(DATASET)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = build(load_plan(folders.plans, "3d").network(None).network)
    if method != RANDOM:
        settings = (SAMPLES, *METHODS[method])
        spec = RunSpec(
            "pretrain",
            (DATASET,),
            pretrain=method.split(",")[0],
            seed=seed,
            epochs=epochs,
            settings=settings,
        )
        load_pretrained(
            network,
            execute(workspace, spec, Execution("cpu", threads=1, overwrite=True))
            / EXPORT,
        )
    truth, predicted = read_out(network, folders)
    answers = root / "answers" / f"{method}_{seed}.tsv"
    answers.parent.mkdir(parents=True, exist_ok=True)
    with answers.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("truth", *READOUTS))
        writer.writerows(zip(truth, *predicted))


def read_out(network, folders) -> tuple[np.ndarray, list[np.ndarray]]:
    """Fit the probes on training phantoms; give the truth of test phantoms, and what each readout predicts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sulcnet.data.region import learn_region
    from sulcnet.records.plan import load_plan
    from sulcnet.records.splits import Splits
    from sulcnet.runs.folders import read_cases

    plan, splits = load_plan(folders.plans, "3d"), Splits.load(folders.splits)
    parts = (splits.part("holdout").train, splits.test)
    training, test = (read_cases(folders.prepared("3d"), ids, plan) for ids in parts)
    region = learn_region(training, plan.structures)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    chosen = GridSearchCV(
        probe, {"logisticregression__C": PENALTIES}, cv=5, scoring="balanced_accuracy"
    )
    inputs, answers = (
        [embed(network, folders, case, region) for case in some]
        for some in (training, test)
    )
    targets = [case.targets[CLASS] for case in training]
    predicted = [
        chosen.fit(np.stack(x), targets).predict(np.stack(y))
        for x, y in zip(zip(*inputs), zip(*answers))
    ]
    return np.array([case.targets[CLASS] for case in test]), predicted


def embed(network, folders, case, region) -> tuple[np.ndarray, np.ndarray]:
    """Give both readouts of one image, from one pass over the whole of it."""
    import torch

    from sulcnet.io.store import read_array
    from sulcnet.training.device import autocast, choose_precision

    cpu = torch.device("cpu")
    image = torch.from_numpy(read_array(folders.prepared("3d") / f"{case.id}.b2nd"))[
        None
    ]
    steps = network.encoder_reductions[-1]
    room = [-size % step for size, step in zip(image.shape[2:], steps)]
    padded = torch.nn.functional.pad(
        image, [side for more in reversed(room) for side in (0, more)]
    )
    low, high = (corner * (np.array(case.shape) - 1) for corner in region.box())
    with torch.no_grad(), autocast(cpu, choose_precision("auto", cpu)):
        maps = network.eval().encode(padded)
    parts = []
    for one, reduction in zip(maps, network.encoder_reductions):
        box = [
            slice(int(a // step), int(b // step) + 1)
            for a, b, step in zip(low, high, reduction)
        ]
        parts.append(one[(0, slice(None), *box)].float())
    cells = torch.nn.functional.adaptive_avg_pool3d(parts[-1][None], CELLS).flatten()
    return cells.numpy(), torch.cat(
        [part.flatten(1).mean(dim=1) for part in parts]
    ).numpy()


def scores(
    root: Path, method: str, seed: int, readout: str
) -> tuple[np.ndarray, np.ndarray]:
    rows = list(
        csv.DictReader(
            (root / "answers" / f"{method}_{seed}.tsv").open(), delimiter="\t"
        )
    )
    return np.array([row["truth"] for row in rows]), np.array(
        [row[readout] for row in rows]
    )


def report(root: Path, methods: list[str], seeds: int) -> None:
    """Print balanced accuracy per method, and the paired difference to random weights."""
    for readout in READOUTS:
        found = {
            method: [scores(root, method, seed, readout) for seed in range(seeds)]
            for method in (RANDOM, *methods)
        }
        intervals = "95 % over phantoms | 95 % over seeds"
        print(
            f"\n| {readout} | balanced accuracy | difference to random weights | {intervals} |"
        )
        print("|---|---|---|---|---|")
        print(
            f"| random weights | {np.mean([balanced(one) for one in found[RANDOM]]):.3f} | | | |"
        )
        for method in methods:
            print(
                f"| {method} | {' | '.join(compare(found[method], found[RANDOM]).cells())} |"
            )


if __name__ == "__main__":
    study(
        __file__,
        __doc__,
        "sulcnet_probe",
        EPOCHS,
        list(METHODS),
        RANDOM,
        prepare,
        one,
        report,
        known=list(METHODS),
    )
