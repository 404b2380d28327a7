"""The self-test on the device: what fails there is the first thing to know."""

from argparse import Namespace

from _tables import Tables


def run(tables: Tables, args: Namespace) -> None:
    """Write a row per check."""
    from sulcnet.runs.selftest import self_test

    tables.begin("Self-test", "check", "seconds", "state")
    for check in self_test(args.device):
        state = f"FAILED: {check.problem}" if check.problem else check.found
        tables.row(check.name, {"seconds": check.seconds, "state": state})
