"""Execute a run, whatever its kind: claim its folder, write its facts, run its stages.

Example:
    The folder then explains itself.

    run = execute(workspace, RunSpec("train", ("Dataset001_PCS",), tune="scratch"), Execution(device="cpu"))
    run / EXPERIMENT
"""

from __future__ import annotations

import logging
from dataclasses import replace

from sulcnet import plugins
from sulcnet.files import claimed, copy
from sulcnet.log import to_file
from sulcnet.memory.planning import planned_for
from sulcnet.options import resolve
from sulcnet.records._record import write_json
from sulcnet.records.plan import Plan, load_plan
from sulcnet.records.run import Execution, RunSpec
from sulcnet.records.workspace import (
    DATASET_JSON,
    EXPERIMENT,
    LOG,
    PLANS,
    RESOURCES,
    SPLITS,
    RunFolder,
    Workspace,
)
from sulcnet.runs._kind import Assembly, Drawing, Job, RunKind
from sulcnet.runs.folders import check_claim, find_folder, recorded, take
from sulcnet.runs.pace import Pace
from sulcnet.runs.preparing import check_split
from sulcnet.training.device import choose_device, choose_precision, use_threads
from sulcnet.training.loop import Loop
from sulcnet.training.resources import GpuWatch, costs
from sulcnet.training.stage import Stage

log = logging.getLogger("sulcnet")


def execute(
    workspace: Workspace,
    spec: RunSpec,
    execution: Execution | None = None,
    drawing: Drawing | None = None,
) -> RunFolder:
    """Execute one run; give its folder. A trained run that is to be continued is given back as it is.

    Raises:
        ModelError: nothing planned or prepared, a run or another process in the way, or nothing to continue.
        UsageError: flags that contradict each other, or the run that is to be continued.
        Interrupted: a signal stopped it; `go_on` continues.
    """
    execution, drawing = execution or Execution(), drawing or Drawing()
    kind: RunKind = plugins.find("runs", spec.kind, "RUN")
    plan = load_plan(spec.dataset(workspace).plans, spec.configuration)
    if not execution.go_on:
        check_split(spec.dataset(workspace))
    spec = kind.settle(workspace, spec, plan)
    step = kind.step(spec, plan)
    if step and not execution.go_on:
        asked = spec.dataset(workspace), plan, spec.network, step
        plan = planned_for(*asked, execution.workers)
    folder = find_folder(workspace, spec, execution.go_on)
    with claimed(folder.path, execution.take_over):
        trained = kind.trained(folder)
        check_claim(folder, execution, trained, kind.complete(folder))
        if not (execution.go_on and trained):
            job = _job(kind, workspace, spec, execution, folder, plan, drawing)
            _run(job, kind.assemble(job))
    return folder


def _job(
    kind: RunKind,
    workspace: Workspace,
    spec: RunSpec,
    execution: Execution,
    folder: RunFolder,
    plan: Plan,
    drawing: Drawing,
) -> Job:
    """Settle options, device, precision and threads; see that what the run starts from is there."""
    families = kind.families(spec, plan)
    device = choose_device(execution.device)
    before = None
    if execution.go_on:
        before, options = recorded(folder, spec, *families)
        plan = load_plan(folder.plans(), spec.configuration)
        precision, threads = before.precision, before.threads
    else:
        options = resolve(spec.preset, spec.settings, *families, epochs=spec.epochs)
        precision = choose_precision(execution.precision, device)
        threads = execution.threads
    kind.prepare(workspace, spec, execution, drawing)
    threads = use_threads(threads)
    return Job(
        workspace=workspace,
        spec=spec,
        execution=execution,
        folder=folder,
        options=options,
        plan=plan,
        before=before,
        device=device,
        precision=precision,
        threads=threads,
        drawing=drawing,
    )


def _run(job: Job, assembly: Assembly) -> None:
    """Run the stages, each in its own folder; what a stage leaves is there before the next one is made."""
    folder = job.folder
    if not job.before:
        take(folder)
        _write_facts(job, assembly)
    with to_file(folder / LOG):
        log.info(assembly.opening)
        if not job.before and assembly.news:
            log.info(assembly.news)
        pace = Pace(job, assembly)
        pace.foretell()
        for number, make in enumerate(assembly.stages):
            stage = make()
            _run_stage(job, replace(stage, took=pace.took) if number == 0 else stage)
        assembly.finish()


def _run_stage(job: Job, stage: Stage) -> None:
    """Run one stage to its end, from where it was left. A stage that had ended ends at once."""
    folder = RunFolder(job.folder.path / stage.name)
    folder.path.mkdir(exist_ok=True)
    loop = Loop(stage, folder, job.device, job.precision, job.spec.seed)
    if job.before and folder.checkpoint("last").exists():
        loop.resume()
    with GpuWatch(job.device) as watch:
        loop.run()
    write_json(folder / RESOURCES, costs(loop.rows, stage.method.modules, watch))


def _write_facts(job: Job, assembly: Assembly) -> None:
    """Copy in what prediction and a reader need, so that the folder can travel alone."""
    folder, dataset = job.folder, job.dataset
    alone = job.plan.replace(
        networks={assembly.network_plan.network.name: assembly.network_plan}
    )
    write_json(folder / PLANS, {job.plan.configuration: alone.to_json()})
    copy(dataset.preprocessed / DATASET_JSON, folder / DATASET_JSON)
    copy(dataset.splits, folder / SPLITS)
    for name, record in assembly.records.items():
        record.save(folder / name)
    assembly.experiment.save(folder / EXPERIMENT)
