import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.probing import AttentionProbe, ProbeConfig, ProbeShape, run_probing
from radscale.probing.targets import describe_task
from radscale.training.checkpointing import save_checkpoint
from radscale.training.open_weights import load_encoder

FAST = ProbeConfig(tasks=("blob", "stripe"), seeds=(0, 1), epochs=3, batch_size=32, learning_rate=5e-3)


@pytest.fixture
def probe(blob_dataset, encoder_folder, tmp_path):
    """run_probing on the small dataset; returns (result, out folder)."""

    def run(config=FAST, name="out", labels=blob_dataset, **settings):
        out = tmp_path / name
        return run_probing(config, encoder=encoder_folder, dataset=blob_dataset, labels=labels, out=out, **settings), out

    return run


def read(out, name="predictions.parquet"):
    return pq.read_table(out / name)


def test_prediction_table_has_one_row_per_task_seed_and_labelled_frontal_test_image(probe, blob_dataset):
    config = dataclasses.replace(FAST, arm="mine", objective="unicl", subset_size=300, replicate=2)
    result, out = probe(config)
    table = read(out)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("arm", "string"), ("objective", "string"), ("subset_size", "int64"), ("replicate", "int32"), ("seed", "int32"),
        ("task", "string"), ("sample_id", "string"), ("patient_id", "string"), ("target", "int8"), ("prediction", "float"),
    ]  # fmt: skip
    manifest = {row["sample_id"]: row for row in Dataset(blob_dataset).manifest.to_pylist()}
    states = {(row["id"], row["task"]): row["state"] for row in pq.read_table(blob_dataset / "labels.parquet").to_pylist()}
    expected = [
        ("mine", "unicl", 300, 2, seed, task, sample, row["patient_id"], int(state == "positive"))
        for task in ("blob", "stripe")
        for seed in (0, 1)
        for sample, row in manifest.items()
        if row["split"] == "test" and row["view"] == "frontal"
        if (state := states[row["study_id"], task]) != "uncertain"
    ]
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert [row[:-1] for row in rows] == expected
    assert all(0 <= row[-1] <= 1 for row in rows)
    assert result["task_sets"]["tasks"]["tasks"]["blob"]["num_test"] == sum(row[5] == "blob" for row in rows) / 2


def test_the_plan_is_told_before_anything_is_computed(probe):
    told, done = [], []

    def on_plan(plans, excluded):
        assert not done
        told.extend(describe_task(plan, task) for plan in plans for task in plan.tasks)
        told.extend(row["task"] for row in excluded)

    result, _ = probe(on_plan=on_plan, progress=lambda *arguments: done.append(arguments))
    blob = result["task_sets"]["tasks"]["tasks"]["blob"]
    assert len(told) == 2
    assert done
    assert told[0].startswith("blob: positive in ")
    assert told[0].endswith(f", {blob['num_test_positives']} of {blob['num_test']} test images ({blob['test_prevalence']:.1%})")
    assert f"of {blob['num_train']} train images ({blob['train_prevalence']:.1%})" in told[0]


def test_result_adds_up(probe):
    result, out = probe()
    assert (result["num_train"], result["num_test"]) == (108, 72)
    assert (result["grid"], result["width"], result["arm"]) == (4, 32, "random-vit")
    stripe = result["task_sets"]["tasks"]["tasks"]["stripe"]
    targets = read(out).filter(pa.compute.field("task") == "stripe")["target"].to_numpy()
    assert stripe["num_test_positives"] == targets.sum() / 2
    assert stripe["test_prevalence"] == pytest.approx(targets.mean())
    assert len(stripe["auprc"]) == 2


def test_learns_what_is_there(probe):
    result, _ = probe(dataclasses.replace(FAST, epochs=25))
    blob = result["task_sets"]["tasks"]["tasks"]["blob"]
    assert min(blob["auprc"]) > blob["test_prevalence"] + 0.4


