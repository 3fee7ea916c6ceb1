from pathlib import Path
from typing import Any

import pytest
import yaml

from dinov2_yaml import DEFAULT
from radscale.errors import InputError
from radscale.experiment.build import build
from radscale.pretraining import PRESETS, ComputeBudget, PretrainingConfig
from radscale.pretraining.dinov2_recipe import settings_from_dinov2_yaml

RECIPE: dict[str, Any] = {
    "train": {"batch_size_per_gpu": 40, "centering": "sinkhorn_knopp"},
    "optim": {"epochs": 80, "base_lr": 1e-3, "freeze_last_layer_epochs": 0},
    "crops": {
        "global_crops_size": 518,
        "local_crops_size": 196,
        "global_crops_scale": [0.5, 1.0],
        "local_crops_scale": [0.2, 0.5],
    },
    "student": {"arch": "vit_base", "patch_size": 14},
}


def read(folder: Path, recipe: dict[str, Any] | None, default: dict[str, Any] = DEFAULT, num_gpus: int = 1) -> dict[str, Any]:
    (folder / "default.yaml").write_text(yaml.safe_dump(default))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    files = ["default.yaml"] if recipe is None else ["default.yaml", "recipe.yaml"]
    return settings_from_dinov2_yaml(*(folder / name for name in files), num_gpus=num_gpus)


def test_a_recipe_over_the_defaults_becomes_a_run(tmp_path: Path) -> None:
    settings = read(tmp_path, RECIPE, num_gpus=32)
    config = build(PretrainingConfig, settings, "settings")
    assert config.batch_size == 1280
    assert config.budget == ComputeBudget.samples_seen(80 * 1250 * 1280)
    assert config.learning_rate == pytest.approx(1.118e-3, rel=1e-3)
    assert config.final_learning_rate == 1e-6
    assert config.warmup_fraction == 10 / 80
    assert (config.weight_decay, config.final_weight_decay, config.clip_norm) == (0.04, 0.4, 3.0)
    assert config.precision == "bf16"
    options = config.dinov2
    assert (options.global_size_px, options.local_size_px, options.num_local_crops) == (518, 196, 8)
    assert (options.global_scale, options.local_scale) == ((0.5, 1.0), (0.2, 0.5))
    assert options.centering == "sinkhorn"
    assert options.teacher_warmup_fraction == 30 / 80
    assert options.prototype_freeze_fraction == 0
    assert (options.drop_path, options.layer_decay, options.patch_embed_multiplier) == (0.3, 0.9, 0.2)
    assert (options.momentum, options.teacher_temperature) == ((0.992, 1.0), (0.04, 0.07))


def test_defaults_alone_are_dinov2s(tmp_path: Path) -> None:
    settings = read(tmp_path, None)
    assert settings["batch_size"] == 64
    assert settings["learning_rate"] == pytest.approx(0.004 * (64 / 1024) ** 0.5)
    assert settings["dinov2"]["local_scale"] == (0.05, 0.32)
    assert settings["dinov2"]["centering"] == "centering"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"ibot": {"separate_head": True}}, "recipe.yaml: ibot.separate_head is True; this trainer knows only False"),
        ({"student": {"ffn_layer": "swiglufused"}}, "student.ffn_layer is swiglufused; this trainer knows only mlp"),
        ({"train": {"centering": "mean"}}, "train.centering is mean; it must be centering or sinkhorn_knopp"),
        ({"optim": {"clip_gradient": 3.0}}, r"recipe.yaml: optim.clip_gradient \(3.0\) is not known to this trainer"),
        ({"optim": {"epochs": "many"}}, "optim.epochs is many; it must be a number"),
        ({"crops": {"local_crops_number": 8.5}}, "crops.local_crops_number is 8.5; it must be a whole number"),
        ({"crops": {"global_crops_scale": 0.5}}, "crops.global_crops_scale is 0.5; it must be two numbers"),
    ],
)
def test_what_this_trainer_cannot_follow_is_named(recipe: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, recipe)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"optim.epochs is missing; give DINOv2's whole ssl_default_config.yaml first"):
        read(tmp_path, None, {**DEFAULT, "optim": {}})
    with pytest.raises(InputError, match="no such file"):
        settings_from_dinov2_yaml(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(InputError, match="not a YAML file"):
        settings_from_dinov2_yaml(tmp_path / "broken.yaml")


def test_the_preset_is_complete_and_a_valid_run() -> None:
    preset = PRESETS["rad-dino"]
    config = build(
        PretrainingConfig, {**preset, "objective": "dinov2", "budget": {"unit": "samples_seen", "amount": 1e6}}, "preset"
    )
    assert config.dinov2.global_size_px == 518
    assert set(vars(config.dinov2)) - set(preset["dinov2"]) == {"prototype_chunk_tokens"}
