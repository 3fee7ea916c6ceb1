"""The plan's estimate: against the paper's own hours, and that every stage has a price."""

import io
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from radscale.cli import app
from radscale.errors import InputError
from radscale.execution import ArtifactStore
from radscale.experiment import Design, load_experiment
from radscale.experiment.checks import check_feature_caches
from radscale.experiment.costs import CostModel, planned_costs, print_plan
from radscale.experiment.study import Study

PAPER_HOURS = {30_000: 0.33, 50_000: 0.58, 100_000: 1.17, 1_000_000: 11.67, 3_500_000: 40.83}
"""On 32 GPUs, one run of any arm (section 5)."""


def test_the_paper_costs_what_its_authors_paid(tmp_path: Path) -> None:
    costs = [cost for cost in planned_costs(Design(load_experiment("paper")), ArtifactStore(tmp_path)) if cost.subset_size]
    assert len(costs) == 3 * (3 + 3 + 3 + 1 + 1)
    for cost in costs:
        # The paper rounds to a hundredth of an hour, and 0.33 of 0.35.
        assert cost.seconds / 3600 / 32 == pytest.approx(PAPER_HOURS[cost.subset_size], rel=0.07)
    assert sum(cost.seconds for cost in costs) / 3600 == pytest.approx(5645, rel=0.005)
    # The times are those of 15 epochs of MedImageInsight.
    for cost in costs:
        if cost.arm.startswith("mi2"):
            assert cost.samples_seen == pytest.approx(15 * cost.subset_size, rel=0.01)


def test_every_step_has_a_cost_and_small_ones_are_not_free() -> None:
    design = Design(load_experiment("smoke"))
    model = CostModel(design)
    start = design.settings.hardware.start_seconds
    assert min(model.seconds.values()) >= start
    stages = {name.split("/")[0] for name, seconds in model.seconds.items() if seconds > start}
    assert {"phantom", "datasets", "extraction", "open_weights", "pretraining", "probing", "analysis"} <= stages


def test_the_rate_is_the_users() -> None:
    slow = CostModel(
        Design(load_experiment("phantom", {"hardware": {"sustained_tflops": 0.001, "optimizer_step_seconds": 0.0}}))
    )
    fast = CostModel(
        Design(load_experiment("phantom", {"hardware": {"sustained_tflops": 0.002, "optimizer_step_seconds": 0.0}}))
    )
    name, start = "pretraining/clip/n=900/replicate=0", slow.hardware.start_seconds
    assert slow.seconds[name] - start == pytest.approx(2 * (fast.seconds[name] - start))


def test_equal_compute_is_planned_equal() -> None:
    costs = planned_costs(Design(load_experiment("phantom")), ArtifactStore(Path("none")))
    of_900 = {cost.arm: cost.flops for cost in costs if cost.subset_size == 900}
    assert max(of_900.values()) < 1.05 * min(of_900.values())


def test_an_objective_that_its_open_weights_cannot_learn_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("extends: smoke\narms:\n  wrong: {label: Wrong, start: davit-public, objective: dinov2}\n")
    with pytest.raises(InputError, match=r"study\.yaml:3: arms\.wrong\.objective: .*needs a vision transformer"):
        planned_costs(Design(load_experiment(str(path))), ArtifactStore(tmp_path / "out"))


