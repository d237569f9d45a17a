"""Rows of the gallery on documents: text direction, text recognition and text detection of PaddleOCR.

All labels are exact, because the images are rendered here: words of WikiText-2 in the fonts that matplotlib ships, with varying
size, colour, background, slant, blur and noise. Calibration examples take their words from another text than test examples.
Inputs are prepared as PaddleOCR and rapidocr do it, except that Pillow resizes the images: blue, green, red; height 48 with the
ratio kept and padded with zeros for lines, normalised by the moments of ImageNet for pages.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from benchmarks.gallery_row import Row, Run
from tests.data import data_file

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmss10", "cmtt10", "cmb10", "cmti10"),
)
HEIGHT, DIRECTION_WIDTH, RECOGNITION_WIDTH = 48, 192, 320  # pixels of a line as the networks take it
PAGE = 320  # pixels, height and width of a page
LINES = {"test": 200, "calibration": 64, "held_out": 200}
PAGES = {"test": 80, "calibration": 32}
SEEDS = {"test": 11, "calibration": 12, "held_out": 13}
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # PaddleOCR, on BGR
THRESHOLD, BOX_SCORE, UNCLIP = 0.3, 0.6, 1.5  # of the postprocessing of DB (Liao et al. 2020), as PaddleOCR sets them
BATCH = 20  # examples of one call: all at once would need gigabytes

Examples = Callable[[str], tuple[np.ndarray, Any]]  # split -> inputs `[n, ...]`, labels
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Line:
    """One line of text as an image.

    Attributes:
        text: what is written, words with single spaces between them.
        image: RGB image of the line, cut out as a detector does: a wider margin at its ends would be read as a space.
    """

    text: str
    image: Image.Image


# --- text and images


@functools.cache
def words(split: str) -> tuple[str, ...]:
    """The words of a split, in the order of the text: `test` and `held_out` take the two halves of one text.

    Words hold letters, digits and the signs of ordinary text; the marks of WikiText-2, such as `<unk>` and `@-@`, are left out.
    """
    source = "wikitext2_test" if split == "calibration" else "wikitext2_valid"
    everything = data_file(f"text/{source}.txt").read_text(encoding="utf-8").split()
    kept = [word for word in everything if word.isascii() and word.strip("-'.").replace("-", "").isalnum()]
    half = len(kept) // 2
    return tuple({"test": kept[:half], "held_out": kept[half:]}.get(split, kept))


@functools.cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib ships, `size` pixels high."""
    import matplotlib  # for its fonts alone, which few rows need

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def passage(draw: np.random.Generator, split: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Successive words from a random place of the text, as many as fit into `width` pixels, and at least one."""
    source = words(split)
    at = int(draw.integers(len(source) - 20))
    while face.getlength(source[at]) > width:
        at = (at + 1) % (len(source) - 20)
    count = 1
    while count < 20 and face.getlength(" ".join(source[at : at + count + 1])) <= width:
        count += 1
    return " ".join(source[at : at + count])


def colours(draw: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Colours of the background and of the ink whose brightness differs by at least 70 of 255."""
    while True:
        background, ink = draw.integers(0, 256, size=(2, 3))
        if draw.random() < 0.5:  # paper is often white and ink often black
            background, ink = 255 - background // 4, ink // 3
        if abs(float(background.mean() - ink.mean())) >= 70:
            return tuple(map(int, background)), tuple(map(int, ink))


def degraded(draw: np.random.Generator, image: Image.Image, blur: float, noise: float) -> Image.Image:
    """The image with uneven light, Gaussian blur of up to `blur` pixels and noise with a deviation of up to `noise` of 255."""
    width, height = image.size
    image = image.filter(ImageFilter.GaussianBlur(float(draw.uniform(0, blur))))
    across, down = (np.interp(np.linspace(0, 1, n), (0, 1), draw.uniform(-r, r, size=2)) for n, r in ((width, 30), (height, 15)))
    light = across + down[:, None]
    pixels = np.asarray(image, np.float32) + light[..., None]
    pixels = pixels + draw.normal(0, draw.uniform(0, noise), size=pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def rendered_line(draw: np.random.Generator, split: str) -> Line:
    """A random line, at most as wide as 6.6 times its height, so that recognition sees it unsqueezed."""
    size = int(draw.integers(16, 49))
    face = font(FONTS[draw.integers(len(FONTS))], size)
    up, down = face.getmetrics()
    pad_x, pad_y = (int(value * size) for value in draw.uniform((0.0, 0.0), (0.1, 0.15)))
    height = up + down + 2 * pad_y
    text = passage(draw, split, face, min(draw.uniform(3, 6.6) * height, 6.6 * height - 2 * pad_x))
    background, ink = colours(draw)
    image = Image.new("RGB", (math.ceil(face.getlength(text)) + 2 * pad_x, height), background)
    ImageDraw.Draw(image).text((pad_x, pad_y), text, font=face, fill=ink)
    image = image.rotate(float(draw.uniform(-1.5, 1.5)), Image.Resampling.BICUBIC, fillcolor=background)
    return Line(text, degraded(draw, image, blur=size / 22, noise=45))


@functools.cache
def lines(split: str, seed: int) -> tuple[Line, ...]:
    """The lines of a split, deterministic by the seed."""
    draw = np.random.default_rng(seed)
    return tuple(rendered_line(draw, split) for _ in range(LINES[split]))


def scaled_line(image: Image.Image, width: int) -> np.ndarray:
    """The input `[3, 48, width]` of a line: BGR in [-1, 1], the ratio kept, squeezed where it is too wide, padded with zeros."""
    fitted = min(width, math.ceil(HEIGHT * image.width / image.height))
    pixels = np.asarray(image.resize((fitted, HEIGHT), Image.Resampling.BILINEAR), np.float32)[..., ::-1]
    array = np.zeros((3, HEIGHT, width), np.float32)
    array[:, :, :fitted] = pixels.transpose(2, 0, 1) / 127.5 - 1
    return array


def in_batches(run: Run, x: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The outputs of a file on `x [n, ...]`, 20 examples at a time."""
    return (run({"x": x[at : at + BATCH]}) for at in range(0, len(x), BATCH))


# --- direction


@functools.cache
def directions(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Lines `[n, 3, 48, 192]`, half of them upside down, and the class `[n]`: 1 where a line is rotated by 180 degrees."""
    seed = SEEDS[split]
    turned = np.random.default_rng(seed + 100).permutation(LINES[split]) % 2
    images = [line.image.rotate(180) if turn else line.image for line, turn in zip(lines(split, seed), turned, strict=True)]
    return np.stack([scaled_line(image, DIRECTION_WIDTH) for image in images]), turned.astype(np.int64)


def direction_scores(run: Run) -> np.ndarray:
    """1 for each test line whose direction is right, 0 for others, `[200]`."""
    x, turned = directions("test")
    return (np.concatenate([outputs[0] for outputs in in_batches(run, x)]).argmax(1) == turned).astype(np.float64)


# --- recognition


@functools.cache
def classes() -> dict[str, int]:
    """Character -> class of the recogniser: 0 is CTC's blank, the last class is the space."""
    session = onnxruntime.InferenceSession(model("ch_PP-OCRv4_rec_infer"), providers=["CPUExecutionProvider"])
    alphabet = [*session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    return {character: index for index, character in enumerate(alphabet, 1)}


@functools.cache
def recognitions(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Lines `[n, 3, 48, 320]` and their classes `[n, L]`, padded with -1."""
    shown = lines(split, SEEDS[split] + 10)
    labels = np.full((len(shown), max(len(line.text) for line in shown)), -1, np.int64)
    for row, line in zip(labels, shown, strict=True):
        row[: len(line.text)] = [classes()[character] for character in line.text]
    return np.stack([scaled_line(line.image, RECOGNITION_WIDTH) for line in shown]), labels


def ctc_decoded(scores: np.ndarray) -> list[list[int]]:
    """The classes that greedy decoding reads from scores `[n, T, classes]`: the best of each step, without repeats and blanks."""
    best = scores.argmax(2)
    kept = (best != 0) & (best != np.pad(best, ((0, 0), (1, 0)), constant_values=-1)[:, :-1])
    return [row[keep].tolist() for row, keep in zip(best, kept, strict=True)]


def recognition_scores(run: Run) -> np.ndarray:
    """1 for each test line that is read without an error, spaces included, 0 for others, `[200]`."""
    x, labels = recognitions("test")
    read = [row for outputs in in_batches(run, x) for row in ctc_decoded(outputs[0])]
    return np.array([row == [c for c in label if c >= 0] for row, label in zip(read, labels.tolist(), strict=True)], np.float64)


# --- detection


def rendered_page(draw: np.random.Generator, split: str) -> tuple[Image.Image, list[Box]]:
    """A page with 2 to 7 horizontal lines that don't touch, and the boxes of their ink."""
    background, ink = colours(draw)
    image, boxes, top = Image.new("RGB", (PAGE, PAGE), background), [], int(draw.integers(6, 40))
    pen = ImageDraw.Draw(image)
    for _ in range(draw.integers(2, 8)):
        face = font(FONTS[draw.integers(len(FONTS))], int(draw.integers(11, 34)))
        left = int(draw.integers(6, 120))
        text = passage(draw, split, face, draw.uniform(0.3, 1) * (PAGE - 8 - left))
        box = pen.textbbox((left, top), text, font=face)
        if box[3] > PAGE - 6:
            break
        pen.text((left, top), text, font=face, fill=ink)
        boxes.append(tuple(map(float, box)))
        top = math.ceil(box[3] + draw.uniform(6, 40))
    return degraded(draw, image, blur=1.3, noise=45), boxes


@functools.cache
def pages(split: str) -> tuple[np.ndarray, list[list[Box]]]:
    """Pages `[n, 3, 320, 320]`, normalised, and the boxes of the lines on each."""
    draw = np.random.default_rng(SEEDS[split] + 20)
    drawn = [rendered_page(draw, split) for _ in range(PAGES[split])]
    pixels = np.stack([np.asarray(image, np.float32)[..., ::-1] for image, _ in drawn])
    return np.ascontiguousarray(((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2)), [boxes for _, boxes in drawn]


def found_boxes(probability: np.ndarray) -> list[Box]:
    """The boxes of a map `[height, width]` of text probabilities, as DB finds them for horizontal text.

    Each connected region above .3 has a box around it, which is kept where the mean probability in it is above .6, and grown on
    each side by 1.5 times its area over its perimeter: the network learnt text shrunk by that much.
    """
    regions, _ = ndimage.label(probability > THRESHOLD, structure=np.ones((3, 3)))
    boxes = []
    for rows, columns in ndimage.find_objects(regions):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < 3 or probability[rows, columns].mean() <= BOX_SCORE:
            continue
        grow = UNCLIP * height * width / (2 * (height + width))
        boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return boxes


def f1_of_boxes(found: list[Box], true: list[Box], iou: float = 0.5) -> float:
    """F1 of found boxes, matched one to one with true ones whose intersection over union is at least `iou` (the best first)."""
    if not found:
        return 0.0
    a, b = np.array(found)[:, None], np.array(true)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    overlap = shared / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared)
    matched = 0
    while overlap.max() >= iou:
        i, j = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[i], overlap[:, j] = 0, 0
        matched += 1
    return 2 * matched / (len(found) + len(true))


def detection_scores(run: Run) -> np.ndarray:
    """F1 of the boxes of each test page, `[80]`."""
    x, true = pages("test")
    maps = np.concatenate([outputs[0][:, 0] for outputs in in_batches(run, x)])
    return np.array([f1_of_boxes(found_boxes(probability), boxes) for probability, boxes in zip(maps, true, strict=True)])


# --- the rows


def model(name: str) -> bytes:
    """The bytes of a float file."""
    return data_file(f"models/{name}.onnx").read_bytes()


def row(name: str, file: str, metric: str, examples: Examples, judge: Callable[[Run], np.ndarray], risk: str = "") -> Row:
    """A row of one model.

    Args:
        name, metric, judge: as the row has them.
        file: name of the model's file.
        examples: takes a split, returns the inputs `[n, ...]` and their labels.
        risk: of the certificate; empty: the row has none, and `examples` has no split `held_out`.
    """

    def held_out() -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        x, labels = examples("held_out")
        return {"x": x}, labels

    return Row(
        name=name,
        kind="documents",
        made_by="PaddleOCR, exported by paddle2onnx, shipped with rapidocr-onnxruntime 1.4.4",
        metric=metric,
        float_file=functools.partial(model, file),
        calibration=lambda: {"x": examples("calibration")[0]},
        judge=judge,
        example=lambda: {"x": examples("test")[0][:1]},
        held_out=held_out if risk else None,
        risk=risk or "agreement",
    )


ROWS: tuple[Row, ...] = (
    row(
        "ppocr-direction",
        "ch_ppocr_mobile_v2.0_cls_infer",
        "lines whose direction is right",
        directions,
        direction_scores,
        risk="zero_one",
    ),
    row(
        "ppocr-recognition",
        "ch_PP-OCRv4_rec_infer",
        "lines read without an error",
        recognitions,
        recognition_scores,
        risk="exact_match",
    ),
    row("ppocr-detection", "ch_PP-OCRv4_det_infer", "F1 of the boxes of a page, at IoU 0.5", pages, detection_scores),
)
