"""Train the classifier of views that the package ships (`src/radscale/datasets/view_classifier.npz`).

    radscale phantom HOSPITAL --patients 1500; radscale ingest HOSPITAL --out PHANTOM --size 256
    python tools/train_view_classifier.py PHANTOM --frontals FOLDER_OF_FRONTALS... --out view_classifier.npz

Laterals are the phantom's only; frontals are the phantom's and, with a small weight, real ones. Every second real frontal is
left out of the training and sets the limits: which share of them is called lateral, and which is called neither.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from radscale.datasets import Dataset
from radscale.datasets.view_classifier import view_features

CALLED_LATERAL, NOT_CALLED_FRONTAL = 0.005, 0.05
"""Of real frontals, by the limits that are chosen."""
REAL_WEIGHT = 0.1
PENALTY = 0.01


def moved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cropped or with air around it, turned by a few degrees."""
    height, width = image.shape
    scale, angle = rng.uniform(0.92, 1.15), rng.normal(0, 3)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[:, 2] += rng.uniform(-0.05, 0.05, 2) * (width, height)
    return cv2.warpAffine(image, matrix, (width, height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantom", type=Path)
    parser.add_argument("--frontals", nargs="+", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000, help="real frontals of each folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    dataset = Dataset(args.phantom)
    views = np.array(dataset.column("view").to_pylist())
    rows = np.flatnonzero(views != "unknown")
    made = np.array([view_features(moved(dataset.read_image(row), rng)) for row in rows])
    is_lateral = (views[rows] == "lateral").astype(int)
    real = []
    for folder in args.frontals:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        chosen = [paths[number] for number in np.sort(rng.permutation(len(paths))[: args.most])]
        real += [view_features(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in chosen]
    trained, held_out = np.array(real[::2]), np.array(real[1::2])
    features = np.concatenate([made, trained])
    labels = np.concatenate([is_lateral, np.zeros(len(trained), int)])
    balance = (1 - is_lateral).sum() / is_lateral.sum()
    weights = np.concatenate([np.where(is_lateral, balance, 1.0), np.full(len(trained), REAL_WEIGHT)])
    scaler, model = StandardScaler(), LogisticRegression(C=PENALTY, max_iter=5000)
    pipeline = make_pipeline(scaler, model).fit(features, labels, logisticregression__sample_weight=weights)
    scores = pipeline.decision_function(held_out)
    limits = np.quantile(scores, [1 - NOT_CALLED_FRONTAL, 1 - CALLED_LATERAL])
    print(
        f"{len(made)} of the phantom ({is_lateral.sum()} lateral), {len(trained)} real frontals; "
        f"limits {limits} by {len(held_out)} others"
    )
    arrays = {"mean": scaler.mean_, "scale": scaler.scale_, "coefficients": model.coef_[0], "intercept": model.intercept_[0]}
    np.savez(
        args.out, **{name: np.asarray(value, np.float32) for name, value in arrays.items()}, limits=limits.astype(np.float32)
    )


if __name__ == "__main__":
    main()