def test_shuffled_labels_leave_auprc_at_the_prevalence(probe):
    result, out = probe(dataclasses.replace(FAST, epochs=25, shuffle_labels=True, seeds=tuple(range(8))))
    table = read(out)
    rng = np.random.default_rng(0)
    for task, facts in result["task_sets"]["tasks"]["tasks"].items():
        of_task = table.filter(pa.compute.field("task") == task)
        targets = of_task["target"].to_numpy()[: facts["num_test"]]
        chance = []
        for _ in range(500):
            order = rng.permutation(len(targets))
            precision = np.cumsum(targets[order]) / np.arange(1, len(order) + 1)
            chance.append(precision[targets[order] == 1].mean())
        low, high = np.quantile(chance, (0.005, 0.995))
        assert low < np.mean(facts["auprc"]) < high
        assert facts["test_prevalence"] == pytest.approx(targets.mean())


def test_shuffled_labels_keep_the_counts(probe):
    shuffled, plain = probe(dataclasses.replace(FAST, shuffle_labels=True))[0], probe(name="plain")[0]
    for task in ("blob", "stripe"):
        facts, others = (result["task_sets"]["tasks"]["tasks"][task] for result in (shuffled, plain))
        assert {**facts, "auprc": 0} == {**others, "auprc": 0}


