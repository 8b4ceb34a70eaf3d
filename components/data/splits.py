"""Names of splits: which words mean training, validation and test, and what a user says where names do not tell.

``data.splits`` (``--splits``) is one of three texts:

- ``train=train+more,val=dev,test=test``: split=name, several names joined by ``+``; what is not named is left out.
- ``classes``: no name means a split, all are classes.
- ``PATH.csv``: a table of files with the columns ``file`` and ``split``, and ``label`` if there are labels.
"""

import re

from components.errors import UserError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "devel": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "holdout": "val",
    "test": "test",
    "testing": "test",
}
UNNAMED_SPLITS = frozenset({"unlabeled", "unlabelled", "extra"})  # splits, but nobody knows which: the user says so
CLASSES = "classes"
_SPLITS = ("train", "val", "test")


def words_of(name: str) -> list[str]:
    """The words of a file's or folder's name, in small letters: ``ImageNet-train_01.tar`` -> imagenet, train, tar."""
    return [word for word in re.split("[^a-z]+", name.lower()) if word]


def is_table(text: str) -> bool:
    """Whether ``data.splits`` names a table of files."""
    return text.lower().endswith(".csv")


def parse_splits(text: str) -> dict[str, str]:
    """{name: split} of ``train=NAME+NAME,val=NAME,test=NAME``. Raises UserError for any other text."""
    names: dict[str, str] = {}
    for part in text.split(","):
        split, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals or split not in _SPLITS:
            raise UserError(
                f"--splits {text}: {part.strip()!r} is no SPLIT=NAME with train, val or test as the split: use for "
                "example --splits train=train,val=dev,test=test, a table FILE.csv, or --splits classes"
            )
        for name in (name.strip() for name in given.split("+")):
            if not name or name in names:
                raise UserError(f"--splits {text}: {name!r} is {'named twice' if name else 'no name'}; correct it")
            names[name] = split
    if "train" not in names.values():
        raise UserError(f"--splits {text}: no training split; add train=NAME")
    return names
