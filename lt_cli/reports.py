"""What a test says of classes: tables of them, what is taken for what, and the worst mistakes, as pictures."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Counts = NDArray[np.int64]
Color = tuple[int, int, int]

MOST_CLASSES = 40
"""A picture of more classes shows the most frequent ones but one, and all others as one."""

SIDE, SMALLEST_CELL, LARGEST_CELL = 900, 26, 116
"""About the matrix's side, and bounds of a cell's, in pixels."""

MARGIN, GAP, TEXT_SIZE, SMALLEST_TEXT, LONGEST_NAME = 24, 9, 15, 8, 24
SMALLEST_TILE, TILE_TEXT = 96, 11
"""Pictures of mistakes are enlarged by a whole factor to about this many pixels; the size of the text below them."""

INK, FAINT, LINES, DARKEST = (36, 40, 49), (110, 116, 128), (226, 230, 236), (13, 59, 122)


def class_table(confusion: Counts, names: Sequence[str]) -> list[str]:
    """Precision, recall, F1 and rows of each class, then the accuracy and the means, as scikit-learn reports them.

    A class that is neither a row's label nor a prediction has dashes, and no part in the macro mean.

    Args:
        confusion: Rows by label and prediction.
        names: The classes' names.

    Shape:
        - confusion: (C, C), int
    """
    right, predicted, support = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    total = int(support.sum())
    accuracy = ["accuracy", "", "", f"{_quotient(right.sum(), total):.3f}", str(total)]
    return _table("class", names, right, predicted, support, [accuracy])


def span_table(counts: Counts, types: Sequence[str]) -> list[str]:
    """Precision, recall, F1 and number of spans of each type, then the micro, macro and weighted means, as seqeval.

    Args:
        counts: Spans of each type that are right, predicted, and in the data; SpanScores has them.
        types: The types' names; counts may have one more row, for others, which is shown where there are any.

    Shape:
        - counts: (T, 3) or (T + 1, 3), int
    """
    names = [name or "_" for name in types]
    if len(counts) > len(names):
        counts, names = (counts, [*names, "(other)"]) if counts[-1].any() else (counts[:-1], names)
    sums = counts.sum(axis=0)
    micro = ["micro avg", *(f"{value:.3f}" for value in _scores(*sums)), str(sums[2])]
    right, predicted, support = counts.T
    return _table("type", names, right, predicted, support, [micro])


def _quotient(part: Counts | int, whole: Counts | int) -> NDArray[np.float64]:
    """0 where there is nothing to divide by."""
    return np.where(np.asarray(whole) > 0, part / np.maximum(whole, 1), 0.0)


def _scores(right: Counts, predicted: Counts, support: Counts) -> NDArray[np.float64]:
    """Precision, recall and F1."""
    return np.stack([_quotient(right, predicted), _quotient(right, support), _quotient(2 * right, predicted + support)])


def _table(
    kind: str, names: Sequence[str], right: Counts, predicted: Counts, support: Counts, totals: list[list[str]]
) -> list[str]:
    """Aligned lines: a header, the classes, totals, and the two means over classes."""
    scores, seen = _scores(right, predicted, support), predicted + support > 0
    macro = scores[:, seen].mean(axis=1) if seen.any() else np.zeros(3)
    weighted = (scores * support).sum(axis=1) / max(int(support.sum()), 1)
    rows = [
        [name, *(f"{value:.3f}" if there else "–" for value in values), str(number)]
        for name, values, number, there in zip(names, scores.T, support, seen, strict=True)
    ]
    means = [
        [name, *(f"{value:.3f}" for value in values), str(support.sum())]
        for name, values in (("macro avg", macro), ("weighted avg", weighted))
    ]
    head = [kind, "precision", "recall", "f1", "support"]
    every = [head, *rows, *totals, *means]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    lines = [
        "  ".join(f"{cell:{'>' if i else '<'}{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in every
    ]
    return [*lines[: len(rows) + 1], "", *lines[len(rows) + 1 :]]


def confusion_picture(confusion: Counts, names: Sequence[str]) -> NDArray[np.uint8]:
    """A confusion matrix with a line per label and a column per prediction; a cell's shade is its share of the line.

    Beyond 40 classes it shows the 39 with the most rows, and all others as one, and says so; the accuracy is of all
    classes, while the others' own cell holds what they are taken for among themselves too.

    Args:
        confusion: Rows by label and prediction.
        names: The classes' names; letters that the font lacks are left out, or the class's number stands for it.

    Shape:
        - confusion: (C, C), int
        - output: (H, W, 3), uint8
    """
    total, accuracy = int(confusion.sum()), float(_quotient(confusion.trace(), confusion.sum()))
    title = f"{total:,} rows, accuracy {accuracy:.3f}"
    names = [drawable(name, i) for i, name in enumerate(names)]
    if len(names) > MOST_CLASSES:
        title += f"; the {MOST_CLASSES - 1} most frequent of {len(names)} classes, all others as one"
        confusion, names = _most_frequent(confusion, names)
    return np.asarray(_drawn(confusion, names, title))


def mistakes_picture(
    pictures: NDArray[np.uint8], labels: Sequence[str], predictions: Sequence[str]
) -> NDArray[np.uint8]:
    """Wrongly classified pictures, eight side by side, each with its label and what it was taken for below it.

    Shape:
        - pictures: (N, H, W, 3), uint8
    """
    factor = max(1, SMALLEST_TILE // min(pictures.shape[1:3]))
    tiles = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    num, height, width, _ = tiles.shape
    font = _font(TILE_TEXT)
    line = sum(font.getmetrics())
    columns = min(num, 8)
    down, right = height + 2 * line + GAP, width + GAP
    sheet = Image.new("RGB", (columns * right + GAP, -(-num // columns) * down + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (tile, label, prediction) in enumerate(zip(tiles, labels, predictions, strict=True)):
        x, y = GAP + i % columns * right, GAP + i // columns * down
        sheet.paste(Image.fromarray(tile), (x, y))
        draw.text((x, y + height), _shortened(f"is {label}", font, width), fill=INK, font=font)
        draw.text((x, y + height + line), _shortened(f"taken for {prediction}", font, width), fill=FAINT, font=font)
    return np.asarray(sheet)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of a text as is no wider."""
    while font.getlength(text) > width:
        text = f"{text[:-2].rstrip('.')}." if len(text) > 2 else ""
    return text


