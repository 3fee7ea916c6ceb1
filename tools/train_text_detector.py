"""Train the detector of burned-in text that the package ships (`src/radscale/datasets/text_detector.onnx`).

    python tools/train_text_detector.py --out text_detector.onnx --steps 6000 --real-text boxes.json FOLDER_OF_XRAYS...

Lines of text that nobody wrote (made-up names, numbers, dates) are drawn into real X-rays with the system's fonts, in many
sizes, contrasts and styles, beside lines, curves, arrows and rulers that are no text. `--real-text` names boxes of the text
that the X-rays carry themselves ({file: [[x1, y1, ... x4, y4], ...]}, from any OCR): they are left out of the loss. Needs
fonts, of which `--held-out-fonts` are not used, so that a test can, and `pip install onnx`.
"""

import argparse
import json
import random
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from radscale.datasets.burned_in_text import network_input

CROP_PX = 320
CELL_PX = 4
SYMBOL_FONTS = ("symbol", "dingbat", "emoji", "math", "d050000l", "standardsymbols", "musical", "braille", "music")
SCRIPTS = ("droidsansfallback", "notosans-", "notoserif-", "freesans", "freeserif", "freemono")
"""Fonts whose names begin so hold Greek and Cyrillic too; others of Noto hold one script, mostly not Latin."""


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class TextDetector(nn.Module):
    """(N, 2, H, W), see `network_input`, to (N, 1, H / 4, W / 4) logits; H and W are multiples of 32."""

    def __init__(self, fine: int = 24, middle: int = 48, coarse: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, fine, CELL_PX, CELL_PX, bias=False), nn.BatchNorm2d(fine), nn.ReLU(inplace=True))
        self.down1 = nn.Sequential(layer(fine, fine), layer(fine, fine))
        self.down2 = nn.Sequential(layer(fine, middle, 2), layer(middle, middle), layer(middle, middle))
        self.down3 = nn.Sequential(layer(middle, coarse, 2), layer(coarse, coarse), layer(coarse, coarse))
        self.down4 = nn.Sequential(layer(coarse, coarse, 2), layer(coarse, coarse))
        self.up3, self.up2, self.up1 = layer(2 * coarse, coarse), layer(coarse + middle, middle), layer(middle + fine, fine)
        self.head = nn.Conv2d(fine, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level1 = self.down1(self.stem(images))
        level2 = self.down2(level1)
        level3 = self.down3(level2)
        level4 = self.down4(level3)
        level3 = self.up3(torch.cat([F.interpolate(level4, scale_factor=2.0), level3], 1))
        level2 = self.up2(torch.cat([F.interpolate(level3, scale_factor=2.0), level2], 1))
        return self.head(self.up1(torch.cat([F.interpolate(level2, scale_factor=2.0), level1], 1)))


def font_files(held_out: list[str]) -> list[str]:
    files = subprocess.run(["fc-list", "--format", "%{file}\n"], capture_output=True, text=True, check=True).stdout.split("\n")
    kept = []
    for file in sorted(set(files)):
        name = Path(file).name.lower()
        latin = not name.startswith("noto") or name.startswith(SCRIPTS)
        if name.endswith((".ttf", ".otf", ".t1")) and latin and not any(part in name for part in (*held_out, *SYMBOL_FONTS)):
            kept.append(file)
    return kept


def words(rng: random.Random, font: str) -> str:
    """One line of the kinds that consoles burn in."""
    syllables = [
        "an",
        "bel",
        "cor",
        "da",
        "el",
        "fer",
        "go",
        "han",
        "is",
        "jo",
        "ka",
        "lin",
        "mar",
        "no",
        "ol",
        "pe",
        "qui",
        "ro",
    ]
    syllables += ["sch", "ta", "ul", "vi", "wen", "xa", "yo", "zhi", "sson", "ton", "berg", "ley", "é", "ü", "ñ", "ø"]

    def name() -> str:
        text = "".join(rng.choice(syllables) for _ in range(rng.randint(1, 4)))
        return rng.choice([str.upper, str.title, str.title, str.lower])(text)

    def number(least: int = 1, most: int = 10) -> str:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(least, most)))

    def date() -> str:
        day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1920, 2024)
        months = ["JAN", "Feb", "MAR", "Apr", "MAY", "Jun", "JUL", "Aug", "SEP", "Oct", "NOV", "Dec"]
        return rng.choice(
            [
                f"{day:02}/{month:02}/{year}",
                f"{year}-{month:02}-{day:02}",
                f"{day:02}.{month:02}.{year}",
                f"{year}{month:02}{day:02}",
                f"{day} {months[month - 1]} {year}",
                f"{months[month - 1]}-{day:02}-{year % 100:02}",
                f"{month}/{day}/{year % 100}",
            ]
        )

    def clock() -> str:
        return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}" + rng.choice(["", f":{rng.randint(0, 59):02}", " PM"])

    labels = [
        "Name:",
        "ID",
        "MRN:",
        "DOB",
        "Acc#",
        "Exam",
        "Room",
        "Dr.",
        "St",
        "Hosp.",
        "kV",
        "mAs",
        "SID",
        "EI",
        "S",
        "Tech:",
    ]
    marks = ["L", "R", "AP", "PA", "PORTABLE", "ERECT", "SUPINE", "SEMI-UPRIGHT", "LAT", "MOBILE", "WB", "DX"]
    if font.lower().endswith("droidsansfallback.ttf") or "droidsansfallbackfull" in font.lower():
        low, high = rng.choice([(0x4E00, 0x9FA0), (0x4E00, 0x9FA0), (0x3041, 0x3097), (0xAC00, 0xD7A0)])
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(2, 10))) + rng.choice(["", " " + number()])
    if Path(font).name.lower().startswith(SCRIPTS) and rng.random() < 0.4:
        low = rng.choice([0x410, 0x430, 0x391, 0x3B1])
        return " ".join(
            "".join(chr(low + rng.randrange(24) + (low == 0x391 and 0)) for _ in range(rng.randint(2, 9)))
            for _ in range(rng.randint(1, 3))
        )
    return rng.choice(
        [
            lambda: f"{name()}{rng.choice([', ', ' ', '^'])}{name()}",
            lambda: f"{rng.choice(labels)} {number(3)}",
            date,
            lambda: f"{date()} {clock()}",
            lambda: number(4),
            lambda: f"{rng.choice(labels)} {name()} {number(1, 4)}",
            lambda: f"{name()} {name()} {rng.choice(['M', 'F'])} {rng.randint(0, 99)}{rng.choice(['', 'Y'])}",
            lambda: f"{name()} {rng.choice(['HOSPITAL', 'Medical Center', 'CLINIC', 'Klinikum', 'General'])}",
            lambda: rng.choice(marks),
            lambda: f"{rng.choice(labels)} {date()}",
            clock,
            lambda: "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789-") for _ in range(rng.randint(3, 12))),
        ]
    )()


