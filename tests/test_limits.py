"""What a container or a batch job leaves of the machine: trees of files as the kernel lays them out, and who asks."""

import logging
import os

import pytest

from sulcnet import limits
from sulcnet.cli.info import COMMAND
from sulcnet.parallel import default_workers
from sulcnet.report.machine import describe_machine
from sulcnet.training import device

CORES, MEMORY = 16, 64 * 10**9
NONE_V1 = "9223372036854771712"  # what version 1 writes for "no limit"
MOUNT_V2 = "31 24 0:27 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
MOUNT_V1 = "3{n} 31 0:3{n} {top} /sys/fs/cgroup/{name} rw,relatime shared:1{n} - cgroup cgroup rw,{name}"
OTHER_MOUNTS = [
    "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
    "23 22 0:21 / /proc rw - proc proc rw",
    "25 22 0:23 / /dev/shm rw - tmpfs tmpfs rw,cpu,memory",
]
STEP = "system.slice/slurmstepd.scope/job_1/step_0/user/task_0"


def v1(name, n, top="/"):
    return MOUNT_V1.format(name=name, n=n, top=top)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Lay out a machine of 16 cores and 64 GB: its mounts, the groups of this process, and the groups' files."""
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(limits, "machine_memory", lambda: MEMORY)
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: set(range(CORES)), raising=False
    )
    device._cores.cache_clear()

    def lay(mounts=(), groups=(), **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/mountinfo").write_text(
            "\n".join([*OTHER_MOUNTS, *mounts]) + "\n"
        )
        (tmp_path / "proc/self/cgroup").write_text("\n".join(groups) + "\n")
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    yield lay
    device._cores.cache_clear()


def version_2(path="/", top="/", **files):
    return dict(mounts=[MOUNT_V2.format(top=top)], groups=[f"0::{path}"], **files)


def version_1(path="/", top="/", **files):
    mounts = [v1("memory", 3, top), v1("cpu,cpuacct", 4, top), v1("pids", 5, top)]
    groups = [
        f"9:pids:{path}",
        f"4:memory:{path}",
        f"2:cpu,cpuacct:{path}",
        "1:name=systemd:/",
        "0::/",
    ]
    return dict(mounts=mounts, groups=groups, **files)


def quota(cores, folder="cpu,cpuacct"):
    return {
        f"{folder}/cpu.cfs_quota_us": str(int(cores * 100000) if cores > 0 else -1),
        f"{folder}/cpu.cfs_period_us": "100000",
    }


