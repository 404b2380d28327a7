"""`sulcnet_info --self-test`: everything once, each thing by its name; what fails is named, and exit code 3."""

import json

import pytest
import torch

from sulcnet import plugins
from sulcnet.cli.info import COMMAND
from sulcnet.errors import ModelError
from sulcnet.runs import selftest


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in selftest.self_test("cpu")}


def test_everything_passes_here(checks):
    assert not {
        name: check.problem for name, check in checks.items() if check.problem
    }


def test_every_method_strategy_and_network_takes_a_step(checks):
    for verb, folder, export in (
        ("pretrain", "pretraining", "METHOD"),
        ("tune", "tuning", "TUNING"),
        ("network", "networks", "NETWORK"),
    ):
        for name in plugins.names(folder, export):
            assert checks[f"{verb} {name}"].found.startswith("loss ")


def test_what_fails_is_named_and_the_rest_still_tried(monkeypatch, capsys):
    """A plan that cannot be made: preparing and what follows are not tried, the steps are."""

    def refuse(*_):
        raise ModelError("No plan today.", "Try tomorrow.")

    monkeypatch.setattr(selftest, "plan_dataset", refuse)
    monkeypatch.setattr(
        selftest,
        "_steps",
        lambda: [("tune top", selftest._question("resenc_unet", "top"))],
    )
    assert COMMAND(["--self-test", "--device", "cpu", "--json"]) == 3
    out, err = capsys.readouterr()
    found = {check["name"]: check["problem"] for check in json.loads(out)}
    assert (
        found["plan"] == "No plan today. Try tomorrow."
        and found["prepare"] == "not tried: 'plan' failed"
    )
    assert found["tune top"] == "" and "plan, prepare" in err


def test_a_device_that_is_not_there_is_told_in_two_lines(capsys):
    assert COMMAND(["--self-test", "--device", "cuda:7"]) == 3
    assert "CUDA devices are visible" in capsys.readouterr().err


def test_a_device_that_computes_wrongly_is_found_out(monkeypatch):
    """Here: the convolution on the device is half as large as it should be."""
    run, seen = torch.nn.Conv3d.forward, []

    def halved(self, image):
        seen.append(image)
        return run(self, image) / len(seen)

    monkeypatch.setattr(torch.nn.Conv3d, "forward", halved)
    assert (
        "differs from the CPU's"
        in selftest._tried("device", lambda: selftest._compute("cpu")).problem
    )


def test_a_loss_that_is_no_number_fails(monkeypatch):
    monkeypatch.setattr(selftest, "take_step", lambda *_: float("nan"))
    assert (
        "nan"
        in selftest._tried(
            "step",
            lambda: selftest._step(selftest._question("resenc_unet", "top"), "cpu"),
        ).problem
    )
