"""Two domains without pairs, as cycle-consistent translation learns from (Zhu et al. 2017, "CycleGAN")."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, clean
from components.data.sources.base import SPLITS, Sample, Source, register_source
from components.data.sources.files import key_of, list_images, open_root, read_file, subfolder
from components.data.sources.layout import (
    check_no_splits,
    count_left_out,
    folders_and_archives,
    match_told,
    revision_of,
    told_table,
)
from components.data.sources.listing import printable
from components.data.sources.split_table import check_listed, has_labels, read_table
from components.data.splits import CLASSES, SPLIT_NAMES
from components.errors import UserError

File = tuple[str, PurePosixPath, Path]  # (name for people, path in its folder, file)
_LETTERS = ("A", "B")


@register_source
class Unpaired(Source):
    """Folders trainA and trainB, and valA, valB, testA, testB where there are any, or a .tar of each.

    One domain lies in the splits train, val and test, the other in other_train, other_val and other_test.
    """

    told_splits = True
    name = "unpaired"
    summary = "two domains in the folders trainA, trainB, testA, testB; --root FOLDER or .tar"

    class Options(Config):
        """Which domain is which."""

        image: Literal["A", "B"] = Field("A", description="domain whose pictures are the images; the rest is the other")

    def __init__(self, config: DataConfig, options: Options) -> None:
        self._root = open_root(config, "the folder that holds trainA and trainB, or its .tar")
        other = "B" if options.image == "A" else "A"
        prefixes = {options.image: "", other: "other_"}
        self._files = _by_table(self._root, prefixes, config.splits) if told_table(config) else {}
        folders: list[Path] = [self._root] if told_table(config) else []
        if not told_table(config):
            split_of = _split_folders(self._root, config.splits)
            if config.splits is None:
                self.revision = revision_of(name[:-1].rstrip("_-") for name in split_of)
            for name, split in split_of.items():
                folder = subfolder(self._root, name, self.name)
                if folder:
                    folders.append(folder)
                    files = [(f"{folder.name}/{path}", path, folder / path) for path in list_images(folder)]
                    self._files.setdefault(prefixes[name[-1]] + split, []).extend(files)
        for split, letter in (("train", options.image), ("other_train", other)):
            if not self._files.get(split):
                raise UserError(
                    f"domain {letter} has no images: put them into {self._root / f'train{letter}'} (or its .tar), "
                    f"and those of the other domain beside it"
                )
        self.left_out = count_left_out(self._root, {p for files in self._files.values() for _, _, p in files})
        self.splits = {split: len(self._files[split]) for split in SPLITS if self._files.get(split)}
        self.fields = {"image": IMAGE_EXTENSIONS}
        self.listed = tuple(folders)

    def read(self, split: str, index: int) -> Sample:
        """One picture of either domain, cleaned. Raises BrokenImage."""
        _, within, path = self._files[split][index]
        cleaned = clean(read_file(path))
        return Sample(key_of(split, index, within), {cleaned.extension: cleaned.data}, cleaned.changes)

    def locate(self, split: str, index: int) -> str:
        """The folder of the domain and split, and the path in it."""
        return printable(self._files[split][index][0])


def _split_folders(root: Path, told: str | None) -> dict[str, str]:
    """{folder or archive of ``root``, ending in its domain's letter: split}."""
    if told == CLASSES:
        raise UserError("two domains have no classes: say --splits train=train,test=test, or leave --splits out")
    ending: dict[str, list[str]] = {}
    for name in folders_and_archives(root):
        if name[-1] in _LETTERS and name[:-1].rstrip("_-"):
            ending.setdefault(name[:-1].rstrip("_-"), []).append(name)
    if told is not None:
        stems = match_told(told, ending, root)
    else:
        stems = {stem: SPLIT_NAMES[stem.lower()] for stem in ending if stem.lower() in SPLIT_NAMES}
        for letter in _LETTERS:
            mine = [stem for stem in stems if any(name[-1] == letter for name in ending[stem])]
            if mine and len({stems[stem] for stem in mine}) < len(mine):
                check_no_splits(root, mine, classes=False)
    return {name: split for stem, split in stems.items() for name in ending[stem]}


def _by_table(root: Path, prefixes: Mapping[str, str], told: str | None) -> dict[str, list[File]]:
    """{split: files} of a table; the last letter of a file's top folder is its domain."""
    assert told is not None
    rows = read_table(told)
    if has_labels(told):
        raise UserError(f"{told}, line 1: two domains have no labels: take out the column label")
    paths = list_images(root)
    check_listed(rows, set(paths), told, root)
    found: dict[str, list[File]] = {}
    for path in paths:
        if path not in rows:
            continue
        letter = path.parts[0][-1] if len(path.parts) > 1 else ""
        if letter not in prefixes:
            raise UserError(f"{told}, line {rows[path].line}: {path} is in no folder that ends in A or B: move it")
        within = PurePosixPath(*path.parts[1:])
        found.setdefault(prefixes[letter] + rows[path].split, []).append((str(path), within, root / path))
    return found
