"""Pictures from trained tasks: every image has one, in its own size and under its name; noise has a seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from components.errors import UserError
from pipelines.generate import generate, plan
from pipelines.picture_requests import PictureRequest
from pipelines.session import Session
from pipelines.training.task_files import FORMAT, TASK_FILE
from tests.pipelines.trained import CLASSES, trained

SIZES = {
    "wide.jpg": (50, 16),
    "sub/tall.png": (17, 40),
    "tiny.png": (5, 7),
    "twice.jpg": (20, 20),
    "twice.png": (9, 30),
}
Pixels = NDArray[np.uint8]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images of odd sizes, in colour and grey, and two that are broken."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels[..., 0] if name == "tiny.png" else pixels).save(folder / name)
    whole = (folder / "wide.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    return folder


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "home", quiet=True)


def pictures(folder: Path) -> dict[str, Pixels]:
    """{path below the folder: (H, W, 3)}; there is nothing but pictures."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with Image.open(path) as image:
            found[path.relative_to(folder).as_posix()] = np.asarray(image)
    return found


@pytest.mark.parametrize("fit", ["whole", "tiles"])
def test_every_image_has_a_picture_of_its_size(images: Path, tmp_path: Path, session: Session, fit: str) -> None:
    asked_for = PictureRequest.parse({"to": tmp_path / "out", "images": images, "fit": fit})
    task = str(trained(tmp_path / "task", "colorization"))
    assert plan(task, asked_for, session)["pictures"] == len(SIZES) + 2
    assert not asked_for.to.exists()
    result = generate(task, asked_for, session)
    found = pictures(asked_for.to)
    names = {"sub/tall.png", "tiny.png", "twice.jpg.png", "twice.png.png", "wide.png"}
    assert set(found) == names
    sizes = {**SIZES, "wide.png": SIZES["wide.jpg"], "twice.jpg.png": (20, 20), "twice.png.png": (9, 30)}
    assert all(found[name].shape == (*sizes[name][::-1], 3) for name in names)
    assert (result["made"], result["skipped_count"]) == (5, 2)
    assert "cut.jpg: " in result["skipped"][0] and "empty.png: empty file" in result["skipped"][1]


def test_pictures_are_what_the_task_shows(images: Path, tmp_path: Path, session: Session) -> None:
    """Another title of the same task: an autoencoder's truth is the image itself."""
    asked_for = PictureRequest(to=tmp_path / "out", images=images / "sub", title="truth", fit="tiles")
    generate(str(trained(tmp_path / "task", "autoencoder")), asked_for, session)
    assert np.array_equal(pictures(asked_for.to)["tall.png"], pictures(images / "sub")["tall.png"])


def test_one_image_and_a_larger_picture(images: Path, tmp_path: Path, session: Session) -> None:
    asked_for = PictureRequest(to=tmp_path / "out", images=images / "wide.jpg", enlarge=2, fit="tiles")
    generate(str(trained(tmp_path / "task", "super_resolution")), asked_for, session)
    assert pictures(asked_for.to)["wide.png"].shape == (32, 100, 3)


def test_pictures_that_are_there_are_kept(images: Path, tmp_path: Path, session: Session) -> None:
    task = str(trained(tmp_path / "task", "autoencoder"))
    asked_for = PictureRequest(to=tmp_path / "out", images=images)
    asked_for.to.mkdir()
    (asked_for.to / "tiny.png").write_text("mine")
    for make in (generate, plan):
        with pytest.raises(UserError, match=r"1 of 7 pictures are in .* already \(tiny.png\).*--overwrite"):
            make(task, asked_for, session)
    assert (asked_for.to / "tiny.png").read_text() == "mine" and len(list(asked_for.to.iterdir())) == 1
    generate(task, asked_for.model_copy(update={"overwrite": True}), session)
    assert pictures(asked_for.to)["tiny.png"].shape == (7, 5, 3)
    with pytest.raises(UserError, match="is the folder of the images"):
        generate(task, PictureRequest(to=images, images=images, overwrite=True), session)


