"""Which raw files belong to which split: by names that leave no doubt, or as the user says (``data.splits``).

A folder is cut into splits by itself only where every top folder has a split's name, each split has one of them, and
there is a training split. Where only some names speak of splits nobody is asked to guess: the user says it.
"""

import csv
import shlex
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.config import DataConfig
from components.data.sources.files import (
    ARCHIVES,
    Pair,
    Pairs,
    Paths,
    list_images,
    match_partners,
    need_images,
    subfolder,
)
from components.data.splits import CLASSES, SPLIT_NAMES, UNNAMED_SPLITS, is_table, parse_splits, words_of
from components.errors import UserError, first_of, unknown

LOOSE = "."  # in what was left out: files that lie in no folder
_LONG_KNOWN = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_COLUMNS = ("file", "split", "label")
NEW_NAMES = "splits by more names;"  # see Source.revision


class Row(NamedTuple):
    """A line of a table of files."""

    line: int
    split: str
    label: str  # "" where there is none


class Laid(NamedTuple):
    """Files by split, and how many of which folder are in none; ``labels`` are those of a table, by file."""

    splits: dict[str, Paths]
    left_out: dict[str, int]
    labels: dict[Path, str] | None = None
    revision: str = ""  # Source.revision


class LaidPairs(NamedTuple):
    """Pairs by split, and how many files of which folder are in none."""

    splits: dict[str, Pairs]
    left_out: dict[str, int]
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
    if not are_splits(tops):
        check_no_splits(root, tops)
        _check_below(root, paths, tops)
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
    named = [top for top in folders if top.lower() in SPLIT_NAMES]
    nameless = [top for top in folders if top.lower() in UNNAMED_SPLITS]
    spoken = {top: found for top in folders if (found := _meaning(top))}
    if not named and (not nameless or len(tops) < 2) and len(set(spoken.values())) < 2:
        return
    guess = {top: SPLIT_NAMES.get(top.lower()) or spoken.get(top) for top in folders}
    meant = [split for split in guess.values() if split]
    others = [top for top in tops if top not in named]
    if named and others:
        loose = first_of(sorted(path.name for path in root.iterdir() if path.is_file()), 3)
        shown = [f"what lies loose ({loose})" if top == LOOSE else top for top in others]
        doubt = f"{first_of(named, 5)} {_are(named, 'named')} as splits are, {first_of(shown, 5)} {_are(shown, 'not')}"
    elif len(set(meant)) < len(meant):
        doubt = f"several folders mean one split ({first_of(folders, 5)})"
    elif named:
        doubt = f"{first_of(named, 5)} {_are(named, 'named')} as splits are, and none is the training split"
    elif spoken:
        doubt = f"the names {first_of(sorted(spoken), 5)} speak of splits"
    else:
        doubt = f"nobody knows which split {first_of(nameless, 5)} is"
    raise UserError(f"{root}: {doubt}: {_advice(guess, classes)}")


def _are(names: Sequence[str], what: str) -> str:
    return f"{'are' if len(names) > 1 else 'is'} {what}"


