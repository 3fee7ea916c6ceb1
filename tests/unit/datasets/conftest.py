import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth 12-bit image of 90 x 70 px."""
    rng = np.random.default_rng(0)
    return (4000 * cv2.GaussianBlur(rng.random((90, 70)), (0, 0), 4)).astype(np.uint16)


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of images with a table; `bad` adds files that cannot be used."""

    def make(num_patients: int = 12, *, bad: bool = False, encoding: str = "utf-8") -> Path:
        folder = tmp_path / "source"
        (folder / "images").mkdir(parents=True)
        rows = []
        for patient in range(num_patients):
            for visit in range(1 + patient % 3):
                rng = np.random.default_rng([patient, visit])
                image = (255 * cv2.GaussianBlur(rng.random((80, 64)), (0, 0), 3)).astype(np.uint8)
                name = f"images/{patient}_{visit}.png"
                cv2.imwrite(str(folder / name), image)
                finding = ("normal", "Big pneumonia")[patient % 2]
                rows.append(
                    [name, f"Müller-{patient}", "M" if patient % 2 else "F", str(40 + patient), finding, "Clear lungs."]
                )
        if bad:
            (folder / "images" / "cut.png").write_bytes((folder / rows[0][0]).read_bytes()[:200])
            (folder / "images" / "copy.png").write_bytes((folder / rows[0][0]).read_bytes())
            cv2.imwrite(str(folder / "images" / "flat.png"), np.full((80, 64), 7, np.uint8))
            cv2.imwrite(str(folder / "images" / "tiny.png"), np.zeros((5, 5), np.uint8))
            names = ("cut", "copy", "flat", "tiny", "gone")
            rows += [[f"images/{name}.png", "Müller-0", "F", "40", "normal", ""] for name in names]
        with (folder / "metadata.csv").open("w", newline="", encoding=encoding) as file:
            writer = csv.writer(file)
            writer.writerow(["image_path", "patient_id", "sex", "age", "finding", "report"])
            writer.writerows(rows)
        return folder

    return make
