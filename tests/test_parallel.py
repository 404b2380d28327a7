"""No case is lost: results, errors and killed workers all come back with their case."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from sulcnet.errors import DataError
from sulcnet.parallel import CaseFailed, WorkerLost, default_workers, map_cases

BOTH = pytest.mark.parametrize("workers", [1, 2])


def double(number):
    if number == 3:
        raise DataError("three is wrong", "use four")
    if number == 4:
        raise ValueError("four is\nunexpected")
    return number * 2


def die_on(case, counted: Path, deaths: int):
    """Kill this process on case `b`, as the kernel does when memory runs out, the first few times."""
    if case == "b" and len(counted.read_text()) < deaths:
        counted.write_text(counted.read_text() + "x")
        os.kill(os.getpid(), signal.SIGKILL)
    return case.upper()


def pid_of(_):
    time.sleep(0.05)
    return os.getpid()


@BOTH
def test_every_item_comes_back_with_its_result_or_error(workers):
    outcomes = dict(map_cases(double, range(6), workers))
    assert {
        item: value for item, value in outcomes.items() if item not in (3, 4)
    } == {
        0: 0,
        1: 2,
        2: 4,
        5: 10,
    }
    assert (type(outcomes[3]), outcomes[3].message, outcomes[3].hint) == (
        DataError,
        "three is wrong",
        "use four",
    )
    assert (
        isinstance(outcomes[4], CaseFailed)
        and outcomes[4].message == "'4': ValueError: four is unexpected"
    )


@BOTH
def test_errors_keep_the_traceback_of_the_worker(workers):
    errors = [outcome for _, outcome in map_cases(double, [3, 4], workers)]
    assert all("in double" in error.trace for error in errors)


def test_a_killed_worker_is_named_and_its_case_is_tried_again(tmp_path):
    counted = tmp_path / "deaths"
    counted.write_text("")
    outcomes = dict(
        map_cases(partial(die_on, counted=counted, deaths=1), list("abcd"), 2)
    )
    assert outcomes == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert list(outcomes)[-1] == "b"


def test_a_case_that_kills_its_worker_twice_is_reported_and_the_rest_is_finished(
    tmp_path,
):
    counted = tmp_path / "deaths"
    counted.write_text("")
    outcomes = dict(
        map_cases(partial(die_on, counted=counted, deaths=9), list("abcd"), 2)
    )
    assert {case: outcomes[case] for case in "acd"} == {"a": "A", "c": "C", "d": "D"}
    assert isinstance(outcomes["b"], WorkerLost) and len(counted.read_text()) == 2
    assert (
        "'b'" in outcomes["b"].message
        and "SIGKILL" in outcomes["b"].message
        and " GB" in outcomes["b"].message
    )


def test_all_workers_may_die_and_the_rest_is_still_finished(tmp_path):
    counted = tmp_path / "deaths"
    counted.write_text("")
    outcomes = dict(
        map_cases(partial(die_on, counted=counted, deaths=1), list("bbbacd"), 2)
    )
    assert sorted(outcomes.items()) == [
        ("a", "A"),
        ("b", "B"),
        ("c", "C"),
        ("d", "D"),
    ]


def test_running_out_of_memory_in_python_is_tried_again_too():
    outcomes = list(map_cases(greedy, ["x"], 2))
    assert (
        len(outcomes) == 1
        and isinstance(outcomes[0][1], WorkerLost)
        and "'x'" in outcomes[0][1].message
    )


def greedy(_):
    raise MemoryError("no room")


def test_results_that_cannot_be_pickled_are_errors_of_their_case():
    ((case, error),) = map_cases(not_picklable, ["x"], 2)
    assert case == "x" and isinstance(error, CaseFailed)


def not_picklable(_):
    return lambda: None


def test_work_is_spread_and_stays_here_with_one_worker():
    assert {pid for _, pid in map_cases(pid_of, range(4), 1)} == {os.getpid()}
    elsewhere = {pid for _, pid in map_cases(pid_of, range(4), 2)}
    assert len(elsewhere) == 2 and os.getpid() not in elsewhere


def test_leaving_early_stops_the_workers():
    outcomes = map_cases(pid_of, range(50), 2)
    pids = {next(outcomes)[1], next(outcomes)[1]}
    outcomes.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_no_items_no_workers():
    assert list(map_cases(double, [], 4)) == []
    assert 1 <= default_workers() <= 8
