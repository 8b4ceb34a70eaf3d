"""The command line: help that lists everything, at once; one line and exit code 2 for bad input; JSON as last line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

import pipelines
from components.config import Recipe
from components.errors import UserError
from infra.errors import OutsideError
from infra.tracking import Tracker
from pipelines.__main__ import run
from pipelines.recipes import DEMO, comparable
from pipelines.session import Session
from pipelines.steps.step import Planned

JOB = {"--set", "--dry-run", "--json", "--quiet", "--home", "--tracking-uri", "--address"}
COMMANDS = {
    "demo": JOB,
    "prepare": JOB | {"SOURCE", "--root", "--to"},
    "pretrain": JOB | {"RECIPE"},
    "transfer": JOB | {"--encoder", "--benchmark", "--source", "--root"},
    "table": JOB | {"RECIPE", "--seeds"},
    "measure": JOB | {"--run", "--extractor", "--layer", "--resize", "--split", "--samples", "--seed"},
    "generate": (JOB - {"--set", "--address"})
    | {"--run", "--to", "--images", "--count", "--label", "--title", "--seed", "--fit", "--overlap", "--side"}
    | {"--enlarge", "--overwrite"},
    "tasks": {"NAME", "--json"},
    "recipes": {"NAME", "--set", "--json"},
    "benchmarks": {"NAME", "--json"},
    "ui": {"--port", "--home", "--json"},
}
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def genoise(home: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line; returns exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for every pipeline: notes what it is called with, and returns, or raises, what it is told."""
    fake = SimpleNamespace(calls=[], error=None)

    def called(*arguments: Any, **named: Any) -> Any:
        fake.calls.append(arguments)
        if fake.error:
            raise fake.error
        said = {"encoder": "models:/m-1", "n": 20, "warnings": ["few samples"]}
        pictures = [{"pictures": "prediction", "psnr": 21.5}]
        value = SimpleNamespace(to_json=lambda: said, rows=pictures, split="test", **said)
        return SimpleNamespace(
            rows=[{"recipe": "rotation", "test": 61.25}],
            notes=["no test split"],
            to_json=lambda: '{"rows": []}',
            run_id="r1",
            fingerprint="f1",
            reused=False,
            value=value,
        )

    def plan(*arguments: Any, **named: Any) -> list[Planned]:
        fake.calls.append(arguments)
        return [
            Planned("prepare", "shapes", "ab" * 32, True),
            Planned("pretrain", "rotation, seed 0", "cd" * 32, False),
        ]

    def made(*arguments: Any) -> dict[str, Any]:
        fake.calls.append(arguments)
        if fake.error:
            raise fake.error
        return {"made": 3}

    measuring = SimpleNamespace(plan=plan, measure=called)
    monkeypatch.setattr(pipelines, "measure", measuring, raising=False)
    monkeypatch.setattr(pipelines, "generate", SimpleNamespace(plan=made, generate=made), raising=False)
    for module, function in (
        ("prepare", "prepare"),
        ("pretrain", "pretrain"),
        ("transfer", "transfer"),
        ("table", "make_table"),
    ):
        monkeypatch.setattr(pipelines, module, SimpleNamespace(plan=plan, **{function: called}), raising=False)
    return fake


def one_line(err: str) -> str:
    """The one line that is on stderr."""
    assert err.count("\n") == 1 and err.startswith("genoise: error: "), err
    return err


