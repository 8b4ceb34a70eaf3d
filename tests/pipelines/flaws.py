"""Small data sets and recipes with one flaw each, drawn by a seed, and what has to become of each of them.

Every picture is of one grey of its own, so that it is known again wherever it comes out, in whatever format. A flaw is
a function that spoils what was laid out and says what must follow: it is harmless (everything comes out as it was put
in), or it is refused in one line that names the culprit, or the culprit is left out and named.
"""

import io
import os
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, VAL, TEST = "train", "val", "test"


@dataclass(frozen=True)
class Picture:
    """What is true of a picture: its grey, its class, and its split; None: whoever cuts may choose."""

    grey: int
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What must follow. ``refused``, ``named``: texts of which each must be said, or in the report of what was left."""

    refused: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # settings that go with the case, as of --set


HARMLESS = Outcome()


def refused(*said: str, options: tuple[str, ...] = ()) -> Outcome:
    return Outcome(refused=said, options=options)


def named(*said: str) -> Outcome:
    return Outcome(named=said)


def png(grey: int, mode: str = "RGB", side: tuple[int, int] = (12, 12), format: str = "PNG") -> bytes:
    """A picture of one grey, in any mode and format."""
    buffer = io.BytesIO()
    Image.new("L", side, grey).convert(mode).save(buffer, format, **({"quality": 100} if format == "JPEG" else {}))
    return buffer.getvalue()


def deep(grey: int) -> bytes:
    """The same in 16 bits, with a bright spot: a picture without would be taken for one of fewer bits."""
    buffer, pixels = io.BytesIO(), np.full((60, 60), grey * 257, np.uint16)
    pixels[0, 0] = 65535
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def turned(grey: int) -> bytes:
    """The same as a camera writes it that was held upright."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 12), (grey,) * 3).save(buffer, "JPEG", quality=100, exif=exif)
    return buffer.getvalue()


def seen_through(grey: int) -> bytes:
    """Black, of which white shines through: over white it is ``grey``."""
    buffer = io.BytesIO()
    Image.new("RGBA", (12, 12), (0, 0, 0, 255 - grey)).save(buffer, "PNG")
    return buffer.getvalue()


def written_otherwise(grey: int, draw: random.Random) -> bytes:
    """The picture in a form that has to be converted."""
    forms: tuple[Callable[[], bytes], ...] = (
        lambda: deep(grey),
        lambda: turned(grey),
        lambda: seen_through(grey),
        lambda: png(grey, "L"),
        lambda: png(grey, "P"),
        lambda: png(grey, "LA"),
        lambda: png(grey, "RGBA"),
        lambda: png(grey, "CMYK", format="JPEG"),
        lambda: png(grey, format="TIFF"),
        lambda: png(grey, format="BMP"),
        lambda: png(grey, "P", format="GIF"),
    )
    return draw.choice(forms)()