TREES = {
    "no groups": ({}, CORES, MEMORY),
    "v2, no limit": (
        version_2(**{"cpu.max": "max 100000", "memory.max": "max"}),
        CORES,
        MEMORY,
    ),
    "v2, a container": (
        version_2(**{"cpu.max": "200000 100000", "memory.max": "4000000000"}),
        2,
        4e9,
    ),
    "v2, another period": (version_2(**{"cpu.max": "30000 10000"}), 3, MEMORY),
    "v2, a core and a half": (version_2(**{"cpu.max": "150000 100000"}), 2, MEMORY),
    "v2, less than a core": (version_2(**{"cpu.max": "20000 100000"}), 1, MEMORY),
    "v2, more than there is": (
        version_2(**{"cpu.max": "9900000 100000", "memory.max": "99000000000"}),
        CORES,
        MEMORY,
    ),
    "v2, a Slurm step, limited above": (
        version_2(
            f"/{STEP}",
            **{
                f"{STEP}/cpu.max": "max 100000",
                f"{STEP}/memory.max": "max",
                "system.slice/slurmstepd.scope/job_1/memory.max": "8000000000",
                "system.slice/slurmstepd.scope/job_1/step_0/memory.max": "9000000000",
                "system.slice/slurmstepd.scope/job_1/cpu.max": "400000 100000",
            },
        ),
        4,
        8e9,
    ),
    "v2, the limit of a neighbour": (
        version_2(
            "/a",
            **{"a/memory.max": "max", "b/memory.max": "1000000", "b/cpu.max": "1 1"},
        ),
        CORES,
        MEMORY,
    ),
    "v2, its own group is the top of what is mounted": (
        version_2("/docker/77", "/docker/77", **{"memory.max": "5000000000"}),
        CORES,
        5e9,
    ),
    "v2, a group within what is mounted": (
        version_2(
            "/docker/77/inner",
            "/docker/77",
            **{"memory.max": "5000000000", "inner/memory.max": "1000000000"},
        ),
        CORES,
        1e9,
    ),
    "v2, told from outside what is mounted": (
        version_2("/../../lxc/7", **{"memory.max": "5000000000"}),
        CORES,
        5e9,
    ),
    "v1, no limit": (
        version_1(**quota(-1), **{"memory/memory.limit_in_bytes": NONE_V1}),
        CORES,
        MEMORY,
    ),
    "v1, a container": (
        version_1(
            "/docker/77",
            "/docker/77",
            **quota(2.5),
            **{"memory/memory.limit_in_bytes": "3000000000"},
        ),
        3,
        3e9,
    ),
    "v1, nested": (
        version_1(
            "/slurm/job_1/step_0",
            **quota(4, "cpu,cpuacct/slurm/job_1"),
            **quota(-1, "cpu,cpuacct/slurm/job_1/step_0"),
            **{
                "memory/slurm/job_1/memory.limit_in_bytes": "2000000000",
                "memory/slurm/job_1/step_0/memory.limit_in_bytes": NONE_V1,
            },
        ),
        4,
        2e9,
    ),
    "hybrid": (
        dict(
            mounts=[
                v1("memory", 3),
                v1("cpu", 4),
                MOUNT_V2.format(top="/").replace("cgroup rw", "cgroup/unified rw"),
            ],
            groups=["4:memory:/box", "1:cpu:/box", "0::/box"],
            **quota(3, "cpu/box"),
            **{
                "memory/box/memory.limit_in_bytes": "7000000000",
                "unified/box/cgroup.procs": "1",
            },
        ),
        3,
        7e9,
    ),
    "hybrid, limited by v2": (
        dict(
            mounts=[
                v1("memory", 3),
                MOUNT_V2.format(top="/").replace("cgroup rw", "cgroup/unified rw"),
            ],
            groups=["4:memory:/", "0::/box"],
            **{
                "memory/memory.limit_in_bytes": NONE_V1,
                "unified/box/cpu.max": "500000 100000",
            },
        ),
        5,
        MEMORY,
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_the_smallest_limit_of_the_groups_counts(tree, name):
    files, cores, memory = TREES[name]
    tree(**files)
    assert (limits.cores(), limits.memory()) == (cores, memory)


def test_affinity_is_a_limit_too(tree, monkeypatch):
    tree(**version_2(**{"cpu.max": "600000 100000"}))
    assert limits.cores() == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3})
    assert limits.cores() == 2


def test_a_system_that_tells_nothing(tree, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(limits, "machine_memory", lambda: None)
    assert (limits.cores(), limits.memory(), default_workers()) == (CORES, None, 8)


def test_a_file_that_may_not_be_read_is_no_limit(tree, tmp_path):
    tree(**version_2())
    (tmp_path / "sys/fs/cgroup/memory.max").mkdir(parents=True)
    assert limits.memory() == MEMORY


def test_workers_follow_cores_and_memory(tree):
    assert default_workers() == 8
    tree(
        **version_2(
            "/job", **{"job/cpu.max": "600000 100000", "job/memory.max": "4500000000"}
        )
    )
    assert default_workers() == 4 and default_workers(2) == 2


def test_a_little_memory_still_has_a_worker(tree):
    tree(**version_2(**{"memory.max": "500000000"}))
    assert default_workers() == 1


def test_threads_follow_the_quota_and_the_log_says_so_once(tree, caplog):
    tree(**version_2(**{"cpu.max": "300000 100000"}))
    with caplog.at_level(logging.INFO, "sulcnet"):
        assert [
            device.use_threads(None),
            device.use_threads(None),
            device.use_threads(1),
        ] == [
            3,
            3,
            1,
        ]
    assert [record.getMessage()[:43] for record in caplog.records] == [
        "3 of this machine's 16 cores may be used he"
    ]


def test_an_unlimited_machine_says_nothing(tree, caplog):
    with caplog.at_level(logging.INFO, "sulcnet"):
        assert device.use_threads(None) == CORES
    assert not caplog.records


def test_info_shows_what_is_left_of_the_machine(tree, root, capsys):
    assert (
        COMMAND([]) == 0
        and "CPU         16 cores, 64.0 GB memory" in capsys.readouterr().out
    )
    tree(**version_2(**{"cpu.max": "200000 100000", "memory.max": "4000000000"}))
    assert (
        COMMAND([]) == 0
        and "CPU         2 of 16 cores, 4.0 GB of 64.0 GB memory"
        in capsys.readouterr().out
    )
    found = describe_machine()
    assert (found.cores, found.all_cores, found.memory, found.all_memory) == (
        2,
        CORES,
        4 * 10**9,
        MEMORY,
    )