def test_same_settings_give_the_same_bytes(probe):
    _, first = probe(save_probe=True)
    _, second = probe(name="again", work=None, num_workers=2, save_probe=True)
    for name in ("predictions.parquet", "probe.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_seed_does_not_depend_on_the_others(probe):
    together = read(probe(dataclasses.replace(FAST, seeds=(4, 0, 9)))[1]).filter(pa.compute.field("seed") == 9)
    alone = read(probe(dataclasses.replace(FAST, seeds=(9,)), "alone")[1])
    np.testing.assert_allclose(together["prediction"].to_numpy(), alone["prediction"].to_numpy(), atol=1e-4)
    assert together.drop(["prediction"]).equals(alone.drop(["prediction"]))


def test_several_task_sets_extract_once_and_do_not_touch_each_other(probe, monkeypatch):
    read_rows = []
    original = Dataset.read_images
    monkeypatch.setattr(Dataset, "read_images", lambda self, rows: read_rows.extend(rows) or original(self, rows))
    sets = {"one": ("blob",), "two": ("blob", "stripe")}
    result, out = probe(dataclasses.replace(FAST, tasks=None, task_sets=sets))
    assert len(read_rows) == len(set(read_rows)) == 180
    assert sorted(path.name for path in out.iterdir()) == ["predictions.one.parquet", "predictions.two.parquet"]
    assert {name: facts["predictions"] for name, facts in result["task_sets"].items()} == {
        "one": "predictions.one.parquet",
        "two": "predictions.two.parquet",
    }
    _, alone = probe(FAST, "alone")
    assert (alone / "predictions.parquet").read_bytes() == (out / "predictions.two.parquet").read_bytes()


def test_tasks_that_cannot_be_evaluated_are_listed_with_the_reason(probe):
    result, out = probe(dataclasses.replace(FAST, tasks="all", min_positives=2))
    assert result["excluded_tasks"] == [{"task_set": "all", "task": "rare", "reason": "1 positives in test; at least 2 needed"}]
    assert set(read(out)["task"].to_pylist()) == {"blob", "stripe"}
    with pytest.raises(InputError, match=r"none of its 20 tasks .*hyperinflation: not in the label table"):
        probe(dataclasses.replace(FAST, tasks="findings"))


@pytest.mark.parametrize("setting", [{"cache_features": False}, {"feature_dtype": "float32"}, {"image_batch_size": 7}])
def test_how_features_are_held_does_not_change_the_predictions(probe, setting):
    exact = read(probe()[1])
    other = read(probe(dataclasses.replace(FAST, **setting), "other")[1])
    np.testing.assert_allclose(other["prediction"].to_numpy(), exact["prediction"].to_numpy(), atol=5e-3)


def test_saved_probe_makes_the_same_predictions(probe, blob_dataset, encoder_folder):
    _, out = probe(dataclasses.replace(FAST, feature_dtype="float32"), save_probe=True)
    tensors = load_file(out / "probe.safetensors")
    saved = AttentionProbe(ProbeShape(in_channels=(32,) * 4, grid=4, width=32, num_tasks=2))
    saved.load_state_dict({name[2:]: tensor for name, tensor in tensors.items() if name.startswith("1.")})
    data, encoder = Dataset(blob_dataset), load_encoder(str(encoder_folder))
    rows = data.select(split="test", view="frontal")
    with torch.inference_mode():
        expected = saved(encoder.forward_features(encoder.preprocess(data.read_images(rows)))).sigmoid()[:, 0]
    found = read(out).filter((pa.compute.field("task") == "blob") & (pa.compute.field("seed") == 1))["prediction"]
    np.testing.assert_allclose(found.to_numpy(), expected.numpy(), atol=1e-5)


def test_a_smaller_grid_a_larger_kernel_and_fewer_images(probe):
    result, _ = probe(dataclasses.replace(FAST, grid=2, width=8, kernel_size=3, max_train=60, views=("frontal", "lateral")))
    assert (result["grid"], result["width"], result["num_train"], result["num_test"]) == (2, 8, 60, 80)


def test_uncertain_labels_follow_the_setting(probe):
    as_positive, _ = probe(dataclasses.replace(FAST, uncertain="positive"))
    unknown, _ = probe(name="unknown")
    one, other = (result["task_sets"]["tasks"]["tasks"]["stripe"] for result in (as_positive, unknown))
    assert one["num_test"] == 72
    assert one["num_test"] - other["num_test"] == one["num_test_positives"] - other["num_test_positives"] > 0


def test_cache_is_removed_and_its_limit_refuses_before_anything_runs(probe, tmp_path):
    _, out = probe()
    assert [path.name for path in out.iterdir()] == ["predictions.parquet"]
    with pytest.raises(InputError, match=r"feature cache: .* GB needed, `cache_limit_gb` allows"):
        probe(dataclasses.replace(FAST, cache_limit_gb=1e-4), "refused")
    assert not list((tmp_path / "refused").rglob("*.npy"))


def test_progress_rises_to_the_total(probe):
    calls = []
    probe(progress=lambda *call: calls.append(call))
    done, totals, whats = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[0] == totals[-1]
    assert set(whats) == {"features", "probe tasks"}


def test_views_that_the_dataset_lacks_are_an_error_that_names_those_it_has(probe):
    with pytest.raises(InputError, match=r"no train image is unknown; that split has frontal \(108\), lateral \(12\)"):
        probe(dataclasses.replace(FAST, views=("unknown",)))


def test_engines_are_never_mixed(probe, blob_dataset, tmp_path):
    table = pq.read_table(blob_dataset / "labels.parquet")
    other = table.set_column(4, "engine", pa.array(["rules"] * len(table)))
    pq.write_table(pa.concat_tables([table, other.slice(0, 3)]), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match="mixes rules, truth; choose one"):
        probe(labels=tmp_path)
    probe(dataclasses.replace(FAST, engine="truth"), labels=tmp_path)
    with pytest.raises(InputError, match="'llm' is not in the label table; it has rules, truth"):
        probe(dataclasses.replace(FAST, engine="llm"), labels=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give exactly one"),
        ({"tasks": "all", "task_sets": {"a": "all"}}, "give exactly one"),
        ({"task_sets": {}}, "empty"),
        ({"task_sets": {"a/b": "all"}}, "a/b"),
        ({"tasks": "all", "seeds": (1, 1)}, "seeds"),
        ({"tasks": "all", "views": ("front",)}, "views"),
        ({"tasks": "all", "epochs": 0}, "epochs is 0"),
        ({"tasks": "all", "kernel_size": 4}, "kernel_size is 4"),
        ({"tasks": "all", "learning_rate": 0.0}, "learning_rate"),
        ({"tasks": "all", "cache_limit_gb": 0.0}, "cache_limit_gb"),
    ],
)
def test_config_refuses_impossible_values(settings, message):
    with pytest.raises(InputError, match=message):
        ProbeConfig(**settings)