@dataclass
class Laid:
    """Pictures below ``root``, by their path from there."""

    root: Path
    draw: random.Random
    pictures: dict[str, Picture] = field(default_factory=dict)

    def put(self, path: str, picture: Picture, data: bytes | None = None) -> None:
        """Write a picture; the one truth about it."""
        self.pictures[path] = picture
        self.write(path, png(picture.grey) if data is None else data)

    def write(self, path: str, data: bytes) -> None:
        """Write a file that is no picture of the data set."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)

    def take(self) -> tuple[str, Picture]:
        """Any picture, removed; not the last of its class and split."""
        kinds = [(picture.label, picture.split) for picture in self.pictures.values()]
        spare = [path for path, p in self.pictures.items() if kinds.count((p.label, p.split)) > 1]
        path = self.draw.choice(sorted(spare))
        (self.root / path).unlink()
        return path, self.pictures.pop(path)

    def move(self, old: str, new: str) -> None:
        """Rename a folder; what is true of its pictures moves along."""
        (self.root / old).rename(self.root / new)
        self.pictures = {
            f"{new}{path.removeprefix(old)}" if path.startswith(f"{old}/") else path: picture
            for path, picture in self.pictures.items()
        }

    def grey(self) -> int:
        """A grey that no picture has."""
        return next(grey for grey in range(3, 256, 3) if grey not in {p.grey for p in self.pictures.values()})


def lay_folder(root: Path, draw: random.Random, splits: bool) -> Laid:
    """Two or three classes of a few pictures each, with or without splits above them."""
    laid = Laid(root, draw)
    classes = draw.sample(["ant", "bee", "cat", "dog", "emu"], draw.choice([2, 3]))
    for split in (TRAIN, VAL, TEST) if splits else (None,):
        for label in classes:
            for k in range(draw.choice([3, 4]) if splits else draw.choice([5, 6, 7])):
                where = f"{split}/{label}" if split else label
                laid.put(f"{where}/{k}.png", Picture(laid.grey(), label, split))
    return laid


# --- flaws of folders -------------------------------------------------------------------------------------------------

Flaw = Callable[[Laid], Outcome]


def with_splits(flaw: Flaw) -> Flaw:
    """The flaw is one of folders that are cut already."""
    flaw.__dict__["splits"] = True
    return flaw


def another_suffix(laid: Laid) -> Outcome:
    path, picture = laid.take()
    suffix = laid.draw.choice([".jfif", ".JPG", "", ".dat", ".pnj", ".tmp"])
    laid.put(path.removesuffix(".png") + suffix, picture, png(picture.grey, format=laid.draw.choice(["PNG", "JPEG"])))
    return HARMLESS


def written_in_another_form(laid: Laid) -> Outcome:
    path, picture = laid.take()
    laid.put(path, picture, written_otherwise(picture.grey, laid.draw))
    return HARMLESS


def cut_off(laid: Laid) -> Outcome:
    path, picture = laid.take()
    whole = png(picture.grey, format=laid.draw.choice(["PNG", "JPEG"]))
    laid.write(path, whole[: laid.draw.choice([0, 5, len(whole) // 2, len(whole) - 20])])
    return named(Path(path).name)


def a_text_for_a_picture(laid: Laid) -> Outcome:
    path, _ = laid.take()
    laid.write(path, b"<html>404 not found</html>")
    return named(Path(path).name)


def a_bomb(laid: Laid) -> Outcome:
    path, _ = laid.take()
    laid.write(path, png(9, "1", (9000, 9000)))
    return named(Path(path).name)


def a_file_beside(laid: Laid) -> Outcome:
    folder = Path(next(iter(laid.pictures))).parent
    name = laid.draw.choice(["notes.txt", "labels.csv", "photos.zip", "Thumbs.db", "clip.mp4"])
    laid.write(f"{folder}/{name}", b"PK\x03\x04 no picture")
    return named(name)


def a_hidden_file(laid: Laid) -> Outcome:
    folder = Path(next(iter(laid.pictures))).parent
    laid.write(f"{folder}/{laid.draw.choice(['.DS_Store', '._0.png', '.0.png.swp'])}", b"\0\5\x16\7")
    return HARMLESS


def a_strange_name(laid: Laid) -> Outcome:
    path, picture = laid.take()
    name = laid.draw.choice(
        ["a b", "a\nb", "é", "猫", 'q"', "a,b", "a=b", "%20", "?#", "-", "w" * 200, "a.b.c", "'", "\\"]
    )
    laid.put(f"{Path(path).parent}/{name}.png", picture)
    return HARMLESS


def a_name_that_is_no_utf8(laid: Laid) -> Outcome:
    path, picture = laid.take()
    laid.put(f"{Path(path).parent}/{os.fsdecode(b'caf' + bytes([0xE9]))}.png", picture)
    return HARMLESS


def one_name_with_two_suffixes(laid: Laid) -> Outcome:
    path, picture = laid.take()
    laid.put(path, picture)
    laid.put(path.removesuffix(".png") + ".jpg", Picture(laid.grey(), picture.label, picture.split))
    return HARMLESS


def a_linked_folder(laid: Laid) -> Outcome:
    label = sorted({str(picture.label) for picture in laid.pictures.values()})[0]
    away = laid.root.parent / "elsewhere"
    (laid.root / label).rename(away)
    (laid.root / label).symlink_to(away)
    return HARMLESS


def a_link_in_a_circle(laid: Laid) -> Outcome:
    folder = Path(next(iter(laid.pictures))).parent
    (laid.root / folder / "again").symlink_to(laid.root, target_is_directory=True)
    return HARMLESS


def a_link_to_nothing(laid: Laid) -> Outcome:
    path, _ = laid.take()
    (laid.root / path).symlink_to(laid.root / "gone.png")
    return named(Path(path).name)


def a_class_of_one(laid: Laid) -> Outcome:
    laid.put("yak/0.png", Picture(laid.grey(), "yak", TRAIN))
    return HARMLESS


def a_deep_folder(laid: Laid) -> Outcome:
    path, picture = laid.take()
    laid.put(f"{Path(path).parent}/more/and/more/0.png", picture)
    return HARMLESS


def an_empty_folder(laid: Laid) -> Outcome:
    (laid.root / "zebra").mkdir()
    return HARMLESS


def a_wide_picture(laid: Laid) -> Outcome:
    path, picture = laid.take()
    laid.put(path, picture, png(picture.grey, side=laid.draw.choice([(3000, 2), (2, 3000), (1, 1), (1, 40)])))
    return HARMLESS


@with_splits
def validation_by_another_name(laid: Laid) -> Outcome:
    laid.move(VAL, laid.draw.choice(["dev", "valid", "validation", "eval", "VAL", "Dev", "holdout"]))
    return HARMLESS


@with_splits
def test_by_another_name(laid: Laid) -> Outcome:
    laid.move(TEST, laid.draw.choice(["testing", "Test"]))
    return HARMLESS


@with_splits
def a_folder_beside_the_splits(laid: Laid) -> Outcome:
    name = laid.draw.choice(["docs", "unlabeled", "extra", "train2", "backup", "misc"])
    laid.put(f"{name}/0.png", Picture(laid.grey()))
    return refused(name, "--splits")


@with_splits
def a_loose_picture_beside_the_splits(laid: Laid) -> Outcome:
    laid.put("preview.png", Picture(laid.grey()))
    return refused("preview.png", "--splits")


@with_splits
def two_folders_of_one_split(laid: Laid) -> Outcome:
    laid.put("dev/ant/0.png", Picture(laid.grey()))
    return refused("dev", "val", "--splits")


@with_splits
def splits_without_training(laid: Laid) -> Outcome:
    laid.move(TRAIN, "photos")
    return refused("photos", "--splits")


@with_splits
def a_class_that_training_lacks(laid: Laid) -> Outcome:
    laid.put(f"{laid.draw.choice([VAL, TEST])}/yak/0.png", Picture(laid.grey()))
    return refused("yak")


@with_splits
def the_user_leaves_a_split_out(laid: Laid) -> Outcome:
    laid.move(VAL, "spare")
    laid.pictures = {path: p for path, p in laid.pictures.items() if not path.startswith("spare")}
    laid.pictures = {
        path: Picture(p.grey, p.label, None if p.split == TRAIN else p.split) for path, p in laid.pictures.items()
    }
    return Outcome(named=("spare",), options=("data.splits=train=train,test=test",))


@with_splits
def the_user_names_a_folder_that_is_not_there(laid: Laid) -> Outcome:
    return refused("trian", options=("data.splits=train=trian,val=val",))


@with_splits
def split_folders_below_the_classes(laid: Laid) -> Outcome:
    for split in (TRAIN, VAL, TEST):
        for folder in sorted((laid.root / split).iterdir()):
            (laid.root / folder.name).mkdir(exist_ok=True)
            folder.rename(laid.root / folder.name / split)
        (laid.root / split).rmdir()
    return refused("train", "test")


FOLDER_FLAWS: tuple[Flaw, ...] = (
    another_suffix, written_in_another_form, cut_off, a_text_for_a_picture, a_bomb, a_file_beside, a_hidden_file,
    a_strange_name, a_name_that_is_no_utf8, one_name_with_two_suffixes, a_linked_folder, a_link_in_a_circle,
    a_link_to_nothing, a_class_of_one, a_deep_folder, an_empty_folder, a_wide_picture, validation_by_another_name,
    test_by_another_name, a_folder_beside_the_splits, a_loose_picture_beside_the_splits, two_folders_of_one_split,
    splits_without_training, a_class_that_training_lacks, the_user_leaves_a_split_out,
    the_user_names_a_folder_that_is_not_there, split_folders_below_the_classes,
)  # fmt: skip


def flawed_folder(root: Path, seed: int) -> tuple[str, Laid, Outcome]:
    """The ``seed``-th flawed folder, at ``root``: the flaw's name, what is true of the pictures, what must follow."""
    draw = random.Random(f"folder {seed}")
    flaw = FOLDER_FLAWS[seed % len(FOLDER_FLAWS)]
    laid = lay_folder(root, draw, splits=flaw.__dict__.get("splits", False))
    return flaw.__name__, laid, flaw(laid)


