"""Which raw files belong to which split: by names that leave no doubt, or as the user says (``data.splits``).

A folder is cut into splits by itself only where every top folder has a split's name, each split has one of them, and
there is a training split. Where only some names speak of splits nobody is asked to guess: the user says it.
"""

import shlex
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.config import DataConfig
from components.data.sources.files import ARCHIVES, Paths, list_images, need_images
from components.data.sources.split_table import check_listed, has_labels, read_table
from components.data.splits import (
    CLASSES,
    SPLIT_NAMES,
    UNNAMED_SPLITS,
    is_named_as_split,
    is_table,
    parse_splits,
    split_spoken_of,
)
from components.errors import UserError, first_of, unknown

LOOSE = "."  # in what was left out: files that lie in no folder
_LONG_KNOWN = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_FEW = 5  # folders that a line can name
NEW_NAMES = "splits by more names;"  # see Source.revision


class Laid(NamedTuple):
    """Files by split, and how many of which folder are in none; ``labels`` are those of a table, by file."""

    splits: dict[str, Paths]
    left_out: dict[str, int]
    labels: dict[Path, str] | None = None
    revision: str = ""  # Source.revision


def names_told(config: DataConfig) -> set[str]:
    """The folders that ``data.splits`` names."""
    told = config.splits
    return set() if told is None or told == CLASSES or is_table(told) else set(parse_splits(told))


def revision_of(names: Iterable[str]) -> str:
    """`Source.revision` of splits found by the names of folders: not empty for names that were once no split's."""
    return NEW_NAMES if {name.lower() for name in names} - _LONG_KNOWN else ""


def images_by_split(root: Path, told: str | None = None) -> Laid:
    """The images below ``root`` by split. ``told``: ``data.splits``.

    Raises UserError when there are no images, when names speak of splits and leave a doubt, and when ``told`` names
    what is not there.
    """
    paths = need_images(root)
    if told is None:
        splits, revision = _by_names(root, paths)
        return Laid(splits, {}, None, revision)
    if told == CLASSES:
        return Laid({"train": [(path, root / path) for path in paths]}, {})
    return _by_table(root, paths, told) if is_table(told) else _by_told(root, paths, told)


def tops_of(paths: Iterable[PurePosixPath]) -> list[str]:
    """The top folders of files, `LOOSE` for those without, sorted."""
    return sorted({path.parts[0] if len(path.parts) > 1 else LOOSE for path in paths})


def _by_names(root: Path, paths: Sequence[PurePosixPath]) -> tuple[dict[str, Paths], str]:
    """(files by split, `Source.revision`)."""
    tops = tops_of(paths)
    _check_linked(root, tops)
    if not are_splits(tops):
        check_no_splits(root, tops)
        _check_below(root, paths)
        _check_files(root, paths)
        return {"train": [(path, root / path) for path in paths]}, ""
    return _without(root, paths, {top: SPLIT_NAMES[top.lower()] for top in tops}, 0), revision_of(tops)


def _without(root: Path, paths: Iterable[PurePosixPath], split_of: Mapping[str, str], level: int) -> dict[str, Paths]:
    """{split: files}, the folder at ``level`` of each path, which says the split, taken out of its name."""
    splits: dict[str, Paths] = {}
    for path in paths:
        parts = path.parts
        within = PurePosixPath(*parts[:level], *parts[level + 1 :])
        splits.setdefault(split_of[parts[level]], []).append((within, root / path))
    return splits


def are_splits(names: Sequence[str]) -> bool:
    """Whether all names are those of splits, of one each, and one of them is the training split's."""
    splits = [SPLIT_NAMES.get(name.lower()) for name in names]
    return "train" in splits and None not in splits and len(set(splits)) == len(splits)


