"""Everything that a GPU has to show, in one command and five minutes: recorded steps do the same, and are fast.

    python -m benchmarks.gpu [--seconds 300] [--device cpu] [--json]         # or: make gpu PYTHON=python3

    tests       those marked `gpu`: replayed steps train the weights of eager ones, for every task
    steps       pix2pix with batches of 1, 4 and 32 and CycleGAN, against the usual loop (benchmarks.translation)
    engine      the engine against a bare loop, batch 128, bf16 (benchmarks.engine)
    compiled    the steps again, with torch.compile

It wants torch and the small packages of `components/`, neither Ray nor MLflow. While the tests run, which nobody times,
other processes compile the steps: torch keeps compiled code on disk, and the part that is timed finds it there. Without
a GPU everything runs on the CPU as far as it goes. The exit code is 1 where a part failed, or was cut off by the time.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {"torch": "torch", "numpy": "numpy", "pydantic": "pydantic", "yaml": "pyyaml", "safetensors": "safetensors"}
RECORDED = "tests/components/engine/test_recording.py"  # has tests for where there is no GPU, too
OF_DATA = "tests/components/data/"  # read with simplejpeg
# Without the options of pyproject.toml, which ask for plugins of pytest.
PLAIN = ["-o", "addopts=", "--import-mode=importlib", "-q", "-p", "no:warnings", "-p", "no:cacheprovider"]
PYTEST = ["-m", "pytest", *PLAIN]
# Which form of a kernel is fastest is not to be decided while others use the GPU: that alone is not kept.
COMPILE = """
import sys, torch._inductor.config
torch._inductor.config.autotune_local_cache = False
from benchmarks.translation import main
main(sys.argv[1:])
"""

Process: TypeAlias = "subprocess.Popen[str]"


@dataclass
class Part:
    """A command of this Python, and what came of it."""

    name: str
    arguments: list[str]
    outcome: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def run(self, seconds: float) -> None:
        """Show what the command says, for so long at most."""
        if seconds <= 0:
            self.outcome = "not begun, for the time was over"
            return
        print(f"== {self.name}: python {' '.join(self.arguments)}", flush=True)
        began, over = time.monotonic(), threading.Event()

        def end() -> None:
            over.set()
            kill(process)

        timer = threading.Timer(seconds, end)
        with started(self.arguments, stdout=subprocess.PIPE) as process:
            timer.start()
            try:
                assert process.stdout
                for line in process.stdout:
                    if line.startswith("{"):
                        self.figures = json.loads(line)
                    else:
                        print(line, end="", flush=True)
                code = process.wait()
            finally:
                timer.cancel()
                kill(process)
        took = f"{time.monotonic() - began:.0f} s"
        self.outcome = f"cut off after {took}" if over.is_set() else f"failed ({code})" if code else f"done in {took}"


def started(arguments: list[str], stdout: int, stderr: int | None = None) -> Process:
    """A process of this Python, in a process group of its own; what it prints comes line by line."""
    command = [sys.executable, "-u", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, stdout=stdout, stderr=stderr)


def kill(process: Process) -> None:
    """End a process, and what it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tests(cuda: bool) -> tuple[list[str], str]:
    """The arguments of the tests, and what is left out of them and why; no arguments where none can be run."""
    if importlib.util.find_spec("pytest") is None:
        return [], "all tests (pip install pytest)"
    if not cuda:
        return [*PYTEST, RECORDED], "the tests marked gpu"
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())
    names = [path.relative_to(ROOT).as_posix() for path in files]
    there = [name for name in names if importlib.util.find_spec("simplejpeg") or not name.startswith(OF_DATA)]
    left_out = "" if there == names else "tests of data (pip install simplejpeg)"
    return [*PYTEST, "-m", "gpu", *there], left_out


def parts_on(device: str) -> tuple[list[Part], list[list[str]], list[str]]:
    """The parts, what is compiled beside the first of them, and what is left out."""
    from components.engine.compiler import check_compiler
    from components.errors import UserError

    cuda = device == "cuda"
    options, left_out = tests(cuda)
    translation = ["-m", "benchmarks.translation", "--device", device, "--json"]
    engine = ["-m", "benchmarks.engine", "--device", device, "--batch", "128", "--precision", "bf16", "--json"]
    if cuda:
        timed = [*translation, "--batch", "1", "4", "32", "--steps", "20", "--rounds", "3"]
        compiled, engine = [*timed, "--compile"], [*engine, "--steps", "30", "--rounds", "7"]
    else:
        timed = [*translation, "--batch", "1", "--steps", "1", "--rounds", "2"]
        compiled, engine = [*timed, "--compile", "--task", "pix2pix"], [*engine, "--steps", "3", "--rounds", "2"]
    parts = [Part("tests", options)] if options else []
    parts += [Part("steps", timed), Part("engine", engine)]
    lacking = [left_out] if left_out else []
    if not cuda:
        lacking += ["batches of 4 and 32", "CycleGAN compiled", "the count of kernels"]
    beside: list[list[str]] = []
    try:
        check_compiler(cuda)
        parts.append(Part("compiled", compiled))
        once = ["-c", COMPILE, "--device", device, "--compile", "--steps", "1", "--rounds", "2"]
        if cuda:
            beside = [[*once, "--task", "pix2pix", "--batch", batch] for batch in ("1", "4", "32")]
            beside.append([*once, "--task", "cyclegan"])
    except UserError as error:
        lacking.append(f"compiled steps ({error})")
    return parts, beside, lacking


def main(arguments: list[str]) -> None:
    """Run all parts; ends the process with 1 where one did not come to its end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, help="that it may take; default: 300, and 900 without a GPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU where there is one")
    parser.add_argument("--json", action="store_true", help="the figures as JSON in the last line")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    if missing := [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]:
        parser.error(f"it needs {', '.join(missing)}: pip install {' '.join(missing)}")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; leave --device out to try the CPU")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    until = began + (options.seconds or (300.0 if device == "cuda" else 900.0))
    parts, beside, left_out = parts_on(device)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if device == 'cuda' else 'no GPU'}")
    if left_out:
        print(f"left out: {'; '.join(left_out)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no process is left behind
    helpers = [started(each, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for each in beside]
    try:
        for part in parts:
            part.run(until - time.monotonic())
            while helpers:  # what is timed has the GPU to itself
                with suppress(subprocess.TimeoutExpired):
                    helpers[-1].wait(max(0.0, (until - time.monotonic()) / 2))
                kill(helpers.pop())
    finally:
        for helper in helpers:
            kill(helper)
    print("== " + ", ".join(f"{part.name} {part.outcome}" for part in parts))
    if options.json:
        outcomes = {part.name: {"outcome": part.outcome, **part.figures} for part in parts}
        print(json.dumps({"torch": torch.__version__, "device": device, "left_out": left_out, **outcomes}))
    if any(not part.outcome.startswith("done") for part in parts):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