def draw_line(canvas: np.ndarray, target: np.ndarray, rng: random.Random, fonts: list[str], zoom: float) -> None:
    """Draw one line into `canvas` ((H, W) float32, 0 to 1, `zoom` times the crop), its box into `target` (2: too faint)."""
    font_file = rng.choice(fonts)
    size = min(90.0, 8.5 * 1.9 ** rng.expovariate(1.25))
    text = words(rng, font_file)
    try:
        font = ImageFont.truetype(font_file, max(6, round(size * zoom)))
        left, top, right, bottom = font.getbbox(text)
    except OSError:
        return
    width, height = int(right - left), int(bottom - top)
    if width < 4 or height < 4:
        return
    stroke = Image.new("L", (width, height))
    pen = ImageDraw.Draw(stroke)
    pen.fontmode = "1" if rng.random() < 0.35 else "L"  # consoles draw without antialiasing
    pen.text((-left, -top), text, fill=255, font=font)
    ink = np.asarray(stroke, np.float32) / 255
    if rng.random() < 0.15:
        ink = np.ascontiguousarray(np.rot90(ink, rng.choice([1, 3])))
    if rng.random() < 0.08:
        ink = np.ascontiguousarray(ink[:, ::-1])
    if rng.random() < 0.05:  # written larger on one axis
        ink = cv2.resize(ink, None, fx=rng.uniform(0.7, 1.6), fy=1)
    rows, cols = ink.shape
    if rows + 8 >= canvas.shape[0]:
        return
    y = rng.randrange(-rows // 6, canvas.shape[0] - rows * 5 // 6)
    x = rng.randrange(-cols // 2, max(canvas.shape[1] - cols // 2, 1 - cols // 2))
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + rows, canvas.shape[0]), min(x + cols, canvas.shape[1])
    ink = ink[y0 - y : y1 - y, x0 - x : x1 - x]
    if ink.size == 0 or ink.max() < 0.5:
        return
    pad = max(2, round(0.35 * size * zoom))
    box = (slice(max(y0 - pad, 0), y1 + pad), slice(max(x0 - pad, 0), x1 + pad))
    around = canvas[box]
    level = float(around.mean())
    style = rng.random()
    if style < 0.35:
        value = rng.uniform(0.92, 1.0)
    elif style < 0.45:
        value = rng.uniform(0, 0.06)
    else:
        value = rng.uniform(0, 1)
    if rng.random() < 0.18:  # on a plate
        plate = rng.choice([0.0, 1.0, rng.uniform(0, 1)])
        canvas[box] = plate
        level = plate
    if abs(value - level) < 0.045:
        value = level + rng.choice([-1, 1]) * rng.uniform(0.045, 0.3)
    value = min(max(value, 0.0), 1.0)
    # A line that a reader could not make out teaches nothing: its box is left out of the loss.
    legible = abs(value - level) >= max(0.03, 0.9 * float(np.std(around - cv2.blur(around, (3, 3)))))
    area = canvas[y0:y1, x0:x1]
    if rng.random() < 0.2:  # an outline or a shadow
        edge = cv2.dilate(ink, np.ones((3, 3), np.uint8)) if rng.random() < 0.5 else np.roll(ink, (1, 1), (0, 1))
        area[:] = area * (1 - edge) + (0.0 if value > level else 1.0) * edge
    opacity = rng.uniform(0.6, 1) if rng.random() < 0.15 else 1.0
    area[:] = area * (1 - opacity * ink) + value * opacity * ink
    inside = ink.max(1) > 0.3, ink.max(0) > 0.3
    ys, xs = np.flatnonzero(inside[0]), np.flatnonzero(inside[1])
    target[y0 + ys[0] : y0 + ys[-1] + 1, x0 + xs[0] : x0 + xs[-1] + 1] = 1 if legible else 2


def draw_clutter(canvas: np.ndarray, rng: random.Random) -> None:
    """What is drawn on X-rays and is no text."""
    height, width = canvas.shape
    value = rng.choice([1.0, 0.0, rng.uniform(0, 1)])
    thickness = rng.randint(1, max(1, height // 100))

    def point() -> tuple[int, int]:
        return rng.randrange(width), rng.randrange(height)

    kind = rng.randrange(8)
    if kind == 0:
        cv2.line(canvas, point(), point(), value, thickness, cv2.LINE_AA)
    elif kind == 1:
        points = cv2.GaussianBlur(np.array([point() for _ in range(30)], np.float32), (1, 15), 0)
        cv2.polylines(canvas, [points.astype(np.int32)], False, value, thickness, cv2.LINE_AA)
    elif kind == 2:
        cv2.circle(canvas, point(), rng.randint(2, max(3, height // 10)), value, rng.choice([-1, thickness]), cv2.LINE_AA)
    elif kind == 3:
        cv2.rectangle(canvas, point(), point(), value, thickness)
    elif kind == 4:
        cv2.arrowedLine(canvas, point(), point(), value, thickness, cv2.LINE_AA)
    elif kind == 5:  # a ruler
        x, y = point()
        step, ticks = rng.randint(4, max(5, height // 30)), rng.randint(5, 30)
        for tick in range(ticks):
            length = (2 if tick % 5 == 0 else 1) * max(2, step // 2)
            cv2.line(canvas, (x, y + tick * step), (x + length, y + tick * step), value, max(1, thickness // 2))
        cv2.line(canvas, (x, y), (x, y + ticks * step), value, max(1, thickness // 2))
    elif kind == 6:  # a collimator's edge
        x = rng.randrange(width)
        canvas[:, :x] = canvas[:, :x] * rng.uniform(0, 0.3) + rng.choice([0, 0, 0.9])
    else:  # a row of clips or a sternal wire
        x, y = point()
        for number in range(rng.randint(2, 8)):
            centre = (x + rng.randint(-6, 6), y + number * rng.randint(8, 40))
            cv2.ellipse(canvas, centre, (rng.randint(2, 14), rng.randint(2, 8)), rng.randint(0, 180), 0, 360, value, thickness)


class Crops(torch.utils.data.IterableDataset):
    """Endless crops with text, as (image (2, 320, 320), target (80, 80) with -1 where nothing is asked)."""

    def __init__(self, files: list[str], real_text: dict[str, list[list[float]]], fonts: list[str], seed: int) -> None:
        self.images = [image for file in files if (image := cv2.imread(file, cv2.IMREAD_GRAYSCALE)) is not None]
        self.boxes = [real_text.get(file, []) for file in files]
        self.fonts, self.seed = fonts, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(self.seed * 1000 + (worker.id if worker else 0))
        cv2.setNumThreads(1)
        while True:
            yield self.crop(rng)

    def crop(self, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        number = rng.randrange(len(self.images))
        image, boxes = self.images[number], self.boxes[number]
        ignored = np.zeros(image.shape, np.float32)
        for box in boxes:
            cv2.fillPoly(ignored, [np.array(box, np.float32).reshape(-1, 2).round().astype(np.int32)], 1.0)
        # How much of the image a crop shows: at detection its shorter side has 1,024 px.
        zoom = rng.choice([1.0, 1.0, 1.5, 2.0, 2.5])
        share = CROP_PX / 1024 * rng.uniform(0.7, 1.6)
        side = max(24, round(share * min(image.shape)))
        y = rng.choice([0, image.shape[0] - side, rng.randrange(max(1, image.shape[0] - side))])
        x = rng.choice([0, image.shape[1] - side, rng.randrange(max(1, image.shape[1] - side))])
        big = round(CROP_PX * zoom)
        cut = image[y : y + side, x : x + side].astype(np.float32) / 255
        canvas = cv2.resize(cut, (big, big), interpolation=cv2.INTER_CUBIC)
        ignore = cv2.resize(ignored[y : y + side, x : x + side], (big, big), interpolation=cv2.INTER_NEAREST) > 0.5
        if rng.random() < 0.3:
            canvas = 1 - canvas
        canvas = np.clip(canvas, 0, 1) ** rng.uniform(0.6, 1.7)
        high = rng.choice([1.0, rng.uniform(0.25, 1.0)])
        low = rng.choice([0.0, rng.uniform(0, 0.3 * high)])
        canvas = low + canvas * (high - low)
        if rng.random() < 0.08:
            canvas[:] = rng.choice([0.0, 1.0, rng.uniform(0, 1)])
        noise = np.random.default_rng(rng.getrandbits(32))
        if rng.random() < 0.85:
            grain = noise.normal(0, rng.choice([0.002, 0.006, 0.012, 0.025]), canvas.shape).astype(np.float32)
            if rng.random() < 0.4:
                grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.6, 2)) * 2
            canvas = canvas + grain
        if rng.random() < 0.3:
            canvas = canvas + rng.uniform(0.5, 2) * (canvas - cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1, 4)))
        canvas = np.ascontiguousarray(np.clip(canvas, 0, 1), np.float32)
        target = np.zeros(canvas.shape, np.uint8)
        for _ in range(rng.choice([0, 0, 1, 2, 3])):
            draw_clutter(canvas, rng)
        for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
            draw_line(canvas, target, rng, self.fonts, zoom)
        if rng.random() < 0.25:
            canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.8) * zoom)
        canvas = cv2.resize(canvas, (CROP_PX, CROP_PX), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.25:
            jpeg = cv2.imencode(".jpg", (canvas * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, rng.randint(40, 95)])[1]
            canvas = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
        cells = CROP_PX // CELL_PX
        share = cv2.resize((target == 1).astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)
        unsure = cv2.resize(
            ((target == 2) | (ignore & (target != 1))).astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA
        )
        wanted = (share >= 0.5).astype(np.float32)
        wanted[(share < 0.5) & ((unsure > 0) | (share > 0))] = -1
        return torch.from_numpy(network_input(canvas)), torch.from_numpy(wanted)


def loss_of(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, where text counts three times, and Dice."""
    counts = (wanted >= 0).float()
    text = wanted.clamp(0)
    entropy = F.binary_cross_entropy_with_logits(logits, text, weight=counts * (1 + 2 * text), reduction="sum") / counts.sum()
    found = torch.sigmoid(logits) * counts
    return entropy + 0.3 * (1 - (2 * (found * text).sum() + 1) / ((found + text).sum() + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="X-rays, folders of them, or a .txt list")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--real-text", type=Path)
    parser.add_argument("--held-out-fonts", nargs="*", default=["dejavu", "vera", "liberation"])
    parser.add_argument("--start", type=Path, help="state of an earlier run to go on from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    files: list[str] = []
    for path in args.files:
        if path.suffix == ".txt":
            files += path.read_text().split("\n")
        else:
            files += [str(path)] if path.is_file() else sorted(str(file) for file in path.rglob("*") if file.is_file())
    fonts = font_files(args.held_out_fonts)
    real_text = json.loads(args.real_text.read_text()) if args.real_text else {}
    print(f"{len(files)} files, {len(fonts)} fonts", flush=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    crops = Crops([file for file in files if file], real_text, fonts, args.seed)
    loader = iter(torch.utils.data.DataLoader(crops, args.batch, num_workers=1, prefetch_factor=8))
    model = TextDetector().to(memory_format=torch.channels_last)
    if args.start:
        model.load_state_dict(torch.load(args.start))
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, args.steps, pct_start=0.1)
    began, total = time.time(), 0.0
    for step in range(1, args.steps + 1):
        images, wanted = next(loader)
        loss = loss_of(model(images.to(memory_format=torch.channels_last))[:, 0], wanted)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += float(loss)
        if step % 100 == 0:
            print(f"step {step}: loss {total / 100:.4f}, {(time.time() - began) / step:.2f} s a step", flush=True)
            total = 0.0
            torch.save(model.state_dict(), args.out.with_suffix(".pt"))
    export(model, args.out)


def export(model: nn.Module, out: Path) -> None:
    """Write the network with its size left open, for OpenCV's reader."""
    sizes = {2: "height", 3: "width"}
    axes = {"image": sizes, "text": {2: "rows", 3: "columns"}}
    names = {"input_names": ["image"], "output_names": ["text"], "dynamic_axes": axes}
    model = model.to(memory_format=torch.contiguous_format).eval()
    torch.onnx.export(model, (torch.zeros(1, 2, 256, 320),), str(out), dynamo=False, opset_version=13, **names)


if __name__ == "__main__":
    main()