def test_noise_is_a_matter_of_the_seed_alone(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    task = str(trained(tmp_path / "task", "gan", latent=8))
    for name, seed, count, batch in (("a", 1, 5, 32), ("b", 1, 7, 2), ("c", 2, 5, 32)):
        monkeypatch.setattr("pipelines.generate.BATCH", batch)
        result = generate(task, PictureRequest(to=tmp_path / name, seed=seed, count=count), session)
        assert (result["made"], result["title"]) == (count, "prediction")
    a, b, c = (pictures(tmp_path / name) for name in "abc")
    assert set(a) == {*(f"{k:06d}.png" for k in range(5)), "grid.png"} and len(b) == 8
    assert all(np.array_equal(a[name], b[name]) for name in a if name != "grid.png")
    assert not np.array_equal(a["000000.png"], c["000000.png"])
    assert not np.array_equal(a["000000.png"], a["000001.png"])


def test_classes_take_turns_or_one_is_asked_for(tmp_path: Path, session: Session) -> None:
    task = str(trained(tmp_path / "task", "cgan", latent=8))
    generate(task, PictureRequest(to=tmp_path / "all", count=4), session)
    assert set(pictures(tmp_path / "all")) == {"grid.png", *(f"{k:06d}-class{k % CLASSES}.png" for k in range(4))}
    generate(task, PictureRequest(to=tmp_path / "one", count=2, label=2), session)
    one, every = pictures(tmp_path / "one"), pictures(tmp_path / "all")
    assert set(one) == {"grid.png", "000000-class2.png", "000001-class2.png"}
    assert not np.array_equal(one["000001-class2.png"], every["000001-class1.png"])
    with pytest.raises(UserError, match="--label 3: there are 3 classes, 0 to 2"):
        generate(task, PictureRequest(to=tmp_path / "none", label=3), session)


def test_a_task_of_both_kinds(images: Path, tmp_path: Path, session: Session) -> None:
    task = str(trained(tmp_path / "task", "bigan", latent=8))
    assert generate(task, PictureRequest(to=tmp_path / "noise", count=2), session)["title"] == "generated"
    assert generate(task, PictureRequest(to=tmp_path / "rebuilt", images=images), session)["title"] == "prediction"


@pytest.mark.parametrize(
    ("task", "asked", "said"),
    [
        ("colorization", {}, "give --images"),
        ("gan", {"images": "images"}, "leave out --images"),
        ("gan", {"label": 1}, "leave out --label"),
        ("gan", {"title": "reel"}, "did you mean 'real'"),
        ("colorization", {"images": "nowhere"}, "nothing at nowhere"),
        ("supervised", {}, "makes no pictures"),
        ("random", {}, "makes no pictures"),
        ("rotation", {"images": "images"}, r"'rotation' makes no pictures: .*\(autoencoder, .*, super_resolution\)"),
    ],
)
def test_what_cannot_be_made_is_said(
    task: str, asked: dict[str, str], said: str, images: Path, tmp_path: Path, session: Session
) -> None:
    values = {**asked, "to": tmp_path / "out"} | ({"images": images} if asked.get("images") == "images" else {})
    folder = str(trained(tmp_path / "task", task))
    for make in (generate, plan):
        with pytest.raises(UserError, match=said):
            make(folder, PictureRequest.parse(values), session)
    assert not (tmp_path / "out").exists()


def test_nothing_but_broken_images(images: Path, tmp_path: Path, session: Session) -> None:
    asked_for = PictureRequest(to=tmp_path / "out", images=images / "empty.png")
    with pytest.raises(UserError, match=r"not one image could be read: .*empty\.png: empty file"):
        generate(str(trained(tmp_path / "task", "autoencoder")), asked_for, session)


def test_the_global_random_state_is_left_alone(tmp_path: Path, session: Session) -> None:
    task = str(trained(tmp_path / "task", "gan", latent=8))
    before = torch.random.get_rng_state()
    generate(task, PictureRequest(to=tmp_path / "out", count=1), session)
    assert torch.equal(before, torch.random.get_rng_state())


def test_images_of_any_shape_are_made_or_named(tmp_path: Path, session: Session) -> None:
    """No warning either: warnings are errors here, and an image of one pixel used to leak one."""
    folder, sizes = tmp_path / "images", [(1, 1), (40, 1), (1, 40), (1000, 16), (3000, 2), (2, 3000)]
    folder.mkdir()
    for width, height in sizes:
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(folder / f"{width}x{height}.png")
    asked_for = PictureRequest(to=tmp_path / "out", images=folder)
    result = generate(str(trained(tmp_path / "task", "autoencoder")), asked_for, session)
    found = {name: picture.shape for name, picture in pictures(asked_for.to).items()}
    assert found == {f"{w}x{h}.png": (h, w, 3) for w, h in sizes[:4]}
    assert result["skipped_count"] == 2
    assert "2 x 3000 is too thin: at 16 pixels across it is 24000 long" in result["skipped"][0]


def test_what_grows_beyond_measure_is_named(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.generate.MAX_PIXELS", 1000)
    Image.new("RGB", (20, 20)).save(tmp_path / "image.png")
    with pytest.raises(UserError, match="enlarged to 40 x 40 it has more than"):
        task = str(trained(tmp_path / "task", "super_resolution"))
        generate(task, PictureRequest(to=tmp_path / "out", images=tmp_path / "image.png", enlarge=2), session)


def test_a_network_that_gives_no_numbers_is_refused(images: Path, tmp_path: Path, session: Session) -> None:
    folder = trained(tmp_path / "task", "autoencoder")
    weights = load_file(folder / TASK_FILE)
    save_file(
        {
            key: value * torch.nan if "decoder" in key and value.is_floating_point() else value
            for key, value in weights.items()
        },
        folder / TASK_FILE,
        {"format": FORMAT, "task": "autoencoder", "classes": str(CLASSES)},
    )
    with pytest.raises(UserError, match=r"pictures that are not numbers \(prediction\): its training has diverged"):
        generate(str(folder), PictureRequest(to=tmp_path / "out", images=images), session)
    assert not (tmp_path / "out").exists()