def _most_frequent(confusion: Counts, names: Sequence[str]) -> tuple[Counts, list[str]]:
    """The matrix of the classes with the most rows, in their order, and all others as one class."""
    kept = np.sort(np.argsort(-confusion.sum(axis=1), kind="stable")[: MOST_CLASSES - 1])
    place = np.full(len(names), MOST_CLASSES - 1)
    place[kept] = np.arange(len(kept))
    folded = np.zeros((MOST_CLASSES, MOST_CLASSES), dtype=confusion.dtype)
    np.add.at(folded, (place[:, None], place[None, :]), confusion)
    return folded, [*(names[i] for i in kept), "(others)"]


def drawable(name: str, i: int) -> str:
    """A name in the letters that the font has, shortened in its middle; a class's number where little would be left."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    if not (plain.isascii() and plain.isprintable() and plain.strip()):
        return f"#{i}"
    if len(plain) <= LONGEST_NAME:
        return plain
    half = LONGEST_NAME // 2 - 1
    return f"{plain[:half]}...{plain[3 + half - LONGEST_NAME :]}"


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's own wheels have FreeType
    return font


def _fitting(texts: Sequence[str], width: float, largest: int) -> ImageFont.FreeTypeFont | None:
    """The largest font in which each text is no wider; None where that is too small to read."""
    fonts = (_font(size) for size in range(largest, SMALLEST_TEXT - 1, -1))
    return next((font for font in fonts if max(map(font.getlength, texts), default=0) <= width), None)


def _shades(confusion: Counts) -> NDArray[np.uint8]:
    """White to the darkest by a cell's share of its line; what is not zero can be told from white."""
    shares = _quotient(confusion, confusion.sum(axis=1, keepdims=True))
    depths = np.where(confusion > 0, 0.06 + 0.94 * shares, 0.0)[..., None]
    white = np.array([255, 255, 255])
    shades: NDArray[np.uint8] = (white + depths * (np.array(DARKEST) - white)).round().astype(np.uint8)
    return shades


def _upward(picture: Image.Image, x: float, y: float, text: str, font: ImageFont.FreeTypeFont, ink: Color) -> None:
    """Text that runs upwards and ends at the height y, in a column whose middle is x."""
    height = sum(font.getmetrics())
    strip = Image.new("L", (int(font.getlength(text)) + 2, height))
    ImageDraw.Draw(strip).text((0, 0), text, fill=255, font=font)
    turned = strip.rotate(90, expand=True)
    picture.paste(ink, (round(x - height / 2), round(y)), turned)


def _drawn(confusion: Counts, names: Sequence[str], title: str) -> Image.Image:
    """The picture: a title, names at the left and below, and the cells."""
    num = len(names)
    cell = min(max(SIDE // num, SMALLEST_CELL), LARGEST_CELL)
    font = _font(min(TEXT_SIZE, cell * 2 // 3))
    line = sum(font.getmetrics())
    longest = max(map(font.getlength, names))
    is_level = longest <= cell - 8
    left, top = MARGIN + line + GAP + int(longest) + GAP, MARGIN + line + 2 * GAP
    below = line if is_level else int(longest) + 2
    side = num * cell
    width = max(left + side, MARGIN + int(font.getlength(title))) + MARGIN
    picture = Image.new("RGB", (width, top + side + GAP + below + GAP + line + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font)

    counts = [f"{count:,}" for count in confusion.flat]
    inside = _fitting(counts, cell - 4, min(TEXT_SIZE, cell // 2))
    for i, (count, shade) in enumerate(zip(counts, _shades(confusion).reshape(-1, 3), strict=True)):
        x, y = left + i % num * cell, top + i // num * cell
        draw.rectangle((x, y, x + cell, y + cell), fill=tuple(shade.tolist()), outline=LINES)
        if inside is not None and count != "0":
            ink = "white" if shade[1] < 160 else INK
            draw.text((x + cell / 2, y + cell / 2), count, fill=ink, font=inside, anchor="mm")
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell
        draw.text((left - GAP, top + middle), name, fill=INK, font=font, anchor="rm")
        if is_level:
            draw.text((left + middle, top + side + GAP), name, fill=INK, font=font, anchor="ma")
        else:
            _upward(picture, left + middle, top + side + GAP, name, font, INK)
    draw.text((left + side / 2, top + side + GAP + below + GAP), "prediction", fill=FAINT, font=font, anchor="ma")
    _upward(picture, MARGIN + line / 2, top + side / 2 - font.getlength("label") / 2, "label", font, FAINT)
    return picture