def check_no_splits(root: Path, tops: Sequence[str], classes: bool = True) -> None:
    """Raise UserError where some of the names speak of splits. ``classes``: whether they could be classes."""
    folders = [top for top in tops if top != LOOSE]
    guess = {top: split_spoken_of(top) for top in folders}
    spoken = [top for top in folders if guess[top]]
    named = [top for top in spoken if is_named_as_split(top)]
    nameless = [top for top in folders if top.lower() in UNNAMED_SPLITS]
    meant = [split for split in guess.values() if split]
    others = [top for top in tops if top not in named]
    if not named and (not nameless or len(tops) < 2) and len(set(meant)) < 2:
        return
    if not others and meant == ["train"]:
        return
    if named and others:
        loose = first_of(sorted(path.name for path in root.iterdir() if path.is_file()), 3)
        shown = [f"what lies loose ({loose})" if top == LOOSE else top for top in others]
        doubt = f"{first_of(named, 5)} {_are(named, 'named')} as splits are, {first_of(shown, 5)} {_are(shown, 'not')}"
    elif len(set(meant)) < len(meant):
        doubt = f"several folders mean one split ({first_of(folders, 5)})"
    elif named and "train" not in meant:
        doubt = f"{first_of(named, 5)} {_are(named, 'named')} as splits are, and none is the training split"
    elif spoken:
        doubt = f"the names {first_of(sorted(spoken), 5)} speak of splits"
    else:
        doubt = f"nobody knows which split {first_of(nameless, 5)} is"
    raise UserError(f"{root}: {doubt}: {_advice(guess, classes)}")


def _are(names: Sequence[str], what: str) -> str:
    return f"{'are' if len(names) > 1 else 'is'} {what}"


def _advice(guess: Mapping[str, str | None], classes: bool = True) -> str:
    """What to type, with the best guess for it, if there is one."""
    names: dict[str, list[str]] = {}
    for name, split in guess.items():
        if split:
            names.setdefault(split, []).append(name)
    if guess and "train" not in names:
        rest = [name for name, split in guess.items() if split is None] or [next(iter(guess))]
        names = {s: [name for name in found if name not in rest] for s, found in names.items()} | {"train": rest}
    parts = [f"{split}={'+'.join(names[split])}" for split in ("train", "val", "test") if names.get(split)]
    example = shlex.quote(",".join(parts))
    typed = bool(guess) and not any(set(name) & set(",+=") for name in guess)  # such names cannot be typed
    ways = ([] if not typed else [f"--splits {example} (what is not named is left out)"]) + [
        "a table of files, --splits FILE.csv"
    ]
    return f"say which is which with {', '.join(ways)}" + f", or --splits {CLASSES} if they are classes" * classes


def _check_linked(root: Path, tops: Sequence[str]) -> None:
    """Raise UserError where the pictures of a split's folder are taken under another name, to which a link leads."""
    for path in sorted(root.iterdir()):
        if path.name not in tops and is_named_as_split(path.name) and path.is_dir() and list_images(path):
            raise UserError(
                f"{root}: the pictures of {path.name} lie in another folder too, to which a link leads: take out one "
                f"of the links, or say which is which with a table of files, --splits FILE.csv"
            )


def _check_below(root: Path, paths: Iterable[PurePosixPath]) -> None:
    """Raise UserError where folders at any depth speak of two splits, or are named as one that is held out:
    cats/train and cats/test, data/images/testB."""
    levels: dict[int, dict[str, PurePosixPath]] = {}  # level: {folder: the first path in it}
    for path in paths:
        for level, name in enumerate(path.parts[:-1]):
            levels.setdefault(level, {}).setdefault(name, path)
    spoken = {level: {n: split for n in names if (split := split_spoken_of(n))} for level, names in levels.items()}
    meant = {split for names in spoken.values() for split in names.values()}
    below = [level for level in sorted(spoken) if level and spoken[level]]
    held = [n for level in below for n, split in spoken[level].items() if split != "train" and is_named_as_split(n)]
    if len(meant) < 2 and not held:
        return
    level = below[0]
    found, names = spoken[level], levels[level]
    inside = PurePosixPath(*min(names[name] for name in found).parts[:level])
    enough = set(found.values()) == meant and ("train" in meant or len(found) < len(names) <= _FEW)
    guess = {name: split_spoken_of(name) for name in (found if "train" in meant else names)} if enough else {}
    raise UserError(
        f"{root}: folders in {inside} are named as splits are ({first_of(sorted(found), 5)}): {_advice(guess)}"
    )


