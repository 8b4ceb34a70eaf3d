"""A contact sheet: some samples of a prepared data set in one picture, with everything that is known about them."""

import colorsys
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from components.data.boxes import unpack_boxes
from components.data.dataset import ShardedDataset
from components.data.images import BrokenImage, decode_full, decode_map
from components.data.shards import Index
from components.data.sources.base import UNKNOWN
from components.errors import UserError, unknown
from pipelines.data.opening import fetcher, read_index_at

UInt8 = NDArray[np.uint8]
Colour = tuple[int, int, int]

COUNT = 24
SIDE = 200  # pixels of the longer side of a picture; small ones are enlarged so that their pixels can be seen
WIDTH = 1640  # of a sheet, at most, where a sample is not wider by itself
GAP, LINE, SWATCH = 8, 20, 12
OVERLAY = 0.6  # share of a mask's colour in its overlay
GREY: Colour = (150, 150, 150)  # where nobody knows the class
_SHADES = ((1.0, 0.9), (0.65, 0.9), (1.0, 0.5))  # value, saturation: classes of neighbouring hues differ in these
_NUMBERED = re.compile(r"(g\d+-)?(other_)?(train|val|test)-\d{9}-(?=.)")  # how keys of files begin


@dataclass(frozen=True)
class Tile:
    """One sample: its pictures, side by side, and a line below."""

    pictures: list[Image.Image]
    caption: str
    classes: frozenset[int]  # in its boxes and mask, UNKNOWN among them


def show(url: str, split: str, count: int, to: Path, cache: Path) -> dict[str, int]:
    """Write the contact sheet of the first ``count`` samples of a split into the image file ``to``.

    Splits are shuffled when they are prepared, so the first samples are as good as any and lie in few shards. Where
    the data has two domains, both are shown. ``cache``: folder for shards of a bucket. Returns {split: samples shown}.
    Raises UserError for a split that is not there and for a file name that is no picture's.
    """
    if to.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--to {to}: the sheet is a picture; use a name that ends in .png")
    index = read_index_at(url)
    if split not in index.splits:
        raise unknown("split", split, index.splits)
    sections = {}
    for each in (split, f"other_{split}"):
        if each in index.splits:
            dataset = ShardedDataset(index, each, fetcher(url, index, cache), size=8, cache_bytes=0)
            sections[each] = [tile_of(dataset, index, k) for k in range(min(count, len(dataset)))]
    titles = {each: f"{each}: {len(tiles)} of {index.samples(each)}" for each, tiles in sections.items()}
    to.parent.mkdir(parents=True, exist_ok=True)
    compose({titles[each]: tiles for each, tiles in sections.items()}, index.classes).save(to)
    return {each: len(tiles) for each, tiles in sections.items()}


def tile_of(dataset: ShardedDataset, index: Index, sample_id: int) -> Tile:
    """Image with boxes, target, drawing, and image with mask of one sample; the class, else the key, below."""
    caption, classes = _NUMBERED.sub("", dataset.key(sample_id)), set[int]()
    try:
        image_HW3 = decode_full(dataset.member(sample_id, "image"))
        pictures = [_scaled(image_HW3)]
        if "boxes" in index.fields:
            boxes_K4, labels_K = unpack_boxes(dataset.member(sample_id, "boxes"))
            scale = pictures[0].width / image_HW3.shape[1]
            _draw_boxes(pictures[0], boxes_K4 * scale, labels_K.tolist(), len(index.classes))
            classes |= set(labels_K.tolist())
        for field in ("target", "edges"):
            if field in index.fields:
                pictures.append(_scaled(decode_full(dataset.member(sample_id, field))))
        if "mask" in index.fields:
            mask_HW = decode_map(dataset.member(sample_id, "mask"))
            pictures.append(_overlaid(image_HW3, mask_HW, len(index.classes)))
            classes |= {int(value) - 1 if value != UNKNOWN else UNKNOWN for value in np.unique(mask_HW) if value}
        if "label" in index.fields:
            caption = index.classes[int(dataset.member(sample_id, "label"))]
    except (BrokenImage, ValueError, IndexError) as error:
        return Tile([Image.new("RGB", (SIDE, SIDE), GREY)], f"broken: {error}", frozenset())
    return Tile(pictures, caption, frozenset(classes))


