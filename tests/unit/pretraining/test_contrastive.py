"""The contrastive objective: its batch is the same however many ranks and micro-batches there are; health and freezing."""

import dataclasses
import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blob_dataset import ENCODER, write_dataset
from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.models import build_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig
from radscale.pretraining.config import PRESETS, Augmentation, ContrastiveOptions, TextOptions, TextTower
from radscale.pretraining.contrastive import ContrastiveObjective, context_length, contrastive_health
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.texts import read_training_rows
from radscale.pretraining.trivial_augment import ERASED_GREY
from radscale.training.distributed import Ranks

TEXT = {"width": 16, "depth": 2, "num_heads": 2, "context_length": 24}
DAVIT = {"depths": (1, 1, 1, 1), "widths": (8, 16, 16, 16), "num_heads": (1, 2, 2, 2), "window_size": 4, "drop_path": 0.4}
ENCODERS: dict[str, dict[str, Any]] = {
    "davit": {**ENCODER, "family": "davit", "architecture": {"image": DAVIT, "text": TEXT, "embedding_dim": 16}},
    "vit": {**ENCODER, "architecture": {**ENCODER["architecture"], "drop_path": 0.4}},
}
LABELS = {"blob": "blob", "stripe": "stripe"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of such small models only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("contrastive") / "dataset", num_train=48, num_test=0)


def objective(
    folder: Path, encoder: str = "davit", ranks: Ranks | None = None, kind: str = "unicl", **changes: Any
) -> ContrastiveObjective:
    settings: dict[str, Any] = {"batch_size": 12, "image_size_px": 32, "label_tasks": LABELS, "text_tower": TextTower(width=16)}
    settings |= {"budget": ComputeBudget.samples_seen(12), **changes}
    config = PretrainingConfig(objective=kind, **settings)  # type: ignore[arg-type]
    data, made = Dataset(folder), build_encoder(ENCODERS[encoder], seed=1)
    rows = np.arange(48)
    texts = read_training_rows(config, data, rows, folder / "labels.parquet", context_length(made, config))
    images = SubsetImages(data, rows.tolist(), 1.0)
    result = ContrastiveObjective(made, images, texts, config, from_scratch=True, ranks=ranks or Ranks())
    # Features of a fresh tower are nearly equal, and gradients of their differences mostly rounding.
    generator = torch.Generator().manual_seed(2)
    for parameter in result.encoder.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return result