def test_unknown_device(probe):
    with pytest.raises(InputError, match="choose auto, cpu or cuda"):
        probe(device="tpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"id": "x" + row["id"]}, r"200 of its 200 ids are not in dataset; give the table that was made for"),
        (lambda row: row | {"state": "yes"}, r"state is 'yes'; it must be one of positive, negative, uncertain; correct the"),
        (lambda row: row | {"state": 1}, r"state is 1; it must be one of positive"),
        (lambda row: row | {"level": "patient"}, r"level is 'patient'; it must be one of study, sample"),
        (lambda row: row | {"state": "negative"}, r"none of its 2 tasks can be evaluated \(blob: 0 positives in train"),
    ],
)
def test_label_tables_that_mean_nothing_are_refused(probe, blob_dataset, tmp_path, change, message):
    rows = [change(row) for row in pq.read_table(blob_dataset / "labels.parquet").to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match=message):
        probe(labels=tmp_path / "labels.parquet")


def test_statements_that_contradict_each_other_are_refused_and_repeated_ones_are_not(probe, blob_dataset, tmp_path):
    table = pq.read_table(blob_dataset / "labels.parquet")
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "labels.parquet")
    probe(labels=tmp_path / "labels.parquet")
    first = next(row for row in table.to_pylist() if row["task"] == "blob")
    other = "negative" if first["state"] == "positive" else "positive"
    rows = [*table.to_pylist(), first | {"state": other}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match=rf"'blob' of study study0 is {first['state']} in one row and {other} in another"):
        probe(labels=tmp_path / "labels.parquet", name="again")


def test_labels_of_images_that_the_dataset_does_not_have_are_counted_and_left_out(probe, blob_dataset, tmp_path):
    table = pq.read_table(blob_dataset / "labels.parquet")
    stranger = table.slice(0, 1).to_pylist()[0] | {"id": "MRN-4711"}
    pq.write_table(pa.Table.from_pylist([*table.to_pylist(), stranger]), tmp_path / "labels.parquet")
    with pytest.warns(UserWarning, match="1 of its 201 ids are not in dataset; their labels are left out") as caught:
        _, with_stranger = probe(labels=tmp_path / "labels.parquet", name="a")
    assert not any("4711" in str(warning.message) for warning in caught)
    _, without = probe(name="b")
    for name in ("target", "prediction"):
        assert read(with_stranger)[name].equals(read(without)[name])


def test_a_table_of_another_format_is_refused(probe, tmp_path):
    (tmp_path / "labels.csv").write_text("id,task,state\n")
    with pytest.raises(InputError, match=r"labels.csv: not a Parquet table .*; give a label table"):
        probe(labels=tmp_path / "labels.csv")


def test_patients_in_two_splits_are_refused_by_pseudonym(encoder_folder, blob_dataset, tmp_path):
    shutil.copytree(blob_dataset, tmp_path / "dataset")
    rows = pq.read_table(blob_dataset / "manifest.parquet").to_pylist()
    rows[150]["patient_id"], rows[160]["patient_id"] = "patient3", "patient7"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dataset" / "manifest.parquet")
    with pytest.raises(InputError, match=r"2 patients have images in train and in test \(patient3, patient7\)"):
        run_probing(FAST, encoder=encoder_folder, dataset=tmp_path / "dataset", labels=blob_dataset, out=tmp_path / "out")


def test_an_encoder_that_gives_no_numbers_is_refused_and_leaves_no_cache(encoder_folder, blob_dataset, tmp_path):
    encoder = load_encoder(str(encoder_folder))
    with torch.no_grad():
        encoder.backbone.blocks[1].mlp.fc2.weight.fill_(1e38)
    save_checkpoint(tmp_path / "broken", encoder, info={"objective": "none"})
    with pytest.raises(InputError, match=r"broken\): its features are infinite or undefined numbers; check its weights"):
        run_probing(FAST, encoder=tmp_path / "broken", dataset=blob_dataset, labels=blob_dataset, out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npy"))