def compose(sections: dict[str, list[Tile]], classes: Sequence[str]) -> Image.Image:
    """{title: tiles} -> one picture: a legend of the classes that occur, then the sections, row by row."""
    tiles = [tile for section in sections.values() for tile in section]
    width = max(sum(p.width for p in tile.pictures) + 2 * (len(tile.pictures) - 1) for tile in tiles)
    height = max(picture.height for tile in tiles for picture in tile.pictures)
    most = max(map(len, sections.values()))
    rows = -(-most // max(1, (WIDTH - GAP) // (width + GAP)))
    across = -(-most // rows)
    full = GAP + across * (width + GAP)
    legend = list(_legend(sorted(frozenset().union(*(tile.classes for tile in tiles))), classes, full))
    rows = sum(-(-len(section) // across) for section in sections.values())
    top = (legend[-1][1] + LINE + GAP) if legend else 0
    total = top + len(sections) * (LINE + GAP) + rows * (height + LINE + GAP)
    canvas = Image.new("RGB", (full, total), "white")
    draw, font = ImageDraw.Draw(canvas), _font()
    for left, above, colour, name in legend:
        draw.rectangle((left, above + 4, left + SWATCH, above + 4 + SWATCH), colour, "black")
        draw.text((left + SWATCH + 5, above + LINE // 2), name, "black", font, anchor="lm")
    for title, section in sections.items():
        draw.text((GAP, top + GAP // 2 + LINE // 2), title, "black", ImageFont.load_default(16), anchor="lm")
        top += LINE + GAP
        for start in range(0, len(section), across):
            for column, tile in enumerate(section[start : start + across]):
                left = GAP + column * (width + GAP)
                draw.text((left, top + height + LINE // 2), _fitted(tile.caption, width), "black", font, anchor="lm")
                for picture in tile.pictures:
                    canvas.paste(picture, (left, top))
                    left += picture.width + 2
            top += height + LINE + GAP
    return canvas


def _legend(found: Sequence[int], classes: Sequence[str], width: int) -> Iterator[tuple[int, int, Colour, str]]:
    """(left, top, colour, name) of each entry, in as many lines as it takes."""
    left, top, font = GAP, GAP // 2, _font()
    for label in found:
        name = "unknown" if label == UNKNOWN else classes[label] if label < len(classes) else f"class {label}"
        wide = SWATCH + 5 + int(font.getlength(name)) + 2 * GAP
        if left + wide > width and left > GAP:
            left, top = GAP, top + LINE
        yield left, top, colour_of(label, len(classes)), name
        left += wide


def colour_of(label: int, classes: int) -> Colour:
    """The colour of a class among ``classes``, the same on every sheet of a data set."""
    if label == UNKNOWN:
        return GREY
    value, saturation = _SHADES[label % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(label / max(1, classes) % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _scaled(rgb_HW3: UInt8, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The longer side brought to SIDE; enlarged by whole numbers only, so that pixels stay square."""
    image = Image.fromarray(rgb_HW3)
    factor = SIDE / max(image.size)
    if factor >= 1:
        whole = int(factor)
        return image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), resample)


def _overlaid(image_HW3: UInt8, mask_HW: UInt8, classes: int) -> Image.Image:
    colours = np.zeros((256, 3), np.uint8)
    colours[1:UNKNOWN] = [colour_of(label, classes) for label in range(UNKNOWN - 1)]
    colours[UNKNOWN] = GREY
    under, over = _scaled(image_HW3), _scaled(colours[mask_HW], Image.Resampling.NEAREST)
    known = _scaled(np.repeat((mask_HW > 0)[:, :, None] * np.uint8(255), 3, axis=2), Image.Resampling.NEAREST)
    return Image.composite(Image.blend(under, over, OVERLAY), under, known.convert("1"))


def _draw_boxes(picture: Image.Image, boxes_K4: NDArray[np.float64], labels: Sequence[int], classes: int) -> None:
    """Outlines just inside of each box."""
    draw = ImageDraw.Draw(picture)
    for (left, top, right, bottom), label in zip(boxes_K4.round().astype(int).tolist(), labels, strict=True):
        draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour_of(label, classes), width=2
        )


def _fitted(text: str, width: int) -> str:
    """As much of the end of ``text`` as fits: keys begin alike."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    start = next(k for k in range(1, len(text) + 1) if font.getlength("…" + text[k:]) <= width)
    return "…" + text[start:]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