def test_files_of_a_folder_are_costed_by_their_size_and_unknown_weights_are_said(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    from radscale.experiment.costs import assumed_architectures

    seconds = []
    for side in (64, 2000):
        folder = tmp_path / f"images{side}"
        folder.mkdir()
        rows = ["file,patient,finding"]
        for number in range(40):
            cv2.imwrite(str(folder / f"{number}.png"), np.zeros((side, side), np.uint8))
            rows.append(f"{number}.png,{number},{'ab'[number % 2]}")
        (folder / "table.csv").write_text("\n".join(rows) + "\n")
        source = {
            "folder": str(folder),
            "settings": {
                "table": "table.csv",
                "columns": {"image": "file", "patient": "patient"},
                "labels": {"finding": "categorical"},
            },
        }
        values = {
            "datasets": {"own": {"source": source}},
            "open_weights": {"open": {"load": "dinov2", "weights": str(tmp_path / "elsewhere")}},
            "subset_sizes": [20],
            "replicates": {20: 1},
        }
        design = Design(load_experiment("images", values))
        assert assumed_architectures(design) == ["open"]
        seconds.append(CostModel(design).seconds["datasets/own"] - design.settings.hardware.start_seconds)
    assert seconds[1] > 10 * seconds[0]


def test_what_fits_into_a_budget_costs_what_the_plan_then_says(tmp_path: Path) -> None:
    """The proposal, put into the experiment, is planned at the hours that it was sold for."""
    runner = CliRunner()
    proposal = runner.invoke(app, ["plan", "paper", "--gpu-hours", "2000", "--out", str(tmp_path)])
    assert proposal.exit_code == 0
    text = " ".join(proposal.output.split())
    sizes, replicates = (
        re.search(pattern, text).group(1) for pattern in (r"subset_sizes: (\[.*?\])", r"replicates: (\{.*?\})")
    )  # type: ignore[union-attr]
    promised = float(re.search(r"([\d,.]+) h in all", text).group(1).replace(",", ""))  # type: ignore[union-attr]
    assert 1500 < promised <= 2000
    path = tmp_path / "study.yaml"
    path.write_text(f"extends: paper\nsubset_sizes: {sizes}\nreplicates: {replicates}\n")
    # Probes and data are those of the recipe: the experiment above would make its data as small as its largest subset.
    model, full = CostModel(Design(load_experiment(str(path)))), CostModel(Design(load_experiment("paper")))
    trained = sum(seconds for name, seconds in model.seconds.items() if name.startswith("pretraining/")) / 3600
    probes = [
        seconds
        for name, seconds in full.seconds.items()
        if name.startswith(("probing/", "segmentation/")) and "/n=30000/replicate=0" in name
    ]
    number = sum(yaml.safe_load(replicates).values())
    fixed = sum(
        s
        for name, s in full.seconds.items()
        if not (name.startswith(("pretraining/", "probing/", "segmentation/")) and "/n=" in name)
    )
    assert promised == pytest.approx(trained + (number * sum(probes) + fixed) / 3600, rel=0.01)


def test_a_budget_that_is_too_small_says_what_the_least_is() -> None:
    refused = CliRunner().invoke(app, ["plan", "paper", "--gpu-hours", "100"])
    assert isinstance(refused.exception, InputError)
    assert re.search(
        r"4 sizes with one encoder each need at least [\d,]+.*Evaluating one encoder of each arm", str(refused.exception)
    )


@pytest.mark.parametrize("recipe", ["paper", "phantom", "smoke"])
def test_no_recipe_plans_probes_that_would_be_refused(recipe: str) -> None:
    caches = CostModel(Design(load_experiment(recipe))).feature_caches
    assert caches
    assert all(cache.size_bytes <= cache.limit_gb * 1e9 for cache in caches.values())


def test_features_that_fit_no_disk_are_said_before_anything_starts(tmp_path: Path) -> None:
    """ViT-B/14 at 518 px: 37 x 37 cells of 4 x 768 channels in two bytes; 1.5 million images and a tenth of 4.375 million."""
    design = Design(load_experiment("paper", {"probe": {"grid": None}}))
    cache = CostModel(design).feature_caches["probing/rad-dino"]
    assert (cache.what, cache.size_bytes) == ("own", 1_937_500 * 37**2 * 4 * 768 * 2)
    said = io.StringIO()
    print_plan(Study(load_experiment("paper", {"probe": {"grid": None}}), tmp_path), Console(file=said, width=200))
    assert "will be refused own: 16,297 GB of features, `cache_limit_gb` allows 4000" in said.getvalue()
    streamed = CostModel(Design(load_experiment("paper", {"probe": {"cache_features": False}})))
    assert not [name for name in streamed.feature_caches if name.startswith("probing")]
    cached = CostModel(design).seconds["probing/rad-dino"]
    assert streamed.seconds["probing/rad-dino"] > 20 * cached


def test_a_study_whose_features_fit_no_disk_is_not_begun() -> None:
    design = Design(load_experiment("smoke", {"probe": {"cache_limit_gb": 1e-6}}))
    with pytest.raises(InputError, match=r"probe: .* needs about 0\.00 GB of features .*; `cache_limit_gb` is 1e-06"):
        check_feature_caches(design)
    check_feature_caches(Design(load_experiment("smoke")))
