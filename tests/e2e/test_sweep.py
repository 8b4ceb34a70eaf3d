"""Sweeps, whole: on one machine, killed and continued, on a cluster too small for all trials, as a population."""

import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.tracking import open_tracker
from pipelines.recipes import load_recipe
from pipelines.sweeps.proposals import FIRST, random_point
from pipelines.sweeps.space import Choices, Range, Space
from tests.e2e.jobs import TINY, Home, kill, sets

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("sweep"), pytest.mark.timeout(900)]

TRIALS = 3
SETTINGS = {**TINY, "training.probe_every": 0.5, "training.checkpoint_every": 4, "training.log_every": 4}
SWEEP = ["sweep", "context_encoder", "--searcher", "random", "--json", "--quiet", *sets(SETTINGS)]
COMMAND = [*SWEEP, "--trials", str(TRIALS), "--seeds", "2"]
SEARCH = [*SWEEP, "--trials", str(TRIALS), "--seeds", "0"]  # the same trials, without the verdict
SPACE: dict[str, Range | Choices] = {  # of the task's terms
    "weights.l2": Range(low=0.1, high=10.0),
    "weights.adversarial": Range(low=1e-4, high=1.0, off=0.2),
    "weights.discriminator": Range(low=0.1, high=10.0, off=0.2),
}
MakeHome = Callable[..., Home]


