"""Recipes: the built-in ones build, files extend each other, and what is wrong is said in one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from components.errors import UserError
from components.tasks.base import Parts, Task, all_tasks, build_task, parts_of, resolve_weights
from components.transfer.protocol import get_protocol
from pipelines.recipes import (
    BUILT_IN,
    DEMO,
    DEMO_SETTINGS,
    check_recipe,
    comparable,
    load_places,
    load_recipe,
    load_recipes,
    recipes,
    write_recipe,
)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", recipes())
def test_built_in_recipes_build_their_task(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.summary
    assert check_recipe(recipe) == recipe
    task = build_task(recipe.task, recipe.options, recipe.encoder, recipe.data.size, classes=10, seed=0)
    weights = resolve_weights(task.name, task.terms, recipe.weights)
    assert parts_of(recipe.task, recipe.options) == Parts(task.terms, task.players, task.needs)
    assert all(weight > 0 for weight in weights.values())
    assert bool(task.players) == bool(weights) == (recipe.training.epochs > 0)
    maps = task.encoder().eval()(torch.zeros(2, 3, recipe.data.size, recipe.data.size))
    assert [map_.shape[0] for map_ in maps.values()] == [2] * len(maps)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_checked_without_building_its_task(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*_: Any, **__: Any) -> None:
        raise AssertionError("a task was built")

    monkeypatch.setattr(Task, "__init__", built)
    check_recipe(load_recipe(name))


WITHOUT_LATENT = r"weights.latent: with these options task 'bigan' has no such term, but discriminator, adversarial: "


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("bigan", ["weights.latent=0.5"], WITHOUT_LATENT + "leave it out, or set the option that brings it"),
        ("bigan", ["weight_changes={2: {latent: 1}}"], WITHOUT_LATENT),
        ("bigan", ["weights.latnet=0.5"], "task 'bigan' has no term 'latnet': did you mean 'latent'"),
        ("bigan", ["search={weights.latent: [0.1, 1]}"], f"search: weights.latent=0.1: {WITHOUT_LATENT}"),
        (
            "bigan",
            ["options.regress=true", "search={options.regress: [true, false], weights.latent: [0.1, 1]}"],
            f"search: options.regress=False, weights.latent=1: {WITHOUT_LATENT}",
        ),
        ("bigan", ["search={options.form: [hinge, hing]}"], "search: options.form=hing: options.form"),
        ("bigan", ["search={data.size: [32, 64]}"], "unknown key to sweep 'data.size'"),
        ("random", ["training.players.critic.lr=1"], "unknown player of task 'random': 'critic'"),
    ],
)
def test_what_the_options_do_not_bring_is_refused(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_recipe(load_recipe(name, overrides))
    assert "\n" not in str(error.value)


def test_a_term_may_be_weighted_and_searched_where_an_option_brings_it() -> None:
    both = "search={options.form: [hinge, minimax], weights.latent: {low: 0.1, high: 1}}"
    for settings in (["weights.latent=0.5"], ["search={weights.latent: [0.1, 1]}"], [both]):
        recipe = load_recipe("bigan", ["options.regress=true", *settings])
        assert check_recipe(recipe) == recipe


def test_built_in_tasks_have_a_recipe() -> None:
    # Not every task there is: one new file is a new task, and may be named in a recipe of one's own.
    tasks = {"autoencoder", "colorization", "context_encoder", "rotation", "supervised", "random", "rescaled"}
    tasks |= {"gan", "cgan", "bigan", "pix2pix", "cyclegan"}
    tasks |= {"split_brain", "super_resolution", "jigsaw", "context_prediction", "masked_autoencoder", "simclr"}
    assert tasks <= {load_recipe(name).task for name in recipes()} <= set(all_tasks())


def test_the_variants_differ_where_their_names_say() -> None:
    assert load_recipe("colorization").options == {}
    assert load_recipe("colorization_uniform").options == {"rebalance": None}
    assert load_recipe("colorization_regression").options == {"target": "regression"}
    assert load_recipe("denoising_autoencoder").options == {"drop": 0.5}


def test_demo_has_the_rows_it_promises() -> None:
    rows = load_recipes(DEMO, DEMO_SETTINGS)
    assert {"rotation", "colorization", "context_encoder", "random", "rescaled", "supervised"} <= {r.name for r in rows}
    assert {row.training.workers for row in rows} == {2}


def test_the_base_is_no_recipe() -> None:
    assert (BUILT_IN / "base.yaml").is_file() and "base" not in recipes()
    with pytest.raises(UserError, match="unknown recipe 'base'"):
        load_recipe("base")


def test_a_file_extends_built_in_recipes_and_other_files(tmp_path: Path) -> None:
    write(
        tmp_path / "mine.yaml", "extends: colorization\nsummary: s\ntraining: {epochs: 1}\nweights: {cross_entropy: 2}"
    )
    recipe = load_recipe(write(tmp_path / "yours.yaml", "extends: mine.yaml\ntraining:\n  batch: 64\n"))
    assert (recipe.name, recipe.summary, recipe.task) == ("yours", "", "colorization")
    assert (recipe.training.epochs, recipe.training.batch) == (1, 64)
    assert recipe.weights == {"cross_entropy": 2}


def test_overrides_are_yaml_under_dotted_keys() -> None:
    settings = ["training.optimizer.lr=1e-3", "training.clip=null", "data.source=folder", "training.augment={shift: 2}"]
    recipe = load_recipe("rotation", settings)
    assert recipe.training.optimizer == {"lr": 0.001}
    assert recipe.training.clip is None and recipe.data.source == "folder"
    assert (recipe.training.augment.flip, recipe.training.augment.shift) == (True, 2)
    assert recipe.training.batch == load_recipe("rotation").training.batch


def test_the_last_override_wins() -> None:
    assert load_recipe("rotation", ["training.epochs=1", "training.epochs=2"]).training.epochs == 2


@pytest.mark.parametrize(("size", "stem"), [(32, "small"), (95, "small"), (96, "large"), (224, "large")])
def test_the_stem_follows_the_size_of_the_images(size: int, stem: str) -> None:
    assert load_recipe("rotation", [f"data.size={size}"]).encoder.stem == stem
    assert load_recipe("rotation", [f"data.size={size}", "encoder.stem=small"]).encoder.stem == "small"


def test_a_written_recipe_reads_back_as_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("context_encoder", ["training.optimizer.lr=1e-5", "data.size=128", "weights.l2=1"])
    assert load_recipe(write(tmp_path / "copy.yaml", write_recipe(recipe))) == recipe


def test_tasks_that_train_nothing_have_no_epochs() -> None:
    (recipe,) = load_recipes(["random"], ["training.epochs=3"])
    assert recipe.training.epochs == 0


def test_places_are_data_and_benchmark() -> None:
    places = load_places("folder", "images", overrides=["data.size=64", "benchmark.features=256"])
    assert (places.data.source, places.data.root, places.data.size) == ("folder", "images", 64)
    assert places.benchmark == get_protocol("linear").model_copy(update={"features": 256})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epoch=1"], "unknown key 'training.epoch': did you mean 'training.epochs'"),
        (["epochs=1"], "unknown key 'epochs': did you mean 'training.epochs'"),
        (["epoch=1"], "unknown key 'epoch': did you mean 'training.epochs'"),
        (["batch=1"], "did you mean 'training.batch'"),
        (["lr=1"], "did you mean 'training.optimizer.lr'"),
        (["width=8"], "did you mean 'encoder.width'"),
        (["flip=false"], "did you mean 'training.augment.flip'"),
        (["seed=1"], "did you mean 'data.seed' or 'training.seed'"),
        (["data.width=1"], "did you mean 'encoder.width'.* data.validation"),
        (["trainig.epochs=1"], "unknown key 'trainig': did you mean 'training'"),
        (["training.epochs=many"], "training.epochs: .*'many'"),
        (["training.epochs"], "must be key=value"),
        (["=1"], "must be key=value"),
        (["training.batch=["], "not valid YAML"),
        (["training.batch=0"], "training.batch: .*greater than or equal to 1"),
        (["weights.cross_entropy=-1"], "weights.cross_entropy must be a finite number of at least 0"),
        (["weights.cross_entropy=.nan"], "weights.cross_entropy: .*finite"),
        (["weights.cross_entropy=.inf"], "weights.cross_entropy: .*finite"),
        (["weights.l1=1"], "'l1'; .*cross_entropy"),
        (["task=rotatoin"], "unknown task 'rotatoin': did you mean 'rotation'"),
        (["options.angle=1"], "unknown key 'options.angle'"),
        (["encoder.name=alexnets"], "unknown encoder 'alexnets': did you mean 'alexnet'"),
        (["training.optimizer.rate=1"], "unknown key 'training.optimizer.rate'"),
        (["training.players.critic.lr=1"], "unknown player"),
        (["benchmarks=[liner]"], "unknown benchmark 'liner': did you mean 'linear'"),
    ],
)
def test_wrong_settings_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_recipes(["rotation"], overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: rotation\ntask: random\n", "line 1: .*'task' is there twice"),
        ("task: [\n", "line 2: not valid YAML"),
        ("- rotation\n", "`key: value` lines"),
        ("", "`key: value` lines"),
        ("extends: rotatoin\n", "unknown recipe 'rotatoin': did you mean 'rotation'"),
        ("extends: other.yaml\n", "no recipe file at .*other.yaml"),
        ("extends: recipe.yaml\n", "extends itself"),
        ("summary: no task\n", "task: field required"),
        ("task: rotation\nepochs: 3\n", "unknown key 'epochs'"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "recipe.yaml", text)
    with pytest.raises(UserError, match=message) as error:
        load_recipe(path)
    assert str(error.value).startswith(path) and "\n" not in str(error.value)


def test_a_fault_is_told_with_the_file_that_has_it(tmp_path: Path) -> None:
    def said(overrides: Sequence[str] = ()) -> str:
        with pytest.raises(UserError) as error:
            load_recipes([child], overrides)
        return str(error.value)

    parent, child = tmp_path / "parent.yaml", write(tmp_path / "child.yaml", "extends: parent.yaml\n")
    write(parent, "extends: nowhere\n")
    assert said().startswith(f"{parent}: extends: unknown recipe 'nowhere'")
    write(parent, "extends: rotation\nepochs: 3\n")
    assert said().startswith(f"{parent}: unknown key 'epochs': did you mean 'training.epochs'")
    write(parent, "extends: rotation\noptions: {angle: 3}\n")
    assert said().startswith(f"{parent}: unknown key 'options.angle'")
    write(parent, "summary: nothing else\n")
    assert said() == f"{child}: task: field required"
    write(parent, "extends: child.yaml\n")
    assert said().startswith(f"{child}: extends itself, by way of child.yaml, parent.yaml")
    write(parent, "extends: rotation\n")
    assert said(["training.batch=0"]).startswith("training.batch: ")  # --set said it, and no file


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rotation.yaml", "extends: rotation\n")
    with pytest.raises(UserError, match=rf"two recipes are called 'rotation'.*rotation and {path}"):
        load_recipes(["rotation", path])


def test_an_error_among_several_recipes_names_the_recipe() -> None:
    with pytest.raises(UserError, match=r"recipe 'autoencoder': task 'autoencoder' has no term 'cross_entropy'"):
        load_recipes(["rotation", "autoencoder"], ["weights.cross_entropy=1"])


def test_rows_that_are_comparable_differ_by_their_task_alone() -> None:
    found = {name: load_recipe(name) for name in comparable()}
    assert {"random", "supervised", "colorization_uniform", "gan", "cyclegan"} <= found.keys()
    assert not {"pix2pix_pairs", "cyclegan_unpaired", "dcgan", "sngan", "rotation_nin"} & found.keys()
    assert len({(each.data.model_dump_json(), each.encoder.model_dump_json()) for each in found.values()}) == 1
