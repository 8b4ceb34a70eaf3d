"""Files that belong together, such as an image and its mask, each in a folder of its own, split by split."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.data.sources.files import Pair, Pairs, list_images, match_partners, need_images, subfolder
from components.data.sources.layout import (
    LOOSE,
    Laid,
    are_splits,
    check_no_splits,
    count_left_out,
    folders_and_archives,
    images_by_split,
    match_told,
    revision_of,
)
from components.data.sources.split_table import check_listed, has_labels, read_table
from components.data.splits import CLASSES, SPLIT_NAMES, is_table
from components.errors import UserError, first_of


class LaidPairs(NamedTuple):
    """Pairs by split, how many files of which folder are in none, and the folders of both sides."""

    splits: dict[str, Pairs]
    left_out: dict[str, int]
    folders: tuple[Path, ...]
    revision: str = ""  # Source.revision


def partners_by_split(root: Path, first: str, second: str, kind: str, told: str | None = None) -> LaidPairs:
    """{split: files in folder ``first``, each with the file of the same name in ``second``}; suffixes may differ.

    ``root`` holds the two folders, with or without a subfolder per split, or it holds a folder (or archive) per split,
    which holds the two. ``told``: ``data.splits``; a table names the files of ``first``. Raises UserError where a
    file has no partner, and as `images_by_split`.
    """
    if told is not None and is_table(told):
        return _partners_by_table(root, first, second, told)
    if (root / first).is_dir():
        folders = [_need_folder(root, name) for name in (first, second)]
        sides = [images_by_split(folder, told) for folder in folders]
        missing = sorted(sides[0].splits.keys() ^ sides[1].splits.keys())
        if missing:
            raise UserError(f"only one of the folders {first} and {second} in {root} has a {missing[0]} split")
        if told is not None:  # several folders of one split may hold equal names
            sides = [_named_from(folder, side) for folder, side in zip(folders, sides, strict=True)]
        pairs = {
            split: match_partners(split, paths, sides[1].splits[split]) for split, paths in sides[0].splits.items()
        }
        left_out = {
            f"{name}/{top}": n
            for name, side in zip((first, second), sides, strict=True)
            for top, n in side.left_out.items()
        }
        beside = {top: n for top, n in count_left_out(root, ()).items() if top not in (first, second)}
        return LaidPairs(pairs, left_out | beside, tuple(folders), sides[0].revision)
    named = folders_and_archives(root)
    split_of = _split_folders(root, first, kind, named, told)
    splits: dict[str, Pairs] = {}
    taken_from: list[Path] = []
    for name, split in split_of.items():
        folder = subfolder(root, name, kind)
        assert folder is not None, name
        here, there = (_need_folder(folder, side) for side in (first, second))
        taken_from += (here, there)
        firsts, seconds = ([(path, side / path) for path in need_images(side)] for side in (here, there))
        splits.setdefault(split, []).extend(match_partners(split if told is None else name, firsts, seconds))
    revision = revision_of(split_of) if told is None else ""
    return LaidPairs(splits, count_left_out(root, _files_of(splits)), tuple(taken_from), revision)


def _named_from(folder: Path, side: Laid) -> Laid:
    """Each file by its whole path below the folder of its side."""
    return side._replace(
        splits={
            split: [(PurePosixPath(path.relative_to(folder)), path) for _, path in paths]
            for split, paths in side.splits.items()
        }
    )


def _files_of(splits: Mapping[str, Pairs]) -> set[Path]:
    return {file for pairs in splits.values() for pair in pairs for file in (pair.file, pair.partner)}


def _split_folders(root: Path, first: str, kind: str, named: Sequence[str], told: str | None) -> dict[str, str]:
    """{folder or archive of ``root``: split}, each of which holds a folder ``first``."""
    if told == CLASSES:
        raise UserError(f"no folder {first!r} in {root}, and --splits {CLASSES} leaves no other: leave --splits out")
    if told is not None:
        return match_told(told, named, root)
    splits = [name for name in named if name.lower() in SPLIT_NAMES]
    if are_splits(splits):
        return {name: SPLIT_NAMES[name.lower()] for name in splits}
    check_no_splits(root, splits or [name for name in named if (root / name / first).is_dir()], classes=False)
    raise UserError(f"neither a folder {first!r} nor a folder or archive 'train' in {root}: see docs/sources.md")


def _need_folder(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise UserError(f"no folder {name!r} in {folder}: it should lie beside the other; see docs/sources.md")
    return folder / name


def _partners_by_table(root: Path, first: str, second: str, told: str) -> LaidPairs:
    rows = read_table(told)
    if has_labels(told):
        raise UserError(f"{told}, line 1: pictures of pairs have no labels: take out the column label")
    paths = list_images(root)
    firsts, seconds = (dict(_inside(paths, name)) for name in (first, second))
    check_listed(rows, set(firsts), told, root)
    partners: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path, within in seconds.items():
        partners.setdefault(within.with_suffix(""), []).append(path)
    file_of: dict[PurePosixPath, PurePosixPath] = {}  # {partner: file}
    splits: dict[str, Pairs] = {}
    for path in (path for path in firsts if path in rows):
        found = partners.get(firsts[path].with_suffix(""), [])
        if len(found) != 1:
            what = (
                f"has {len(found)} partners ({first_of([str(path) for path in found], 3)})"
                if found
                else "has no partner"
            )
            raise UserError(f"{path} {what} of the same name in a folder {second}: there must be one")
        if (other := file_of.setdefault(found[0], path)) != path:
            raise UserError(f"{other} and {path} have one partner, {found[0]}: take one of them off {told}")
        splits.setdefault(rows[path].split, []).append(Pair(str(path), root / path, root / found[0]))
    taken = {*rows, *file_of}
    left_out = Counter(str(path.parent) if len(path.parts) > 1 else LOOSE for path in paths if path not in taken)
    folders = {
        root.joinpath(*path.parts[: 1 + path.parts.index(side)])
        for side, there in ((first, firsts), (second, seconds))
        for path in there
    }
    return LaidPairs(splits, dict(sorted(left_out.items())), tuple(sorted(folders)))


def _inside(paths: Iterable[PurePosixPath], name: str) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """(file, its path without the folder ``name``), for files in such a folder, in the root or one below."""
    for path in paths:
        level = next((k for k, part in enumerate(path.parts[:-1][:2]) if part == name), None)
        if level is not None:
            yield path, PurePosixPath(*path.parts[:level], *path.parts[level + 1 :])
