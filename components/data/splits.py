"""Names of splits: which words mean training, validation and test, and what a user says where names do not tell.

``data.splits`` (``--splits``) is one of three texts:

- ``train=train+more,val=dev,test=test``: split=name, several names joined by ``+``; what is not named is left out.
- ``classes``: no name means a split, all are classes.
- ``PATH.csv``: a table of files with the columns ``file`` and ``split``, and ``label`` if there are labels.
"""

import re

from components.errors import UserError

SPLIT_NAMES = {
    name: split
    for split, names in {
        "train": "train training trainset trainingset",
        "val": "val valid validation dev devel development eval evaluation holdout valset validationset devset evalset",
        "test": "test testing testset",
    }.items()
    for name in names.split()
}
UNNAMED_SPLITS = frozenset({"unlabeled", "unlabelled", "extra"})  # splits, but nobody knows which: the user says so
CLASSES = "classes"
_SPLITS = ("train", "val", "test")
# Words that say nothing of what is seen: train_images and testB are named as splits are, "test tubes" is not.
_PLAIN = {"image", "images", "img", "imgs", "picture", "pictures", "pic", "pics", "photo", "photos", "jpg", "jpeg"}
_PLAIN |= {"png", "data", "set", "split"}
_JOINED = f"(?:{'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?=(?:{'|'.join(sorted(_PLAIN))})$)"  # testimages
_PARTS = re.compile(f"{_JOINED}|[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words_of(name: str) -> list[str]:
    """The words of a file's or folder's name, in small letters, and the parts of those that are joined of several:
    ``ImageNet-train_01.tar`` -> imagenet, image, net, train, tar; ``testimages`` -> testimages, test, images."""
    words: dict[str, None] = {}
    for run in re.findall("[A-Za-z]+", name):
        words |= dict.fromkeys([run.lower(), *_parts_of(run)])
    return list(words)


def _parts_of(run: str) -> list[str]:
    return [part.lower() for part in _PARTS.findall(run.lower() if run.isupper() else run)]


def split_spoken_of(name: str) -> str | None:
    """The split that the words of a name speak of: ``train_images`` of train; None where it is none, or two."""
    found = {SPLIT_NAMES[word] for word in words_of(name) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def is_named_as_split(name: str) -> bool:
    """Whether a name says nothing but a split: ``test``, ``TestImages``, ``testB``, ``val2017``; not ``test tubes``."""
    runs = re.findall("[A-Za-z]+", name)
    words = [word for run in runs for word in ([run.lower()] if run.lower() in SPLIT_NAMES else _parts_of(run))]
    return split_spoken_of(name) is not None and all(
        word in SPLIT_NAMES or word in _PLAIN or len(word) == 1 for word in words
    )


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