# --- flaws of tars ----------------------------------------------------------------------------------------------------

Members = list[tuple[str, bytes]]


@dataclass
class Tars:
    """Tars as somebody else would write them: names of members and bytes, by the name of the tar."""

    draw: random.Random
    tars: dict[str, Members] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)  # by key
    spoil: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)  # by name of the tar

    def put(self, tar: str, key: str, picture: Picture, data: bytes | None = None, extension: str = "png") -> None:
        """One more sample."""
        self.pictures[key] = picture
        members = self.tars.setdefault(tar, [])
        members.append((f"{key}.{extension}", png(picture.grey) if data is None else data))
        if picture.label is not None:
            members.append((f"{key}.cls", picture.label.encode()))

    def some(self) -> tuple[str, str, Picture]:
        """Any sample: its tar, its key, what is true of it."""
        tar = self.draw.choice(sorted(self.tars))
        name = self.draw.choice([name for name, _ in self.tars[tar] if name.endswith(".png")])
        return tar, name.partition(".")[0], self.pictures[name.partition(".")[0]]

    def replace(self, tar: str, name: str, new: str, data: bytes) -> None:
        """Another member in the place of one."""
        self.tars[tar] = [(new, data) if each == name else (each, old) for each, old in self.tars[tar]]

    def write(self, root: Path) -> None:
        """To disk."""
        root.mkdir(parents=True)
        for name, members in self.tars.items():
            data = tar_of(members)
            (root / name).write_bytes(self.spoil[name](data) if name in self.spoil else data)


