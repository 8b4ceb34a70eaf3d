"""The command for a GPU, tried without one: its parts, their end, and that it needs neither Ray nor MLflow."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part, parts_on

ROOT = Path(__file__).resolve().parents[2]


def test_a_part_is_shown_as_it_goes_and_its_figures_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    part = Part("steps", ["-c", "print('pix2pix 1.2'); print('{\"pix2pix\": 1.2}')"])
    part.run(60)
    assert part.outcome.startswith("done in ") and part.figures == {"pix2pix": 1.2}
    assert capfd.readouterr().out.splitlines()[1:] == ["pix2pix 1.2"]
    failing = Part("tests", ["-c", "raise SystemExit(3)"])
    failing.run(60)
    assert failing.outcome == "failed (3)"


def test_a_part_ends_with_the_time_and_takes_along_what_it_started(tmp_path: Path) -> None:
    child = f"import time, os; open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    part = Part("steps", ["-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"])
    began = time.monotonic()
    part.run(5)
    assert part.outcome.startswith("cut off after ") and time.monotonic() - began < 60
    process, until = int((tmp_path / "child").read_text()), time.monotonic() + 10
    while os.path.exists(f"/proc/{process}/exe") and time.monotonic() < until:  # a process that has ended leads nowhere
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{process}/exe")
    part.run(0)
    assert part.outcome.startswith("not begun")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_parts_can_be_typed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks take the options that they are given; they stop where a random picture would be made."""
    monkeypatch.setattr("components.engine.compiler.check_compiler", lambda _: None)
    parts, beside, _ = parts_on(device)
    assert [part.name for part in parts] == ["tests", "steps", "engine", "compiled"]
    assert len(beside) == (4 if device == "cuda" else 0)
    lines = [part.arguments for part in parts[1:]] + [["-m", "benchmarks.translation", *each[2:]] for each in beside]

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr("benchmarks.translation.check", stop)
    monkeypatch.setattr("benchmarks.engine.compare", stop)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    for dash_m, module, *options in lines:
        assert dash_m == "-m"
        with pytest.raises(Stop):
            importlib.import_module(module).main(options)


def test_the_tests_are_all_that_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, left_out = gpu.tests(cuda=True)
    assert {"tests/components/engine/test_recording.py", "tests/components/data/test_dataset.py"} <= {*arguments}
    assert not left_out and not [name for name in arguments if name.endswith(".py") and not (ROOT / name).exists()]
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "simplejpeg" else find(name))
    arguments, left_out = gpu.tests(cuda=True)
    assert gpu.RECORDED in arguments and not [name for name in arguments if "data" in name]
    assert left_out == "tests of data (pip install simplejpeg)"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert gpu.tests(cuda=True) == ([], "all tests (pip install pytest)")


def test_without_a_compiler_the_compiled_part_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "none-that-is-there")
    parts, _, left_out = parts_on("cpu")
    assert [part.name for part in parts] == ["tests", "steps", "engine"]
    assert left_out[-1].startswith("compiled steps (training.compile needs a C++ compiler")


def test_what_is_not_timed_is_over_before_the_second_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = str(tmp_path / "compiled")
    late = f"import time; time.sleep(3); open({mark!r}, 'w')"
    parts = [Part("tests", ["-c", "pass"]), Part("steps", ["-c", f"open({mark!r}); print('{{\"ratio\": 2}}')"])]
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(gpu, "parts_on", lambda _: (parts, [["-c", late]], ["a count"]))
    gpu.main(["--device", "cpu", "--seconds", "60", "--json"])
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "left out: a count" and said[-2].startswith("== tests done in ")
    assert json.loads(said[-1])["steps"]["ratio"] == 2
    parts.append(Part("compiled", ["-c", "raise SystemExit(1)"]))
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--device", "cpu"])
    assert ended.value.code == 1 and "compiled failed (1)" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("wrong", [["--device", "cuda"], ["--device", "tpu"], ["--seconds", "soon"]])
def test_wrong_options(wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main(wrong)
    assert ended.value.code == 2 and wrong[0] in capsys.readouterr().err.splitlines()[-1]


BARE = """
import sys
for name in ("ray", "mlflow", "boto3", "webdataset", "rich", "typer"):
    sys.modules[name] = None
import benchmarks.gpu, benchmarks.translation, benchmarks.engine
import pytest
plain = [*benchmarks.gpu.PLAIN, "-p", "no:xdist", "-p", "no:timeout"]
sys.exit(pytest.main([*plain, "-m", "gpu", "--collect-only", *sys.argv[1:]]))
"""


def test_neither_ray_nor_mlflow_is_needed() -> None:
    files = [name for name in gpu.tests(cuda=True)[0] if name.endswith(".py")]
    done = subprocess.run([sys.executable, "-c", BARE, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
