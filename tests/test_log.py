"""Lines reach the terminal and a run's file; bars stay away where nobody looks."""

import logging
import sys
import warnings

import pytest

from sulcnet import log


@pytest.fixture(autouse=True)
def _as_before():
    package = logging.getLogger("sulcnet")
    levels = (log._terminal.level, logging.getLogger("sulcnet").level)
    yield
    log._terminal.setLevel(levels[0])
    package.setLevel(levels[1])
    package.removeHandler(log._terminal)
    logging.captureWarnings(False)


def test_lines_are_short_and_warnings_say_so(capsys):
    log.start()
    logging.getLogger("sulcnet.training").info("epoch %d", 1)
    logging.getLogger("sulcnet.training").warning("odd")
    logging.getLogger("sulcnet.training").debug("hidden")
    assert capsys.readouterr() == ("", "epoch 1\nwarning: odd\n")


def test_quiet_keeps_warnings_and_debug_shows_everything(capsys):
    log.start(quiet=True)
    logging.getLogger("sulcnet.x").info("epoch")
    logging.getLogger("sulcnet.x").warning("odd")
    assert capsys.readouterr().err == "warning: odd\n"
    log.start(debug=True)
    logging.getLogger("sulcnet.x").debug("detail")
    assert capsys.readouterr().err == "detail\n"


def test_starting_twice_does_not_double_the_lines(capsys):
    log.start()
    log.start()
    logging.getLogger("sulcnet").info("once")
    assert capsys.readouterr().err == "once\n"


def test_a_file_gets_every_line_even_when_quiet_and_the_warnings_of_libraries(
    tmp_path, capsys
):
    log.start(quiet=True)
    with log.to_file(tmp_path / "lines"):
        logging.getLogger("sulcnet.x").info("epoch 1")
        warnings.warn("old function", stacklevel=1)
    logging.getLogger("sulcnet.x").info("after")
    lines = (tmp_path / "lines").read_text()
    assert (
        " INFO    epoch 1\n" in lines
        and "old function" in lines
        and "after" not in lines
    )
    assert capsys.readouterr().err == ""


def test_no_bar_without_a_terminal_or_when_quiet(monkeypatch):
    log.start(quiet=False)  # whatever a command before left
    items = [1, 2]
    assert log.progress(items) is items
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert (
        list(log.progress(items, label="prepare")) == items
        and log.progress(items) is not items
    )
    log.start(quiet=True)
    assert log.progress(items) is items
