"""What a person sees where nothing can be redrawn: few lines of progress, errors of one line, tables without markup."""

import time
from typing import Literal

import pytest
from pydantic import Field

from components.config import Config
from pipelines import terminal
from pipelines.cli.task_facts import option_facts


def test_progress_in_a_pipe_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with terminal.Watch() as watch:
        watch.update("a", "rotation", 1, 100, "loss 1.4")
        watch.update("a", "rotation", 2, 100)
        watch.update("b", "colorization", 1, 10)
        clock[0] += terminal.PLAIN_INTERVAL
        watch.update("a", "rotation", 50, 100)
        watch.update("a", "rotation", 100, 100)
        watch.say("a broken image was skipped: [x].jpg")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "rotation: 1/100 loss 1.4",
        "colorization: 1/10",
        "rotation: 50/100",
        "rotation: 100/100",
        "a broken image was skipped: [x].jpg",
    ]


def test_a_late_message_is_not_shown_after_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.Watch() as watch:
        watch.update("a", "rotation", 100, 100)
        watch.finish("a", "rotation", "done")
        watch.update("a", "rotation", 100, 100, "loss 1.4")
    assert capsys.readouterr().err.splitlines() == ["rotation: 100/100", "rotation: 1/1 done"]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.Watch(quiet=True) as watch:
        watch.update("a", "rotation", 100, 100)
        watch.say("hello")
    assert capsys.readouterr() == ("", "")


def test_an_error_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.error("first\n   second [red]\n")
    assert capsys.readouterr().err == "genoise: error: first second [red]\n"


def test_rows_align_numbers_and_show_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_rows(
        [{"recipe": "rotation [a]", "test": 61.256, "±": None}, {"recipe": "random", "test": 9.5, "±": 0.1}]
    )
    header, _, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["recipe", "test", "±"]
    assert first.split() == ["rotation", "[a]", "61.26", "–"]
    assert second.split() == ["random", "9.5", "0.1"]
    assert first.index("61.26") + 5 == second.index("9.5") + 3


def test_options_are_told_with_their_ranges() -> None:
    class Options(Config):
        target: Literal["classes", "regression"] = "classes"
        drop: float = Field(0.0, ge=0, lt=1, description="share dropped")
        rebalance: float | None = Field(0.5, gt=0, le=1)

    facts = option_facts(Options)
    assert facts["target"] == {"type": "classes | regression", "range": "", "default": "classes", "description": ""}
    assert facts["drop"] == {"type": "float", "range": ">= 0, < 1", "default": 0.0, "description": "share dropped"}
    assert (facts["rebalance"]["type"], facts["rebalance"]["range"]) == ("float | null", "> 0, <= 1")


def test_of_a_long_list_the_first_few_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_facts({"resampled": [k / 1000 for k in range(1000)], "few": list(range(50))})
    out = " ".join(capsys.readouterr().out.split())
    assert "0.004, and 995 more" in out and "0.005" not in out and "48, 49" in out


def test_what_was_not_measured_is_a_dash_inside_a_list_too() -> None:
    assert terminal._words([{"step": 4, "score": None}]) == "step 4 score –"
