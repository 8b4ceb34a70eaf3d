"""Contact sheets: everything that a sample has is there, in the colours of the legend, from folders and buckets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.config import DataConfig
from components.data.boxes import pack_boxes
from components.data.images import encode_png
from components.data.shards import Index, write_index, write_shard
from components.data.sources.base import UNKNOWN, Sample
from components.errors import UserError
from infra.local import Server
from infra.storage import open_storage
from pipelines.__main__ import run
from pipelines.data.contact_sheet import GAP, GREY, LINE, SIDE, Tile, colour_of, compose, show
from tests.components.data.conftest import prepare_into

WHITE = (255, 255, 255)


def data_set(folder: Path, samples: list[Sample], fields: dict[str, str], **more: Any) -> Path:
    """A prepared data set of one shard per split."""
    entry = write_shard(samples, folder / "train-000000.tar")
    assert entry is not None
    write_index(Index(source={}, fields=fields, splits={"train": (entry,)}, **more), folder)
    return folder


def sheet(folder: Path, **options: Any) -> np.ndarray:
    asked: dict[str, Any] = {"split": "train", "count": 24, "to": folder / "sheet.png", "cache": folder / "cache"}
    asked |= options
    show(str(folder), **asked)
    return np.asarray(Image.open(asked["to"]).convert("RGB"))


def share(picture: np.ndarray, colour: tuple[int, ...]) -> float:
    return float((np.abs(picture.astype(int) - colour).max(2) <= 3).mean())


def test_boxes_and_masks_have_the_colours_of_the_legend(tmp_path: Path) -> None:
    black = np.zeros((100, 100, 3), np.uint8)
    mask = np.zeros((100, 100), np.uint8)
    mask[:50], mask[50:60] = 2, UNKNOWN
    members = {
        "png": encode_png(black),
        "mask.png": encode_png(mask),
        "boxes.json": pack_boxes([[20, 60, 80, 90]], [0]),
    }
    fields = {"image": "png", "mask": "mask.png", "boxes": "boxes.json"}
    picture = sheet(data_set(tmp_path, [Sample("a", members)], fields, classes=("one", "two", "three")))
    top = len(picture) - GAP - LINE - SIDE
    left, right = picture[top : top + SIDE, 8 : 8 + SIDE], picture[top : top + SIDE, 8 + SIDE + 2 : 8 + SIDE + 2 + SIDE]
    outline = np.argwhere((left == colour_of(0, 3)).all(2))
    assert outline.min(0).tolist() == [120, 40] and (outline.max(0) + 1).tolist() == [180, 160]
    second = tuple(round(0.6 * value) for value in colour_of(1, 3))
    assert share(right[:100], second) == 1.0
    assert share(right[100:120], tuple(round(0.6 * value) for value in GREY)) == 1.0
    assert not right[120:].any(), "where no class is, the image itself"
    for colour in (colour_of(0, 3), colour_of(1, 3), GREY):
        assert share(picture[:24], colour) > 0.001
    assert share(picture[:24], colour_of(2, 3)) == 0, "only classes that occur are in the legend"


def test_pairs_lie_side_by_side_and_both_domains_below_each_other(tmp_path: Path) -> None:
    plain = {c: encode_png(np.full((40, 20, 3), c, np.uint8)) for c in (10, 60, 110)}
    folder = data_set(
        tmp_path, [Sample("a", {"png": plain[10], "target.png": plain[60]})], {"image": "png", "target": "target.png"}
    )
    picture = sheet(folder)
    row = picture[len(picture) // 2, :, 0].tolist()
    assert row.index(10) < row.index(60) and row.count(10) == row.count(60) == 100
    for seed, domain in enumerate("AB"):
        for k in range(12):
            path = tmp_path / "raw" / f"train{domain}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plain[10 + 50 * seed])
    prepare_into(DataConfig(source="unpaired", root=str(tmp_path / "raw")), tmp_path / "two")
    assert show(str(tmp_path / "two"), "train", 5, tmp_path / "s.png", tmp_path) == {"train": 5, "other_train": 5}
    column = np.asarray(Image.open(tmp_path / "s.png"))[:, 20, 0].tolist()
    assert column.count(10) == column.count(60) == 200 and column.index(10) < column.index(60)


def test_small_images_are_enlarged_by_whole_numbers_and_large_ones_shrunk(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    samples = [Sample("a", {"png": encode_png(noise), "cls": b"0"})]
    picture = sheet(data_set(tmp_path / "a", samples, {"image": "png", "label": "cls"}, classes=("zero",)))
    enlarged = noise.repeat(7, axis=0).repeat(7, axis=1)
    top = len(picture) - GAP - LINE - 196
    assert np.array_equal(picture[top : top + 196, 8 : 8 + 196], enlarged)
    wide = encode_png(np.zeros((300, 900, 3), np.uint8))
    picture = sheet(data_set(tmp_path / "b", [Sample("a", {"png": wide})], {"image": "png"}))
    assert (picture == 0).all(2).any(0).sum() == SIDE


def test_a_broken_sample_is_shown_as_such(tmp_path: Path) -> None:
    samples = [Sample("a", {"png": b"broken"}), Sample("b", {"png": encode_png(np.zeros((8, 8, 3), np.uint8))})]
    picture = sheet(data_set(tmp_path, samples, {"image": "png"}))
    assert share(picture, GREY) > 0.2


def test_rows_are_filled_evenly_and_captions_fit() -> None:
    tiles = [Tile([Image.new("RGB", (SIDE, SIDE), "red")], "train/" + "x" * 200, frozenset()) for _ in range(9)]
    picture = np.asarray(compose({"train: 9 of 9": tiles}, ()))
    assert picture.shape[1] == 8 + 5 * (SIDE + 8)
    gaps = picture[:, 8 + SIDE : 8 + SIDE + 8]
    assert (gaps == 255).all(), "nothing runs into the next sample"


def test_colours_of_many_classes_differ() -> None:
    for count in (2, 11, 80):
        colours = {colour_of(label, count) for label in range(count)}
        assert len(colours) == count and GREY not in colours and WHITE not in colours


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "trian"}, "unknown split 'trian': did you mean 'train'? There are: train"),
        ({"to": Path("sheet.txt")}, "--to sheet.txt: the sheet is a picture; use a name that ends in .png"),
    ],
)
def test_wrong_input(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    samples = [Sample("a", {"png": encode_png(np.zeros((8, 8, 3), np.uint8))})]
    with pytest.raises(UserError) as caught:
        sheet(data_set(tmp_path, samples, {"image": "png"}), **options)
    assert str(caught.value) == said


@pytest.mark.xdist_group("s3")
def test_a_bucket_and_a_folder_give_the_same_sheet(tmp_path: Path, s3: Server) -> None:
    samples = [Sample("a", {"png": encode_png(np.full((8, 8, 3), 90, np.uint8))})]
    folder = data_set(tmp_path / "data", samples, {"image": "png"})
    place = open_storage(f"s3://shards/{tmp_path.name}")
    for path in folder.iterdir():
        place.upload(path, path.name)
    for url, name in ((str(folder), "a.png"), (place.url, "b.png")):
        assert show(url, "train", 1, tmp_path / name, tmp_path / "cache") == {"train": 1}
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_command(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [Sample("a", {"png": encode_png(np.zeros((8, 8, 3), np.uint8))})]
    folder = data_set(tmp_path / "data", samples, {"image": "png"})
    to = tmp_path / "new" / "s.png"
    assert run(["data", "show", str(folder), "--to", str(to), "--json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f'{{"sheet": "{to}", "train": 1}}'
    with Image.open(to) as picture:
        assert picture.format == "PNG"
    assert run(["data", "show", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