def gradients(made: ContrastiveObjective, step: int = 3) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, measurements and all gradients of a step."""
    loss, measurements = made.loss(step)
    loss.backward()
    found = {name: p.grad for name, p in made.encoder.named_parameters() if p.grad is not None}
    return float(loss.detach()), measurements, found


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to the largest gradient of each parameter, which is above zero for all."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= tolerance * max(float(value.abs().max()), 1e-6), name


def one_rank(rank: int, world_size: int, folder: Path, out: Path) -> None:
    """A process of its own; both encoders in one, because starting takes longer than they do."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=world_size)
    for encoder in ENCODERS:
        made = objective(folder, encoder, Ranks(rank, world_size), contrastive=ContrastiveOptions(micro_batch_size=4 + rank))
        loss, measurements, found = gradients(made)
        for gradient in found.values():
            dist.all_reduce(gradient)
            gradient /= world_size
        torch.save((loss, measurements, found, made.images.sample_ids(made.images_of_step(3))), out / f"{encoder}{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_learn_what_one_would(folder: Path, tmp_path: Path) -> None:
    """With stochastic depth, label classes, and micro-batches of other sizes on each rank."""
    torch.multiprocessing.spawn(one_rank, (2, folder, tmp_path), nprocs=2)
    for encoder in ENCODERS:
        one = objective(folder, encoder)
        loss, measurements, expected = gradients(one)
        ranks = [torch.load(tmp_path / f"{encoder}{rank}.pt", weights_only=True) for rank in range(2)]
        for other_loss, other_measurements, found, _ in ranks:
            assert other_loss == pytest.approx(loss, rel=1e-5)
            for name, value in measurements.items():
                assert float(other_measurements[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
            assert_close(found, expected, 1e-5)
        assert float(expected["logit_scale"].abs()) > 1e-4
        assert ranks[0][3] + ranks[1][3] == one.images.sample_ids(one.images_of_step(3))


@pytest.mark.parametrize("size", [1, 5, 11])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("recomputes", [False, True])
def test_micro_batches_change_no_gradient(encoder: str, size: int, recomputes: bool, folder: Path) -> None:
    whole = gradients(objective(folder, encoder))
    split = objective(folder, encoder, contrastive=ContrastiveOptions(micro_batch_size=size))
    split.encoder.set_activation_checkpointing(recomputes)
    loss, _, found = gradients(split)
    assert loss == pytest.approx(whole[0], rel=1e-6)
    assert_close(found, whole[2], 1e-5)


class MemoryInUse(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still alive: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self.known = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def test_micro_batches_need_less_memory(folder: Path) -> None:
    most = {}
    for size in (None, 2):
        made = objective(folder, "davit", batch_size=32, contrastive=ContrastiveOptions(micro_batch_size=size))
        with MemoryInUse() as memory:
            made.loss(0)[0].backward()
        most[size] = memory.most
    assert most[2] < 0.3 * most[None]  # 1 / 16 of the activations, all crops and gradients


def test_two_classes_of_rows_share_a_step(folder: Path) -> None:
    """A step has report rows and label rows; report rows stay pairs of their own."""
    made = objective(folder)
    chosen = made.sampler.batch(3)
    assert 0 < made.rows.is_label[chosen].sum() < 12
    labels = made.rows.label[chosen]
    assert len(set(labels[labels > 0])) < (labels > 0).sum()  # some class twice
    epoch = np.concatenate([made.sampler.batch(step) for step in range(len(made.rows) // 12)])
    assert len(set(epoch)) == len(epoch)  # every row once


@pytest.mark.parametrize("recipe", ["light", "medimageinsight"])
def test_an_image_is_augmented_alike_however_many_ranks_there_are(recipe: str, folder: Path) -> None:
    options = Augmentation(recipe=recipe, erasing_probability=0.5)  # type: ignore[arg-type]

    def crops(ranks: Ranks) -> Tensor:
        made = objective(folder, ranks=ranks, augmentation=options)
        return made._crops(3, made.sampler.batch(3), torch.Generator().manual_seed(5))

    whole = crops(Ranks())
    assert torch.equal(torch.cat([crops(Ranks(rank, 3)) for rank in range(3)]), whole)
    assert bool((whole == ERASED_GREY).any()) == (recipe == "medimageinsight")


def test_published_rule_of_what_decays(folder: Path) -> None:
    made = objective(folder)
    decays = {id(p): group["decays"] for group in made.parameter_groups() for p in group["params"]}
    rule = {name: decays[id(parameter)] for name, parameter in made.encoder.named_parameters()}
    for name in (
        "logit_scale",
        "image_encoder.norms.weight",
        "image_encoder.convs.0.proj.bias",
        "image_encoder.blocks.0.0.spatial_block.conv1.fn.dw.weight",
        "lang_encoder.token_embedding.weight",
        "lang_encoder.positional_embedding",
        "lang_encoder.ln_final.weight",
        "lang_encoder.resblocks.0.attn.out_proj.bias",
    ):
        assert not rule[name], name
    for name in (
        "image_projection",
        "lang_projection",
        "image_encoder.convs.0.proj.weight",
        "lang_encoder.resblocks.0.attn.in_proj_weight",
        "lang_encoder.resblocks.0.attn.in_proj_bias",  # the published pattern misses it
    ):
        assert rule[name], name


def test_frozen_parameters_stay_and_the_rest_learns(folder: Path) -> None:
    patterns = ("^lang_encoder.token_embedding", r"^image_encoder\.blocks\.[01]\.")
    made = objective(folder, contrastive=ContrastiveOptions(frozen_patterns=patterns))
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(made.parameter_groups(), lr=1e-2)
    made.loss(0)[0].backward()
    optimizer.step()
    made.after_step(0)
    moved = {name for name, value in made.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("lang_encoder.token_embedding", "image_encoder.blocks.0."))]
    assert any(name.startswith("image_encoder.blocks.2.") for name in moved)
    assert made.facts()["trained_parameters"] < sum(p.numel() for p in made.encoder.parameters())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"^convs\.", r"'\^convs\\.' matches no parameter; names begin with image_encoder.blocks, image_encoder.convs"),
        ("(", r"'\(' is not a regular expression"),
        (".", "nothing is left to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_everything(pattern: str, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        objective(folder, contrastive=ContrastiveOptions(frozen_patterns=(pattern,)))


def test_settings_that_make_no_sense(folder: Path) -> None:
    with pytest.raises(InputError, match=r"contrastive.micro_batch_size is 0; it must be above 0"):
        ContrastiveOptions(micro_batch_size=0)
    with pytest.raises(InputError, match="batch_size 12 is not a multiple of 5 processes"):
        objective(folder, ranks=Ranks(0, 5))


def test_health_is_what_its_names_say() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=generator), dim=-1)
    targets = torch.tensor([1, 1, 2, 3, 4, 4])
    found = {name: float(value) for name, value in contrastive_health(images, texts, targets).items()}
    cosines = images @ texts.T
    assert found["contrastive_accuracy"] == pytest.approx(
        np.mean([targets[cosines[i].argmax()] == targets[i] for i in range(6)])
    )
    assert found["text_to_image_accuracy"] == pytest.approx(
        np.mean([targets[cosines[:, i].argmax()] == targets[i] for i in range(6)])
    )
    assert found["expected_random_loss"] == pytest.approx(math.log(6))
    assert found["expected_random_accuracy"] == pytest.approx((2 + 2 + 1 + 1 + 2 + 2) / 36)
    for kind, features in (("image", images), ("text", texts)):
        pairs = [float(features[i] @ features[j]) for i in range(6) for j in range(6) if i != j]
        assert found[f"mean_{kind}_cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_alarms_say_what_to_try_and_keep_still_in_health(folder: Path) -> None:
    made = objective(folder)
    _, tensors = made.loss(0)
    healthy = {name: float(value) for name, value in tensors.items()}
    healthy |= {"mean_image_cosine": 0.3, "mean_text_cosine": 0.3, "contrastive_accuracy": 0.9}
    for step in range(0, 500, 10):
        made.after_step(step)
        assert made.alarms(healthy) == []
    assert "image features collapsed" in made.alarms({**healthy, "mean_image_cosine": 0.995})[0]
    assert "text features collapsed" in made.alarms({**healthy, "mean_text_cosine": 0.995})[0]
    assert "try a lower learning_rate" in made.alarms({**healthy, "logit_scale": 150.0})[0]
    chance = {**healthy, "contrastive_accuracy": healthy["expected_random_accuracy"]}
    said = [made.alarms(chance) for _ in range(30)]
    assert said[0] == []
    assert "contrastive accuracy is at chance" in said[-1][0]


def test_alarms_of_alike_features_wait_until_a_new_tower_had_its_time(folder: Path) -> None:
    made = objective(folder)
    _, tensors = made.loss(0)
    made.after_step(0)
    assert made.alarms({**{name: float(value) for name, value in tensors.items()}, "mean_image_cosine": 0.999}) == []


def test_the_preset_is_a_whole_recipe() -> None:
    from radscale.experiment.build import build

    values = {**PRESETS["medimageinsight"], "objective": "clip", "budget": ComputeBudget.samples_seen(1)}
    config = build(PretrainingConfig, values, "pretraining")
    assert (config.batch_size, config.learning_rate, config.weight_decay, config.image_size_px) == (1280, 1e-5, 0.2, 518)
    assert config.text == TextOptions()
    assert dataclasses.replace(config, precision="fp32").contrastive.frozen_patterns == ()
