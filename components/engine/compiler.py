"""What `torch.compile` needs of a machine, looked for before anything is trained: torch says it in a traceback."""

import importlib.util
import os
import shutil
import subprocess
import sysconfig

from components.errors import UserError

_TRIED_S = 60.0  # for a compiler to read two files


def check_compiler(cuda: bool, where: str = "this machine") -> None:
    """Raise UserError where steps cannot be compiled here.

    For a GPU (``cuda``) that takes Triton and a C compiler, for the CPU a C++ compiler, either with Python's header
    files; the compilers are those that Triton and torch take. ``where``: this machine, in the words of the message.
    """
    if cuda and importlib.util.find_spec("triton") is None:
        raise _lacking("Triton", where, "install a build of torch with CUDA, which brings it")
    if cuda:
        name, kind, package = "CC", "C", "gcc"
        compiler = os.environ.get(name) or next(filter(shutil.which, ("gcc", "clang")), "gcc")
    else:
        name, kind, package = "CXX", "C++", "g++"
        compiler = os.environ.get(name) or "g++"
    if fault := _fault(compiler, kind):
        todo = f"{fault}; install both (Debian: apt install {package} python3-dev), name another compiler with {name}"
        raise _lacking(f"a {kind} compiler that finds Python.h", where, todo)


def _lacking(what: str, where: str, todo: str) -> UserError:
    return UserError(f"training.compile needs {what} on {where}: {todo}, or --set training.compile=false")


def _fault(compiler: str, kind: str) -> str:
    """Why the compiler cannot be used, in a few words; empty where it can."""
    command = [compiler, "-fsyntax-only", "-x", kind.lower(), f"-I{sysconfig.get_path('include')}", "-"]
    source = f"#include <Python.h>\n#include <{'cmath' if kind == 'C++' else 'math.h'}>\n"
    try:
        tried = subprocess.run(command, input=source, text=True, capture_output=True, timeout=_TRIED_S)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} does not run ({getattr(error, 'strerror', None) or type(error).__name__})"
    said = [line.strip() for line in tried.stderr.splitlines() if "error" in line] or [f"exit code {tried.returncode}"]
    return f"{compiler} says {said[0][:120]!r}" if tried.returncode else ""