def _check_files(root: Path, paths: Sequence[PurePosixPath]) -> None:
    """Raise UserError where every file's name speaks of a split, and not all of one: train_1.png, test_1.png."""
    found: dict[str, str] = {}
    for path in paths:
        split = split_spoken_of(path.stem)
        if split is None:
            return
        found.setdefault(split, path.name)
    if len(found) > 1:
        raise UserError(
            f"{root}: the names of all files speak of splits ({first_of(sorted(found.values()), 3)}): give a table "
            f"with the columns file,split by --splits FILE.csv, or --splits {CLASSES} if they mean nothing"
        )


def match_told(told: str, names: Iterable[str], where: Path) -> dict[str, str]:
    """{name that is there: split} for what ``told`` names, exactly or but for the case.

    Raises UserError for a name that is not there.
    """
    there = sorted(names)
    found: dict[str, str] = {}
    for name, split in parse_splits(told).items():
        same = [name] if name in there else [each for each in there if each.lower() == name.lower()]
        if len(same) != 1:
            raise unknown("folder of --splits:", name, there, f"{where}")
        if same[0] in found:
            raise UserError(f"--splits {told}: {same[0]} is named twice; correct it")
        found[same[0]] = split
    return found


def _by_told(root: Path, paths: Sequence[PurePosixPath], told: str) -> Laid:
    """By the top folders that are named; where none of them is, by those of the first level below that has one."""
    asked = {name.lower() for name in parse_splits(told)}
    folders: dict[int, set[str]] = {0: set()}
    for path in paths:
        for depth, name in enumerate(path.parts[:-1]):
            folders.setdefault(depth, set()).add(name)
    level = next((depth for depth in sorted(folders) if asked & {name.lower() for name in folders[depth]}), 0)
    split_of = match_told(told, folders[level], root)
    taken, left_out = [], Counter[str]()
    for path in paths:
        if len(path.parts) > level + 1 and path.parts[level] in split_of:
            taken.append(path)
        else:
            left_out["/".join(path.parts[: min(level + 1, len(path.parts) - 1)]) or LOOSE] += 1
    return Laid(_without(root, taken, split_of, level), dict(sorted(left_out.items())))


def _by_table(root: Path, paths: Sequence[PurePosixPath], told: str) -> Laid:
    rows = read_table(told)
    check_listed(rows, set(paths), told, root)
    labels = {root / name: row.label for name, row in rows.items()} if has_labels(told) else None
    tops = tops_of(rows)
    if labels is None and any(top.lower() in SPLIT_NAMES for top in tops):
        raise UserError(
            f"{told}: folders of {root} are named as splits are ({first_of(tops, 5)}), and cannot be classes: add the "
            "column label to the table; leave it empty where there are none"
        )
    splits: dict[str, Paths] = {}
    left_out: Counter[str] = Counter()
    for path in paths:
        if path in rows:
            splits.setdefault(rows[path].split, []).append((path, root / path))
        else:
            left_out[path.parts[0] if len(path.parts) > 1 else LOOSE] += 1
    return Laid(splits, dict(sorted(left_out.items())), labels)


def folders_and_archives(root: Path) -> list[str]:
    """The names of the folders and archives in ``root``, archives without their suffix, hidden ones left out."""
    names = set()
    for path in root.iterdir():
        suffix = next((suffix for suffix in ARCHIVES if path.name.endswith(suffix)), "")
        if not path.name.startswith(".") and (path.is_dir() or (suffix and path.is_file())):
            names.add(path.name if path.is_dir() else path.name.removesuffix(suffix))
    return sorted(names)


def told_table(config: DataConfig) -> bool:
    """Whether ``data.splits`` is a table of files."""
    return config.splits is not None and is_table(config.splits)


def count_left_out(root: Path, taken: Container[Path]) -> dict[str, int]:
    """{top folder: images below ``root`` that were not taken}."""
    counts = Counter(
        path.parts[0] if len(path.parts) > 1 else LOOSE for path in list_images(root) if root / path not in taken
    )
    return dict(sorted(counts.items()))