def _meaning(name: str) -> str | None:
    """The split that the words of a name speak of: ``train_images`` of train; None where it is none, or two."""
    found = {SPLIT_NAMES[word] for word in words_of(name) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _advice(guess: Mapping[str, str | None], classes: bool = True) -> str:
    """What to type, with the best guess for it."""
    names: dict[str, list[str]] = {}
    for name, split in guess.items():
        if split:
            names.setdefault(split, []).append(name)
    if "train" not in names:
        rest = [name for name, split in guess.items() if split is None] or [next(iter(guess))]
        names = {s: [name for name in found if name not in rest] for s, found in names.items()} | {"train": rest}
    parts = [f"{split}={'+'.join(names[split])}" for split in ("train", "val", "test") if names.get(split)]
    example = shlex.quote(",".join(parts))
    listed = any(set(name) & set(",+=") for name in guess)  # such names cannot be typed
    ways = ([] if listed else [f"--splits {example} (what is not named is left out)"]) + [
        "a table of files, --splits FILE.csv"
    ]
    return f"say which is which with {', '.join(ways)}" + f", or --splits {CLASSES} if they are classes" * classes


def _check_below(root: Path, paths: Iterable[PurePosixPath], tops: Sequence[str]) -> None:
    """Raise UserError where the folders below the top ones are named as splits: cats/train, cats/test, dogs/train."""
    below: dict[str, set[str]] = {}
    for path in paths:
        if len(path.parts) > 2:
            below.setdefault(path.parts[0], set()).add(path.parts[1])
    found = sorted({name for names in below.values() for name in names if name.lower() in SPLIT_NAMES})
    if len({SPLIT_NAMES[name.lower()] for name in found}) > 1:
        inside = next(top for top, names in sorted(below.items()) if names & set(found))
        guess: dict[str, str | None] = {name: SPLIT_NAMES[name.lower()] for name in found}
        deeper = f" (or use --set data.root={root / tops[0]})" if len(tops) == 1 else ""
        raise UserError(
            f"{root}: folders in {inside} are named as splits are ({first_of(found, 5)}): {_advice(guess)}{deeper}"
        )


def _check_files(root: Path, paths: Sequence[PurePosixPath]) -> None:
    """Raise UserError where every file's name speaks of a split, and not all of one: train_1.png, test_1.png."""
    found: dict[str, str] = {}
    for path in paths:
        split = _meaning(path.stem)
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
    """By the top folders that are named; where none of the names is one of those, by the folders below them."""
    asked = {name.lower() for name in parse_splits(told)}
    folders = [{path.parts[level] for path in paths if len(path.parts) > level + 1} for level in (0, 1)]
    level = 1 if not any(f.lower() in asked for f in folders[0]) and any(f.lower() in asked for f in folders[1]) else 0
    split_of = match_told(told, folders[level], root)
    taken, left_out = [], Counter[str]()
    for path in paths:
        if len(path.parts) > level + 1 and path.parts[level] in split_of:
            taken.append(path)
        else:
            left_out["/".join(path.parts[: min(level + 1, len(path.parts) - 1)]) or LOOSE] += 1
    return Laid(_without(root, taken, split_of, level), dict(sorted(left_out.items())))


def read_table(told: str) -> dict[PurePosixPath, Row]:
    """{file: row} of a table with the columns file, split and, if there are labels, label.

    Raises UserError, with the number of the line, for whatever it cannot mean.
    """
    path = Path(told).expanduser()
    rows: dict[PurePosixPath, Row] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            heading = [cell.strip().lower() for cell in next(reader, [])]
            if not {"file", "split"} <= set(heading) <= set(_COLUMNS) or len(set(heading)) != len(heading):
                raise UserError(
                    f"{path}, line 1: the columns are {','.join(heading) or 'none'}: they must be file,split or "
                    "file,split,label"
                )
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    _add_row(rows, path, reader.line_num, heading, [cell.strip() for cell in cells])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no text of comma-separated values in UTF-8"
        raise UserError(f"--splits {told} cannot be read ({reason}): correct it, or its path") from None
    if "train" not in {row.split for row in rows.values()}:
        raise UserError(f"{path} has no file of the training split: add some with split train")
    bare = next((row for row in rows.values() if not row.label), None)
    if bare and any(row.label for row in rows.values()):
        raise UserError(f"{path}, line {bare.line}: no label, and other lines have one: add it, or drop the column")
    return rows


def _add_row(
    rows: dict[PurePosixPath, Row], path: Path, line: int, heading: Sequence[str], cells: Sequence[str]
) -> None:
    if len(cells) != len(heading):
        raise UserError(f"{path}, line {line}: {len(cells)} values for the {len(heading)} columns {','.join(heading)}")
    values = dict(zip(heading, cells, strict=True))
    split = SPLIT_NAMES.get(values["split"].lower())
    if split is None:
        raise UserError(f"{path}, line {line}: {values['split']!r} is no split: it must be train, val or test")
    name = PurePosixPath(values["file"])
    if name in rows:
        raise UserError(f"{path}, line {line}: {name} was in line {rows[name].line} before: take one of them out")
    rows[name] = Row(line, split, values.get("label", ""))


def has_labels(told: str) -> bool:
    """Whether a table of files has the column label."""
    with open(Path(told).expanduser(), newline="", encoding="utf-8-sig") as file:
        return "label" in [cell.strip().lower() for cell in next(csv.reader(file), [])]


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


def check_listed(rows: Mapping[PurePosixPath, Row], there: set[PurePosixPath], told: str, root: Path) -> None:
    """Raise UserError for a row of a table whose file is none of the images that are ``there``."""
    missing = next((name for name in rows if name not in there), None)
    if missing is not None:
        raise UserError(
            f"{told}, line {rows[missing].line}: no image {missing} in {root}: correct it; paths start there"
        )


def partners_by_split(root: Path, first: str, second: str, kind: str, told: str | None = None) -> LaidPairs:
    """{split: files in folder ``first``, each with the file of the same name in ``second``}; suffixes may differ.

    ``root`` holds the two folders, with or without a subfolder per split, or it holds a folder (or archive) per split,
    which holds the two. ``told``: ``data.splits``; a table names the files of ``first``. Raises UserError where a
    file has no partner, and as `images_by_split`.
    """
    if told is not None and is_table(told):
        return _partners_by_table(root, first, second, told)
    if (root / first).is_dir():
        sides = [images_by_split(_need_folder(root, name), told) for name in (first, second)]
        missing = sorted(sides[0].splits.keys() ^ sides[1].splits.keys())
        if missing:
            raise UserError(f"only one of the folders {first} and {second} in {root} has a {missing[0]} split")
        pairs = {
            split: match_partners(split, paths, sides[1].splits[split]) for split, paths in sides[0].splits.items()
        }
        left_out = {
            f"{name}/{top}": n
            for name, side in zip((first, second), sides, strict=True)
            for top, n in side.left_out.items()
        }
        return LaidPairs(pairs, left_out | count_images(root, others_in(root, {first, second})), sides[0].revision)
    named = folders_and_archives(root)
    split_of = _split_folders(root, first, kind, named, told)
    splits: dict[str, Pairs] = {}
    for name, split in split_of.items():
        folder = subfolder(root, name, kind)
        assert folder is not None, name
        here, there = (_need_folder(folder, side) for side in (first, second))
        firsts, seconds = ([(path, side / path) for path in need_images(side)] for side in (here, there))
        splits.setdefault(split, []).extend(match_partners(split if told is None else name, firsts, seconds))
    revision = revision_of(split_of) if told is None else ""
    return LaidPairs(splits, count_images(root, others_in(root, split_of)), revision)


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


def folders_and_archives(root: Path) -> list[str]:
    """The names of the folders and archives in ``root``, archives without their suffix, hidden ones left out."""
    names = set()
    for path in root.iterdir():
        suffix = next((suffix for suffix in ARCHIVES if path.name.endswith(suffix)), "")
        if not path.name.startswith(".") and (path.is_dir() or (suffix and path.is_file())):
            names.add(path.name if path.is_dir() else path.name.removesuffix(suffix))
    return sorted(names)


def others_in(root: Path, names: Iterable[str]) -> list[str]:
    """The folders of ``root`` that are none of ``names``."""
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in names
    )