def tar_of(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def lay_tars(draw: random.Random, names: tuple[str, ...] = ("a-0.tar", "a-1.tar", "a-2.tar")) -> Tars:
    tars = Tars(draw)
    for number, name in enumerate(names):
        for k in range(6):
            tars.put(name, f"{number}{k}", Picture(3 * (10 * number + k) + 9, str(k % 2), None))
    return tars


TarFlaw = Callable[[Tars], Outcome]


def one_behind_the_other(tars: Tars) -> Outcome:
    first, second, *_ = sorted(tars.tars)
    more = tar_of(tars.tars.pop(second))
    tars.spoil[first] = lambda data: data + more
    return HARMLESS


def truncated(tars: Tars) -> Outcome:
    name = tars.draw.choice(sorted(tars.tars))
    size = len(b"".join(data for _, data in tars.tars[name]))
    tars.spoil[name] = lambda data: data[: tars.draw.choice([0, 300, size, size // 2 // 512 * 512])]
    return refused(name)


def no_end(tars: Tars) -> Outcome:
    name = tars.draw.choice(sorted(tars.tars))
    tars.spoil[name] = lambda data: data[: len(data.rstrip(b"\0")) // 512 * 512 + 512]
    return refused(name, "truncated")


def sorted_by_class(tars: Tars) -> Outcome:
    keys = sorted(tars.pictures)
    tars.tars, pictures, tars.pictures = {}, tars.pictures, {}
    for place, key in enumerate(keys):
        label = place * 3 // len(keys)
        tars.put(f"a-{label}.tar", key, Picture(pictures[key].grey, str(label)))
    return HARMLESS


def splits_by_name(tars: Tars) -> Outcome:
    for name, new, split in zip(
        sorted(tars.tars),
        ("x-train-0.tar", tars.draw.choice(["holdout-0.tar", "dev.tar", "x-eval-1.tar"]), "test-00.tar"),
        (TRAIN, VAL, TEST),
        strict=True,
    ):
        tars.tars[new] = tars.tars.pop(name)
        for member, _ in tars.tars[new]:
            key = member.partition(".")[0]
            tars.pictures[key] = Picture(tars.pictures[key].grey, tars.pictures[key].label, split)
    return HARMLESS


def some_named_and_some_not(tars: Tars) -> Outcome:
    first, *_ = sorted(tars.tars)
    tars.tars["x-train-0.tar"] = tars.tars.pop(first)
    return refused("a-1.tar", "data.splits=")


def a_word_that_nobody_knows(tars: Tars) -> Outcome:
    first, second, third = sorted(tars.tars)
    tars.tars["train-0.tar"], tars.tars["val-0.tar"] = tars.tars.pop(first), tars.tars.pop(second)
    name = tars.draw.choice(["extra-0.tar", "unlabeled-0.tar"])
    tars.tars[name] = tars.tars.pop(third)
    return refused(name, "data.splits=")


def a_label_that_is_no_number(tars: Tars) -> Outcome:
    tar, key, _ = tars.some()
    label = tars.draw.choice([b"cat", b"-1", b"1.0", b"", b"\xb2", b"0 1", b"[0, 1]"])
    tars.replace(tar, f"{key}.cls", f"{key}.cls", label)
    return refused(tar, key)


def a_picture_that_is_missing(tars: Tars) -> Outcome:
    tar, key, _ = tars.some()
    tars.tars[tar] = [(name, data) for name, data in tars.tars[tar] if name != f"{key}.png"]
    del tars.pictures[key]
    return named(key)


def a_picture_that_is_broken(tars: Tars) -> Outcome:
    tar, key, picture = tars.some()
    tars.replace(tar, f"{key}.png", f"{key}.png", png(picture.grey)[:40])
    del tars.pictures[key]
    return named(key)


def a_picture_in_another_form(tars: Tars) -> Outcome:
    tar, key, picture = tars.some()
    data = written_otherwise(picture.grey, tars.draw)
    tars.replace(tar, f"{key}.png", f"{key}.{tars.draw.choice(['png', 'jpg', 'jpeg', 'JPG'])}", data)
    return HARMLESS


def a_key_twice(tars: Tars) -> Outcome:
    tar, key, picture = tars.some()
    tars.tars[tar] += [("zz.png", png(200)), ("zz.cls", b"0"), (f"{key}.png", png(picture.grey))]
    return refused(tar, key)


def members_beside(tars: Tars) -> Outcome:
    tar, key, _ = tars.some()
    place = [name for name, _ in tars.tars[tar]].index(f"{key}.png")
    tars.tars[tar].insert(place + 1, (f"{key}.{tars.draw.choice(['json', 'txt', 'pyd', 'pkl'])}", b"\x80\x04."))
    return HARMLESS


def a_gap_among_the_labels(tars: Tars) -> Outcome:
    for tar, members in tars.tars.items():
        tars.tars[tar] = [(name, b"5" if data == b"1" else data) for name, data in members]
    tars.pictures = {key: Picture(p.grey, "5" if p.label == "1" else p.label) for key, p in tars.pictures.items()}
    return HARMLESS


def compressed(tars: Tars) -> Outcome:
    import gzip

    name = tars.draw.choice(sorted(tars.tars))
    tars.spoil[name] = gzip.compress
    return refused(name)


def keys_in_folders(tars: Tars) -> Outcome:
    folder = tars.draw.choice(["./", "photos/", "a/b/", "ü/"])
    tars.tars = {tar: [(folder + name, data) for name, data in members] for tar, members in tars.tars.items()}
    return HARMLESS


def a_tar_of_nothing(tars: Tars) -> Outcome:
    tars.tars["a-9.tar"] = tars.draw.choice([[], [("README", b"hello")]])
    return refused("a-9.tar")


TAR_FLAWS: tuple[TarFlaw, ...] = (
    one_behind_the_other, truncated, no_end, sorted_by_class, splits_by_name, some_named_and_some_not,
    a_word_that_nobody_knows, a_label_that_is_no_number, a_picture_that_is_missing, a_picture_that_is_broken,
    a_picture_in_another_form, a_key_twice, members_beside, a_gap_among_the_labels, compressed, keys_in_folders,
    a_tar_of_nothing,
)  # fmt: skip


def flawed_tars(root: Path, seed: int) -> tuple[str, Tars, Outcome]:
    """The ``seed``-th flawed tars, written below ``root``."""
    draw = random.Random(f"tars {seed}")
    flaw = TAR_FLAWS[seed % len(TAR_FLAWS)]
    tars = lay_tars(draw)
    outcome = flaw(tars)
    tars.write(root)
    return flaw.__name__, tars, outcome


# --- flaws of recipes -------------------------------------------------------------------------------------------------

RECIPE = """task: {task}
data: {{source: shapes, samples: 64, size: 32}}
encoder: {{name: alexnet, width: 8}}
training: {{epochs: 1, batch: 32}}
"""
# (what is added to a recipe, or takes the place of a line of it; what is said of it). Each is one line of YAML.
RECIPE_FLAWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rotation", "trainign: {epochs: 2}", ("trainign", "training")),
    ("rotation", "epochs: 3", ("epochs", "training.epochs")),
    ("rotation", "lr: 0.1", ("lr",)),
    ("rotation", "training: {epochs: three}", ("training.epochs",)),
    ("rotation", "training: {epochs: -1}", ("training.epochs",)),
    ("rotation", "training: {epochs: .nan}", ("training.epochs",)),
    ("rotation", "training: {batch: 32.5}", ("training.batch",)),
    ("rotation", "training: {batch: 100}", ("64 samples", "100")),
    ("rotation", "training: {batch: 32, micro_batches: 40}", ("32 samples", "40")),
    ("rotation", "training: {optimizer: {lr: 0}}", ("training.optimizer.lr",)),
    ("rotation", "training: {optimizer: {learning_rate: 1}}", ("learning_rate",)),
    ("rotation", "training: {players: {generator: {lr: 0.1}}}", ("generator",)),
    ("rotation", "training: {schedule: cosin}", ("training.schedule",)),
    ("rotation", "training: {augment: {flip: maybe}}", ("training.augment.flip",)),
    ("rotation", "data: {source: shape}", ("shape", "shapes")),
    ("rotation", "data: {source: folder}", ("data.root",)),
    ("rotation", "data: {source: folder, root: /nowhere/at/all}", ("/nowhere/at/all",)),
    ("rotation", "data: {source: shapes, size: 4}", ("data.size",)),
    ("rotation", "data: {source: shapes, options: {clases: 3}}", ("clases",)),
    ("rotation", "data: {source: shapes, splits: train=train}", ("splits", "shapes")),
    ("rotation", "data: {source: shards, url: /nowhere/at/all}", ("/nowhere/at/all",)),
    ("rotation", "data: {source: shards}", ("data.url",)),
    ("rotation", "encoder: {name: alexnett}", ("alexnett", "alexnet")),
    ("rotation", "encoder: {name: alexnet, width: 8, depth: 99}", ("99",)),
    ("rotation", "encoder: {name: alexnet, norm: layer}", ("encoder.norm",)),
    ("rotation", "weights: {l2: 1}", ("l2",)),
    ("rotation", "weights: {rotation: -1}", ("rotation",)),
    ("rotation", "weights: {rotation: .inf}", ("rotation",)),
    ("rotation", "weights: [1, 2]", ("weights",)),
    ("rotation", "weight_changes: {soon: {rotation: 1}}", ("weight_changes",)),
    ("rotation", "benchmarks: [linaer]", ("linaer", "linear")),
    ("rotation", "benchmarks: linear", ("benchmarks",)),
    ("rotation", "extends: nowhere", ("nowhere", "recipe.yaml")),
    ("rotation", "extends: ./recipe.yaml", ("recipe.yaml", "extends itself")),
    ("rotation", "task: rotatoin", ("rotatoin", "rotation")),
    ("rotation", "task: [rotation]", ("task",)),
    ("rotation", "options: {angle: 45}", ("options.angle",)),
    ("rotation", "name: {a: b}", ("name",)),
    ("rotation", "a: [", ("recipe.yaml", "not valid YAML")),
    ("rotation", "\tx: 1", ("recipe.yaml", "not valid YAML")),
    ("rotation", "weights: {rotation: 1, rotation: 2}", ("rotation", "twice")),
    ("rotation", "!!python/object/apply:os.getcwd []", ("recipe.yaml",)),
    ("rotation", "\udce9: 1", ("recipe.yaml",)),
    ("colorization", "options: {target: regresion}", ("options.target",)),
    ("context_encoder", "weights: {adversarial: many}", ("weights.adversarial",)),
    ("pix2pix", "data: {source: shapes, samples: 64, size: 20}", ("24 pixels",)),
    ("super_resolution", "options: {factor: 5}", ("5",)),
    ("supervised", "data: {source: pairs}", ("data.root",)),
    ("cyclegan", "weights: {cylce: 10}", ("cylce", "cycle")),
    ("bigan", "training: {epochs: 1, batch: 32, ema: 1.5}", ("training.ema",)),
)


def flawed_recipe(path: Path, seed: int) -> tuple[str, Outcome]:
    """The ``seed``-th flawed recipe, written to ``path``: its flaw and what must follow."""
    task, line, said = RECIPE_FLAWS[seed % len(RECIPE_FLAWS)]
    key = line.partition(":")[0]
    lines = [each for each in RECIPE.format(task=task).splitlines() if each.partition(":")[0] != key]
    random.Random(f"recipe {seed}").shuffle(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([*lines, line, ""]).encode(errors="surrogateescape"))
    return line, refused(*said)