def ledger(home: Home) -> tuple[dict[int, Any], dict[int, Any]]:
    """({number: proposal}, {number: record}) of the one sweep in this home."""
    proposals, records = {}, {}
    for path in (home.folder / "runs").glob("*/trials.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "proposal" in entry:
                proposals[entry["proposal"]["number"]] = entry["proposal"]
            else:
                records[entry["record"]["proposal"]["number"]] = entry["record"]
    return proposals, records


def points(home: Home) -> dict[int, Any]:
    """{number: point} of all trials."""
    return {number: proposal["point"] for number, proposal in ledger(home)[0].items()}


def trainings(home: Home) -> dict[str, list[Any]]:
    """By fingerprint, the runs of all trainings."""
    found: dict[str, list[Any]] = {}
    for run in home.runs():
        if run.data.tags.get("genoise.step") == "pretrain":
            found.setdefault(run.data.tags["genoise.fingerprint"], []).append(run)
    return found


def finished(home: Home) -> dict[str, int]:
    """{id of a finished training's run: when it ended}."""
    return {
        r.info.run_id: r.info.end_time for runs in trainings(home).values() for r in runs if r.info.status == "FINISHED"
    }


@pytest.fixture(scope="module")
def swept(new_home: MakeHome) -> tuple[Home, Any]:
    """A home in which a sweep has run undisturbed, and what it said."""
    home = new_home()
    return home, home.run(*COMMAND).last


def test_a_sweep_says_what_it_found(swept: tuple[Home, Any]) -> None:
    home, said = swept
    proposals, records = ledger(home)
    assert {p["name"] for p in proposals.values()} >= {"published", "rescaled", "trial 0", f"trial {TRIALS - 1}"}
    assert len(records) == TRIALS + 2 and {r["state"] for r in records.values()} == {"finished"}
    own = {n: r["values"]["linear"] for n, r in records.items() if n >= 2}
    assert said["validation"]["linear"] == max(own.values())
    assert said["point"].keys() == {"weights.l2", "weights.adversarial", "weights.discriminator"}
    (sentence,) = said["verdict"]
    assert re.fullmatch(
        r"context_encoder: (better|worse|no better) than published: [+-]\d+\.\d\d ± \d+\.\d\d points of test top-1 "
        r"\(95 %, 2 fresh seeds, paired\)",
        sentence,
    )
    assert said["cost"]["trials"] == TRIALS + 2 and said["cost"]["images"] == (TRIALS + 1) * 512


def test_the_test_split_is_touched_by_the_verdict_alone(swept: tuple[Home, Any]) -> None:
    home, _ = swept
    for run in home.runs():
        if run.data.tags.get("genoise.step") == "validate":
            assert not any("test" in key for key in run.data.metrics)
    tested = [run for run in home.runs() if run.data.tags.get("genoise.step") == "transfer"]
    assert len(tested) == 4 and not any("seed 0" in run.info.run_name for run in tested)


def test_trials_are_runs_below_the_sweep_and_steps_below_their_trial(swept: tuple[Home, Any]) -> None:
    home, said = swept
    runs = {run.info.run_id: run for run in home.runs()}
    trials = [run for run in runs.values() if run.data.tags.get("genoise.kind") == "trial"]
    assert len(trials) == TRIALS + 2
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {said["run_id"]}
    own = [run for run in trials if run.info.run_name.startswith("trial")]
    for run in own:
        assert run.data.params.keys() == said["point"].keys() and run.data.metrics["linear"] > 0
        below = [r for r in runs.values() if r.data.tags.get("mlflow.parentRunId") == run.info.run_id]
        assert sorted(r.data.tags["genoise.step"] for r in below) == ["pretrain", "validate"]
    best = home.client().get_metric_history(said["run_id"], "best/linear")
    values = [metric.value for metric in sorted(best, key=lambda metric: metric.step)]
    assert values == sorted(values) and len(values) == TRIALS


def test_the_page_needs_no_other_file(swept: tuple[Home, Any]) -> None:
    home, said = swept
    page = open_tracker(home.folder).read_text(said["run_id"], "report.html")
    assert said["verdict"][0] in page and page.count("data:image/png;base64,") >= 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    names = {file.path for file in home.client().list_artifacts(said["run_id"], "report")}
    assert names >= {f"report/{name}.png" for name in ("parallel", "importance", "responses", "progress", "verdict")}


def test_the_winner_is_a_recipe_and_a_model(swept: tuple[Home, Any]) -> None:
    home, said = swept
    (path,) = said["recipes"]
    recipe = load_recipe(path)
    assert {f"weights.{term}": weight for term, weight in recipe.weights.items()} == said["point"]
    assert said["run_id"] in Path(path).read_text().splitlines()[0]
    assert open_tracker(home.folder).models.fetch_encoder(
        "models:/genoise-sweep-context_encoder@best", home.folder / "cache"
    )
    assert home.run("pretrain", path, "--json", "--quiet").last["reused"] is True


def test_the_same_command_again_runs_nothing(swept: tuple[Home, Any], tmp_path: Path) -> None:
    home, said = swept
    before = finished(home)
    again = home.run(*COMMAND, environment={"RAY_TMPDIR": str(tmp_path)})
    assert again.last == said and finished(home) == before
    assert not list(tmp_path.iterdir())  # where Ray starts, it leaves its logs


def check_continued(home: Home, before: dict[str, int], undisturbed: Home) -> None:
    """The same trials as undisturbed, and none that had finished was run again."""
    assert points(home) == points(undisturbed)
    after = finished(home)
    assert before.items() <= after.items()
    assert all(len(runs) == 1 for runs in trainings(home).values())
    found, expected = ({n: r["values"] for n, r in ledger(h)[1].items()} for h in (home, undisturbed))
    assert found == expected


def test_a_killed_worker_and_a_killed_driver_cost_no_trial(
    new_home: MakeHome, swept: tuple[Home, Any], refused: Callable[..., str]
) -> None:
    """... and the sweep is continued in the same space alone."""
    home = new_home()
    running = home.start(*SEARCH)
    running.wait_until(lambda: len(ledger(home)[1]) >= 2 and running.processes("RayTrainWorker"))
    kill(running.processes("RayTrainWorker")[0])
    running.wait_until(lambda: len(ledger(home)[1]) >= 3)
    running.kill()
    before = finished(home)
    assert before and len(ledger(home)[1]) < TRIALS + 2
    run_id = home.step_run("sweep").info.run_id

    said = refused(home, *SEARCH, "--set", "search={weights.l2: {low: 1, high: 2}}")
    assert "begun with another space (it differs in weights.adversarial, weights.discriminator, weights" in said

    assert home.run(*SEARCH).last["run_id"] == run_id
    check_continued(home, before, swept[0])


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of four nodes on this machine: the driver's, without cores, and three of one core."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()  # type: ignore[no-untyped-call]  # Ray's own


def test_trials_of_two_workers_on_three_places_of_which_one_is_lost(new_home: MakeHome, cluster: Any) -> None:
    """Two trials would need four places: they must not wait for each other. Later one node is killed."""
    home, count = new_home(), 3
    settings = sets({"training.workers": 2})
    running = home.start(*SWEEP, "--trials", str(count), "--seeds", "0", *settings, "--address", cluster.address)
    running.wait_until(lambda: len(ledger(home)[1]) >= 3)  # both references, and a trial
    before = finished(home)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    said = running.wait().last
    assert said["states"] == {"finished": count}, {n: record["why"] for n, record in ledger(home)[1].items()}
    assert before.items() <= finished(home).items()
    assert all(len(runs) == 1 for runs in trainings(home).values())
    undisturbed = [random_point(Space(SPACE), 0, number) for number in range(FIRST, FIRST + count)]
    assert [points(home)[number] for number in range(FIRST, FIRST + count)] == undisturbed


def test_a_population_leaves_a_schedule_that_can_be_replayed(new_home: MakeHome) -> None:
    home = new_home()
    settings = {"training.record_ids": True}
    command = [*SWEEP, "--trials", "3", "--seeds", "0", "--scheduler", "pbt", *sets(settings)]
    said = home.run(*command).last
    schedule = max((p for p in points(home).values()), key=lambda point: len(point.get("weight_changes", {})))
    assert schedule["weight_changes"]  # somebody was replaced
    ids = (home.folder / "runs").glob("*/ids/rank-0.jsonl")
    begun = {json.loads(path.read_text().splitlines()[0])["step"] for path in ids}
    assert {0, 8} <= begun  # ... and went on from where its donor was
    (path,) = said["recipes"]
    found = home.run("pretrain", path, "--json", "--quiet").last
    assert found["reused"] is True
    replayed = new_home()
    shutil.copy(path, replayed.folder / "winner.yaml")
    again = replayed.run("pretrain", str(replayed.folder / "winner.yaml"), "--json", "--quiet").last
    winner = next(r for r in ledger(home)[1].values() if r["proposal"]["name"] == said["winner"])
    assert [[p["step"], p["score"]] for p in again["value"]["probes"]] == winner["probes"]
    files = [each.encoder_file(done["run_id"]) for each, done in ((replayed, again), (home, found))]
    assert files[0] == files[1]  # bit for bit


def few_digits(mnist: Path, to: Path) -> None:
    """The first 3,000 + 500 of MNIST's digits, in its own format."""
    to.mkdir()
    for split, count in (("train", 3000), ("t10k", 500)):
        for kind, head, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            name = f"{split}-{kind}-ubyte.gz"
            content = gzip.decompress((mnist / name).read_bytes())
            cut = content[:4] + count.to_bytes(4, "big") + content[8 : head + count * size]
            (to / name).write_bytes(gzip.compress(cut))


def test_one_vector_for_several_tasks(shared_data: Path, tmp_path: Path) -> None:
    """On digits, where a short training closes a gap that is none of chance."""
    few_digits(shared_data / "mnist", tmp_path / "mnist")
    home = Home(tmp_path / "home")
    settings = {key: value for key, value in SETTINGS.items() if not key.startswith("data.")} | {
        "data.source": "mnist",
        "data.root": str(tmp_path / "mnist"),
        "data.validation": 0.8,
        "training.epochs": 3,
        "training.probe_every": 3,
        "training.checkpoint_every": 1000,
    }
    command = ["sweep", "--universal", "context_encoder", "autoencoder", "--json", "--quiet", *sets(settings)]
    try:
        said = home.run(*command, "--trials", "1", "--searcher", "random", "--seeds", "1").last
    finally:
        home.end()
    assert said["validation"].keys() == {"universal"} and len(said["recipes"]) == 2
    (first, *_) = said["verdict"]
    assert first.startswith("universal: ") and "of the gap between random and supervised" in first
    assert len(said["verdict"]) == 6  # the mean and each task, against published and own best


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "20 images"], "a budget of 20 images is too small: the published weights and one trial need"),
        (["--objective", "linaer"], "unknown objective 'linaer': did you mean 'linear'?"),
        (["--set", "search={weights.l2: {low: 2, high: 1}}"], "search.weights.l2: an empty range, from 2 to 1"),
        (["--set", "search={weights.l3: {low: 1, high: 2}}"], "no term 'l3': did you mean 'l2'?"),
    ],
)
def test_wrong_input_is_one_line(
    swept: tuple[Home, Any], refused: Callable[..., str], arguments: list[str], said: str
) -> None:
    for dry in ([], ["--dry-run"]):
        assert said in refused(swept[0], *SWEEP, "--name", "another", *arguments, *dry)