def count_images(root: Path, names: Iterable[str]) -> dict[str, int]:
    """{folder of ``root``: images in it}, those without left out."""
    counts = {name: len(list_images(root / name)) for name in names}
    return {name: count for name, count in counts.items() if count}


def told_table(config: DataConfig) -> bool:
    """Whether ``data.splits`` is a table of files."""
    return config.splits is not None and is_table(config.splits)


def count_left_out(root: Path, taken: Container[Path]) -> dict[str, int]:
    """{top folder: images below ``root`` that were not taken}."""
    counts = Counter(
        path.parts[0] if len(path.parts) > 1 else LOOSE for path in list_images(root) if root / path not in taken
    )
    return dict(sorted(counts.items()))


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
    left_out: Counter[str] = Counter()
    splits: dict[str, Pairs] = {}
    partners = {within.with_suffix(""): path for path, within in seconds.items()}
    for path, within in firsts.items():
        if path not in rows:
            left_out[str(path.parent)] += 1
            continue
        partner = partners.get(within.with_suffix(""))
        if partner is None:
            raise UserError(f"{path} has no partner of the same name in a folder {second}: add it or remove the image")
        splits.setdefault(rows[path].split, []).append(Pair(str(path), root / path, root / partner))
    return LaidPairs(splits, dict(sorted(left_out.items())))


def _inside(paths: Iterable[PurePosixPath], name: str) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """(file, its path without the folder ``name``), for files in such a folder, in the root or one below."""
    for path in paths:
        level = next((k for k, part in enumerate(path.parts[:-1][:2]) if part == name), None)
        if level is not None:
            yield path, PurePosixPath(*path.parts[:level], *path.parts[level + 1 :])