def test_help_lists_every_command(genoise: Command) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        code, out, _ = genoise(*arguments)
        assert code == 0
        assert all(f"\n  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_lists_every_option_and_examples(genoise: Command, command: str) -> None:
    code, out, _ = genoise(command, "--help")
    assert code == 0
    assert f"Examples:\n    genoise {command}" in out
    for option in COMMANDS[command]:
        assert option in out


def test_help_needs_nothing_heavy() -> None:
    script = (
        "import sys\nfrom pipelines.__main__ import run\n"
        "for line in ([], ['table', '--help'], ['recipes'], ['pretrain', 'rotatoin']): run(line)\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'boto3', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=_root())
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_dash_m_runs_it() -> None:
    command = [sys.executable, "-m", "pipelines", "recipes", "rotatoin"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_root(), check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "unknown recipe 'rotatoin': did you mean 'rotation'" in one_line(done.stderr)


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretain"], "No such command 'pretain'. Did you mean 'pretrain'"),
        (["pretrain"], "Missing argument 'RECIPE'"),
        (["pretrain", "rotation", "--seed"], "--seed"),
        (["table", "--seeds", "0"], "--seeds"),
        (["table", "--seeds", "many"], "--seeds"),
        (["tasks", "colourization"], "did you mean 'colorization'"),
        (["recipes", "rotatoin"], "unknown recipe 'rotatoin': did you mean 'rotation'"),
        (["pretrain", "rotatoin"], "unknown recipe 'rotatoin': did you mean 'rotation'"),
        (["pretrain", "no/such.yaml"], "no recipe file at no/such.yaml"),
        (["table", "rotation", "autoencodr"], "did you mean 'autoencoder'"),
        (["pretrain", "rotation", "--set", "training.epoch=1"], "did you mean 'training.epochs'"),
        (["pretrain", "rotation", "--set", "training.epochs"], "key=value"),
        (["pretrain", "rotation", "--set", "weights.cross_entropy=-1"], "at least 0"),
        (["pretrain", "rotation", "--set", "weights.cross_entropy=.nan"], "finite"),
        (["pretrain", "rotation", "--set", "weights.adversarial=1"], "'adversarial'"),
        (["pretrain", "context_encoder", "--set", "weights.adversaril=1"], "did you mean 'adversarial'"),
        (["demo", "--set", "data.sise=64"], "did you mean 'data.size'"),
        (["prepare", "shapes", "--set", "data.sise=64"], "did you mean 'data.size'"),
        (["transfer", "--encoder", "e", "--benchmark", "liner"], "did you mean 'linear'"),
        (["transfer", "--encoder", "e", "--set", "benchmark.feature=8"], "did you mean 'benchmark.features'"),
        (["transfer"], "Missing option '--encoder'"),
        (["measure"], "Missing option '--run'"),
        (["measure", "--run", "r", "--split", "train"], "--split: input should be 'val' or 'test'"),
        (["generate", "--run", "r"], "Missing option '--to'"),
        (["generate", "--run", "r", "--to", "o", "--fit", "tile"], "--fit: input should be 'whole' or 'tiles'"),
        (["generate", "--run", "r", "--to", "o", "--overlap", "1"], "less than or equal to 0.9"),
        (["pretrain", "rotation", "--set", "training.augment.crop=-1"], "training.augment.crop"),
        (["data", "verfy", "shards"], "Did you mean 'verify'"),
        (["data", "verify"], "Missing argument 'URL'"),
        (["data", "verify", "no/such", "--samples", "0"], "--samples"),
        (["data", "show", "no/such", "--count", "1001"], "--count"),
        (["local", "s3"], "Missing argument 'FOLDER'"),
        (["local", "s3", "buckets", "--port", "99999"], "--port"),
        (["local", "s3", f"{__file__}/buckets"], f"cannot make a folder at {__file__}/buckets/data (Not a directory)"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    genoise: Command, pipeline: SimpleNamespace, home: Path, arguments: list[str], said: str
) -> None:
    code, out, err = genoise(*arguments)
    assert code == 2 and out == ""
    assert said in one_line(err)
    assert not pipeline.calls and not home.exists()


def test_a_missing_folder_is_one_line_and_exit_code_2(genoise: Command, home: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for arguments in (
        ["prepare", "folder", "--root", str(missing)],
        ["prepare", "folder", "--root", str(missing), "--dry-run"],
        ["pretrain", "rotation", "--set", "data.source=folder", "--set", f"data.root={missing}"],
    ):
        code, out, err = genoise(*arguments)
        assert code == 2 and out == ""
        assert str(missing) in one_line(err)
    assert not home.exists()


@pytest.mark.parametrize("kind", [UserError, OutsideError])
def test_errors_of_pipelines_are_one_line(genoise: Command, pipeline: SimpleNamespace, kind: type[Exception]) -> None:
    pipeline.error = kind("the bucket is not there:\n  create it")
    code, _, err = genoise("table")
    assert code == 2
    assert "the bucket is not there: create it" in one_line(err)


def test_errors_of_remote_steps_are_told_without_their_traceback(genoise: Command, pipeline: SimpleNamespace) -> None:
    from ray.exceptions import RayTaskError

    cause = UserError("no images in ./photos")
    remote: Any = RayTaskError
    pipeline.error = remote("build", "Traceback ...\n" * 9, cause).as_instanceof_cause()
    code, _, err = genoise("prepare", "shapes")
    assert code == 2
    assert err == "genoise: error: no images in ./photos\n"


def test_an_interrupt_says_that_nothing_is_lost(
    genoise: Command, pipeline: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.__main__._leave_ray", lambda: None)  # which ends what other tests have started
    pipeline.error = KeyboardInterrupt()
    code, _, err = genoise("pretrain", "rotation")
    assert code == 130
    assert err.count("\n") == 1 and "finished steps stay finished" in err


def test_what_is_unexpected_keeps_its_traceback(genoise: Command, pipeline: SimpleNamespace) -> None:
    pipeline.error = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError, match="ours"):
        genoise("table")


def test_commands_hand_over_what_was_typed(genoise: Command, pipeline: SimpleNamespace, tmp_path: Path) -> None:
    place = ["--home", str(tmp_path), "--tracking-uri", "http://h:5", "--address", "auto", "--quiet"]
    assert genoise("pretrain", "rotation", "--set", "training.epochs=2", *place)[0] == 0
    recipe, session = pipeline.calls.pop()
    assert (recipe.name, recipe.training.epochs) == ("rotation", 2)
    assert session == Session(tmp_path, "http://h:5", "auto", dry_run=False, quiet=True)

    assert genoise("prepare", "folder", "--root", "in", "--to", "out", "--set", "data.size=64")[0] == 0
    data, _ = pipeline.calls.pop()
    assert (data.source, data.root, data.url, data.size) == ("folder", "in", "out", 64)

    assert genoise("transfer", "--encoder", "e", "--source", "cifar10", "--set", "benchmark.features=64")[0] == 0
    encoder, benchmark, data, _ = pipeline.calls.pop()
    assert (encoder, benchmark.name, benchmark.features, data.source) == ("e", "linear", 64, "cifar10")

    arguments = ["--run", "r", "--extractor", "e", "--split", "test", "--samples", "9", "--set", "data.root=x"]
    code, out, err = genoise("measure", *arguments, "--classifier", "c")
    assert code == 0 and "21.5" in out and "few samples" in err
    wanted, _ = pipeline.calls.pop()
    assert (wanted.run, wanted.extractor, wanted.config.split, wanted.config.samples) == ("r", "e", "test", 9)
    assert (wanted.overrides, wanted.classifier) == (["data.root=x"], "c")

    assert genoise("generate", "--run", "r", "--to", "o", "--images", "i", "--fit", "tiles", "--dry-run")[0] == 0
    trained, wanted, session = pipeline.calls.pop()
    assert (trained, wanted.to, wanted.images, wanted.fit, session.dry_run) == (
        "r",
        Path("o"),
        Path("i"),
        "tiles",
        True,
    )

    assert genoise("table", "rotation", "autoencoder", "--seeds", "3")[0] == 0
    rows, seeds, _ = pipeline.calls.pop()
    assert ([row.name for row in rows], seeds) == (["rotation", "autoencoder"], 3)

    assert genoise("table")[0] == 0
    assert _names(pipeline) == list(comparable())
    assert genoise("demo")[0] == 0
    assert _names(pipeline) == list(DEMO)


def _names(pipeline: SimpleNamespace) -> list[str]:
    rows: list[Recipe] = pipeline.calls.pop()[0]
    return [row.name for row in rows]


def test_the_environment_sets_home_and_server(
    genoise: Command, pipeline: SimpleNamespace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5")
    genoise("pretrain", "rotation")
    session = pipeline.calls.pop()[-1]
    assert (session.home, session.tracking_uri, session.tracking) == (home, "http://h:5", "http://h:5")


def test_a_home_may_start_with_a_tilde(
    genoise: Command, pipeline: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    genoise("table", "--home", "~/genoise")
    assert pipeline.calls[-1][-1].home == tmp_path / "genoise"


def test_the_default_server_is_a_file_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Session(Path("h")).tracking == f"sqlite:///{tmp_path}/h/mlflow.db"


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["demo"], {"rows"}),
        (["table", "rotation"], {"rows"}),
        (["prepare", "shapes"], {"run_id", "fingerprint", "reused", "value"}),
        (["pretrain", "rotation"], {"run_id", "fingerprint", "reused", "value"}),
        (["transfer", "--encoder", "e"], {"run_id", "fingerprint", "reused", "value"}),
        (["measure", "--run", "r"], {"run_id", "fingerprint", "reused", "value"}),
        (["generate", "--run", "r", "--to", "o"], {"made"}),
        (["generate", "--run", "r", "--to", "o", "--dry-run"], {"made"}),
        (["tasks", "rotation"], {"tasks"}),
        (["recipes"], {"recipes"}),
        (["benchmarks"], {"benchmarks"}),
        (["recipes", "rotation"], set(Recipe.model_fields)),
    ],
)
def test_json_is_the_last_line(
    genoise: Command, pipeline: SimpleNamespace, arguments: list[str], keys: set[str]
) -> None:
    _, plain, _ = genoise(*arguments)
    code, out, _ = genoise(*arguments, "--json")
    assert code == 0 and out.startswith(plain)
    assert json.loads(out.splitlines()[-1]).keys() == keys


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["table"],
        ["prepare", "shapes"],
        ["pretrain", "rotation"],
        ["transfer", "--encoder", "e"],
        ["measure", "--run", "r"],
    ],
)
def test_a_dry_run_says_what_would_run(genoise: Command, pipeline: SimpleNamespace, arguments: list[str]) -> None:
    code, out, _ = genoise(*arguments, "--dry-run", "--json")
    assert code == 0
    assert pipeline.calls[0][-1].dry_run
    assert "be reused" in out and "abababababab" in out
    steps = json.loads(out.splitlines()[-1])["steps"]
    assert [(step["step"], step["would"]) for step in steps] == [("prepare", "be reused"), ("pretrain", "run")]


def test_tasks_shows_terms_and_options(genoise: Command) -> None:
    code, out, _ = genoise("tasks", "context_encoder", "--json")
    assert code == 0
    (task,) = json.loads(out.splitlines()[-1])["tasks"]
    assert {"l2", "adversarial", "discriminator"} == set(task["terms"])
    for name, term in task["terms"].items():
        low, high = term["search"]
        assert 0 < low < high
        assert f"{name}" in out and f"{term['weight']:g}" in out and f"{low:g} to {high:g}" in out
    for name, option in task["options"].items():
        assert name in out and option["description"]


def test_benchmarks_shows_the_keys_of_each(genoise: Command) -> None:
    code, out, _ = genoise("benchmarks", "linear_20k", "--json")
    assert code == 0 and "linear_20k: Logistic regression" in out
    (benchmark,) = json.loads(out.splitlines()[-1])["benchmarks"]
    assert benchmark["keys"]["samples"]["default"] == 20_000 and benchmark["keys"]["features"]["range"] == ">= 16"
    assert "unknown benchmark 'liner': did you mean 'linear'?" in genoise("benchmarks", "liner")[2]


def test_tasks_says_which_terms_need_an_option(genoise: Command) -> None:
    _, out, _ = genoise("tasks", "bigan", "--json")
    (task,) = json.loads(out.splitlines()[-1])["tasks"]
    assert {name: term["default"] for name, term in task["terms"].items()} == {
        "discriminator": True,
        "adversarial": True,
        "latent": False,
    }
    assert "latent (optional, by option)" in out and "adversarial (" not in out
    _, out, _ = genoise("tasks", "cgan", "--json")
    assert json.loads(out.splitlines()[-1])["tasks"][0]["needs"] == ["image", "label"]


def test_a_shown_recipe_is_a_recipe(genoise: Command, tmp_path: Path) -> None:
    _, shown, _ = genoise("recipes", "colorization", "--set", "training.epochs=1")
    (tmp_path / "mine.yaml").write_text(shown)
    _, again, _ = genoise("recipes", str(tmp_path / "mine.yaml"))
    assert again == shown and "epochs: 1.0" in shown


# Looking at what was done


def test_the_interface_is_served_until_it_ends(genoise: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import infra.local

    class Served:
        url, log = "http://127.0.0.1:5001", Path("server.log")

        def __enter__(self) -> "Served":
            return self

        def __exit__(self, *error: object) -> None:
            self.stopped = True

        def wait(self) -> int:
            raise KeyboardInterrupt

    def serve(folder: Path, port: int) -> Served:
        asked.append((folder, port))
        return server

    server, asked = Served(), list[tuple[Path, int]]()
    monkeypatch.setattr(infra.local, "serve_mlflow", serve)
    monkeypatch.setattr(Tracker, "page", lambda tracker, at: f"{at}/page")
    code, _, err = genoise("ui", "--home", str(home))
    assert (code, asked) == (2, []) and "genoise demo" in err
    home.mkdir(parents=True, exist_ok=True)
    (home / "mlflow.db").touch()
    code, _, err = genoise("ui", "--home", str(home), "--port", "5001")
    assert (code, asked, server.stopped) == (0, [(home, 5001)], True)
    assert f"{server.url}/page" in err and "same command" not in err
    code, out, _ = genoise("ui", "--home", str(home), "--json")
    assert json.loads(out) == {"url": server.url, "page": f"{server.url}/page", "home": str(home)}


def test_a_bucket_is_served_and_said_to_machines(
    genoise: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import infra.local

    served = MagicMock(url="http://127.0.0.1:9000", environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})
    served.__enter__.return_value = served
    served.wait.side_effect = KeyboardInterrupt
    monkeypatch.setattr(infra.local, "serve_s3", lambda *arguments, **options: served)
    code, out, _ = genoise("local", "s3", str(tmp_path), "--json")
    assert code == 0 and out.splitlines()[0] == "export AWS_ENDPOINT_URL=http://127.0.0.1:9000"
    said = {"url": served.url, "folder": str(tmp_path), "environment": served.environment}
    assert json.loads(out.splitlines()[-1]) == said
