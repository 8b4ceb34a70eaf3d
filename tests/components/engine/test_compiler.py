"""What steps that are compiled need of a machine; compilers and Triton are made up, but for the last test."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.engine.compiler import check_compiler
from components.errors import UserError

Made = Callable[[str, str], Path]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Make a program of a shell script, in the one folder where programs are."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "there")

    def make(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def refusal(cuda: bool) -> str:
    with pytest.raises(UserError) as caught:
        check_compiler(cuda)
    said = str(caught.value)
    assert "\n" not in said and said.endswith("or --set training.compile=false")
    return said


def test_no_compiler(made: Made) -> None:
    assert "needs a C++ compiler that finds Python.h on this machine: g++ does not run (No such file" in refusal(False)
    assert "needs a C compiler that finds Python.h on this machine: gcc does not run (No such file" in refusal(True)
    assert "apt install g++ python3-dev), name another compiler with CXX" in refusal(False)


def test_a_compiler_without_the_header_files(made: Made) -> None:
    made("g++", "echo '<stdin>:1:10: fatal error: Python.h: No such file' >&2; exit 1")
    assert "g++ says '<stdin>:1:10: fatal error: Python.h: No such file'" in refusal(False)
    made("g++", "exit 3")
    assert "g++ says 'exit code 3'" in refusal(False)


def test_the_compilers_are_those_that_torch_and_triton_take(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made("g++", "exit 0")
    check_compiler(False)
    refusal(True)
    made("clang", "exit 0")  # which Triton takes where there is no gcc
    check_compiler(True)
    made("gcc", "exit 1")
    refusal(True)
    monkeypatch.setenv("CC", str(made("mine", "exit 0")))
    check_compiler(True)
    monkeypatch.setenv("CXX", "none")
    refusal(False)


def test_a_gpu_without_triton(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made("gcc", "exit 0")
    check_compiler(True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "needs Triton on this machine: install a build of torch with CUDA" in refusal(True)


def test_where_it_is_said_to_be_missing(made: Made) -> None:
    with pytest.raises(UserError, match=r"finds Python\.h on every worker's machine: "):
        check_compiler(False, "every worker's machine")


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiler_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    check_compiler(False)
