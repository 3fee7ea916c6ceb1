from pathlib import Path

import pytest

from radscale.errors import InputError
from radscale.experiment import load_experiment
from radscale.experiment.study import Study

BASE = """\
name: mine
title: Mine
image_size_px: 64
pretraining_dataset: own
datasets:
  own:
    source:
      kind: images
      folder: pictures
    labels: own
open_weights:
  open:
    label: Open
    load: dinov2
    weights: weights
arms:
  dinov2:
    label: DINOv2
    start: open
    objective: dinov2
subset_sizes: [10, 20]
replicates: {10: 2, 20: 1}
budget:
  epochs: 2
  reference: dinov2
evaluations:
  main:
    label: Main
    dataset: own
    tasks: all
pretraining: {batch_size: 8}
"""


def write(tmp_path: Path, text: str, name: str = "study.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_valid_file_loads(tmp_path: Path) -> None:
    loaded = load_experiment(write(tmp_path, BASE))
    assert loaded.settings.subset_sizes == [10, 20]
    assert loaded.settings.num_replicates(10) == 2
    assert Study(loaded).design.source_path("own") == tmp_path.resolve() / "pictures"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  epochs: 2", "  epocs: 2", r"study\.yaml:\d+: budget\.epocs: unknown key; did you mean 'epochs'\?"),
        ("  epochs: 2", "  epochs: two", r"study\.yaml:24: budget\.epochs: .*got 'two'"),
        ("  epochs: 2", "  epochs: -1", r"study\.yaml:24: budget\.epochs: .*greater than 0.*-1"),
        ("    tasks: all", "    taks: all", r"evaluations\.main\.taks: unknown key; did you mean 'tasks'\?"),
        ("      kind: images", "      kind: image", r"study\.yaml:\d+: datasets\.own\.source.*'image'.*'images'"),
        ("      folder: pictures", "      foldr: x", r"datasets\.own\.source\.fold"),
        ("title: Mine\n", "", r"study\.yaml:\d+: title: is required"),
        ("    start: open", "    start: opn", r"arms\.dinov2\.start: 'opn' is not one of open_weights \(open\)"),
        ("subset_sizes: [10, 20]", "subset_sizes: [20, 10]", r"subset_sizes: must rise"),
        ("{10: 2, 20: 1}", "{10: 2}", r"replicates: one number for each"),
        ("    weights: weights\n", "", r"open_weights\.open: load needs weights"),
        ("name: mine\n", "name: mine\nname: two\n", r"study\.yaml:2: key 'name' is given twice \(first in line 1\)"),
        ("name: mine\n", "name: [\n", r"study\.yaml:\d+: not valid YAML"),
        ("  reference: dinov2\n", "", r"budget: epochs needs reference"),
    ],
)
def test_a_mistake_is_named_with_file_line_key_and_rule(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in BASE
    with pytest.raises(InputError, match=expected) as error:
        load_experiment(write(tmp_path, BASE.replace(old, new)))
    assert "\n" not in str(error.value)


def test_extends_merges_replaces_and_removes(tmp_path: Path) -> None:
    write(tmp_path, BASE, "base.yaml")
    child = "extends: base.yaml\nname: child\nsubset_sizes: [5]\nreplicates: null\nbudget: {epochs: 3}\n"
    settings = load_experiment(write(tmp_path, child)).settings
    assert (settings.name, settings.subset_sizes, settings.replicates) == ("child", [5], 1)
    assert (settings.budget.epochs, settings.budget.reference) == (3, "dinov2")


def test_a_mistake_in_the_extended_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, BASE.replace("  epochs: 2", "  epochs: -2"), "base.yaml")
    with pytest.raises(InputError, match=r"base\.yaml:24: budget\.epochs"):
        load_experiment(write(tmp_path, "extends: base.yaml\nname: child\n"))


def test_another_kind_of_source_replaces_the_whole_source(tmp_path: Path) -> None:
    write(tmp_path, BASE, "base.yaml")
    child = "extends: base.yaml\ndatasets:\n  own:\n    source: {kind: dataset, path: made}\n"
    source = load_experiment(write(tmp_path, child)).settings.datasets["own"].source
    assert source.model_dump() == {"kind": "dataset", "path": "made", "num_images": None}


def test_circles_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="extends itself"):
        load_experiment(write(tmp_path, "extends: study.yaml\n"))
    with pytest.raises(InputError, match=r"neither a YAML file nor a recipe \(.*phantom"):
        load_experiment("phantm")
    with pytest.raises(InputError, match="no such file"):
        load_experiment(str(tmp_path / "none.yaml"))


def test_own_words_of_an_extended_file_are_replaced_not_merged(tmp_path: Path) -> None:
    """Nobody's table has the label column of the recipe that he extends."""
    base = BASE.replace(
        "      folder: pictures\n", "      folder: pictures\n      settings: {labels: {finding: categorical}}\n"
    )
    write(tmp_path, base, "base.yaml")
    child = "extends: base.yaml\ndatasets: {own: {source: {settings: {labels: {diagnoses: multiple}}}}}\n"
    source = load_experiment(write(tmp_path, child)).settings.datasets["own"].source
    assert source.model_dump()["settings"] == {"labels": {"diagnoses": "multiple"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]\n", r"study\.yaml:1: an anchor that holds itself"),
        ("? [1, 2]\n: 3\n", r"study\.yaml:1: a key must be a word or a number"),
        ("extends: smoke\nname: !!python/object:os.system x\n", r"study\.yaml:2: not valid YAML"),
        ("extends: smoke\nname: a/b\n", r"study\.yaml:2: name: must be letters, digits.*'a/b'"),
        ("extends: smoke\nprobe: 3\n", r"study\.yaml:2: probe: must be a mapping of keys to values, got 3"),
        ("extends: smoke\nbudget: {epochs: .inf}\n", r"study\.yaml:2: budget\.epochs: .*finite.*inf"),
    ],
)
def test_odd_files_are_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as error:
        load_experiment(write(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("pretraining: {lerning_rate: 0.1}", r"study\.yaml:2: pretraining\.lerning_rate: .*'learning_rate'"),
        ("pretraining: {batch_size: -3}", r"study\.yaml:2: pretraining\.batch_size: batch_size is -3"),
        ("arms: {clip: {settings: {batch_size: x}}}", r"study\.yaml:2: arms\.clip\.settings\.batch_size: must be int"),
        ("probe: {widht: 3}", r"study\.yaml:2: probe\.widht: .*'width'"),
        ("datasets: {own: {source: {settings: {dirt: 1}}}}", r"study\.yaml:2: datasets\.own\.source\.settings\.dirt"),
    ],
)
def test_what_a_stage_refuses_is_named_with_file_line_and_key(tmp_path: Path, change: str, expected: str) -> None:
    loaded = load_experiment(write(tmp_path, f"extends: smoke\n{change}\n"))
    with pytest.raises(InputError, match=expected) as error:
        Study(loaded, tmp_path / "out").check()
    assert "\n" not in str(error.value)


def test_a_number_may_be_written_as_people_write_it(tmp_path: Path) -> None:
    loaded = load_experiment(write(tmp_path, "extends: smoke\npretraining: {learning_rate: 1e-3}\n"))
    assert loaded.settings.pretraining["learning_rate"] == 0.001


def test_a_folder_named_like_a_recipe_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smoke").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_experiment("smoke").settings.name == "smoke"


def test_a_mistake_on_the_command_line_is_said_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--set: budget\.epocs: unknown key; did you mean 'epochs'"):
        load_experiment(write(tmp_path, BASE), {"budget": {"epocs": 9}})


def test_overrides_from_the_command_line(tmp_path: Path) -> None:
    settings = load_experiment(write(tmp_path, BASE), {"budget": {"epochs": 9}}).settings
    assert settings.budget.epochs == 9


def test_a_relative_path_starts_at_the_file_that_states_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "mine").mkdir()
    write(tmp_path / "shared", BASE, "base.yaml")
    path = write(tmp_path / "mine", "extends: ../shared/base.yaml\nopen_weights: {open: {weights: newer}}\n")
    monkeypatch.chdir(tmp_path)
    design = Study(load_experiment(path)).design
    assert design.source_path("own") == tmp_path / "shared" / "pictures"
    assert design.weights_path("open") == tmp_path / "mine" / "newer"
    typed = Study(load_experiment(path, {"open_weights": {"open": {"weights": "here"}}})).design
    assert typed.weights_path("open") == tmp_path / "here"


def own_images(tmp_path: Path, rows: int = 40, labels: str = "finding: categorical") -> str:
    """The base study on a table of so many rows, with labels normal and sick."""
    (tmp_path / "pictures").mkdir(exist_ok=True)
    lines = [f"{n}.png,p{n},{('normal', 'sick')[n % 2]}" for n in range(rows)]
    (tmp_path / "pictures" / "metadata.csv").write_text("image_path,patient_id,finding\n" + "\n".join(lines) + "\n")
    return BASE.replace("      folder: pictures\n", f"      folder: pictures\n      settings: {{labels: {{{labels}}}}}\n")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tasks: all", "tasks: [normal, sik]", r"study\.yaml:\d+: evaluations\.main\.tasks.*'sik'.*did you mean 'sick'"),
        ("    labels: own\n", "    labels: own\n    splits: {train: 0.9, validation: 0.1, test: 0.0}\n", r"splits\.test: is 0"),
        ("[10, 20]", "[10, 50]", r"study\.yaml:\d+: subset_sizes: 50 images are more than the 40 images"),
        ("[10, 20]", "[10, 38]", r"subset_sizes: 38 images are more than the 32 training images to be expected"),
        ("size: 8}", "size: 8, subset_size: 4}", r"pretraining\.subset_size: the study decides it"),
        ("size: 8}", "size: 8, budget: {unit: flops}}", r"study\.yaml:\d+: pretraining\.budget: the study"),
        ("size: 8}", "size: 16}", r"study\.yaml:\d+: pretraining\.batch_size: batch_size is 16, more pairs than 10 images"),
        ("budget:\n", "probe: {tasks: all}\nbudget:\n", r"probe\.tasks: the study decides it; state `tasks` of the evaluation"),
        (
            "    objective: dinov2\n",
            "    objective: unicl\n    settings: {label_tasks: {sik: ill}}\n",
            r"label_tasks\.sik.*'sick'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(tmp_path: Path, old: str, new: str, expected: str) -> None:
    text = own_images(tmp_path).replace(old, new).replace("{10: 2, 20: 1}", "1")
    with pytest.raises(InputError, match=expected) as error:
        Study(load_experiment(write(tmp_path, text)), tmp_path / "out").check(sources=False)
    assert "\n" not in str(error.value)


def test_what_can_work_is_not_refused(tmp_path: Path) -> None:
    text = (
        own_images(tmp_path)
        .replace("tasks: all", "tasks: [normal, sick]")
        .replace("    objective: dinov2", "    objective: unicl")
    )
    text = text.replace("    start: open\n", "    start: open\n    settings: {label_tasks: all}\n")
    Study(load_experiment(write(tmp_path, text)), tmp_path / "out").check(sources=False)
    loaded = load_experiment("images")
    Study(loaded, tmp_path / "out").check(sources=False)


SEGMENTATION = "segmentations: {lungs: {label: Lungs, dataset: own, masks: pictures}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SEGMENTATION.replace(", masks: pictures", ""),
            "segmentations.lungs: needs masks: a folder as `radscale masks` takes it",
        ),
        (SEGMENTATION.replace("dataset: own", "dataset: other"), "segmentations.lungs.dataset: 'other' is not one of datasets"),
        (SEGMENTATION.replace("lungs:", "main:"), "the name is also that of an evaluation"),
        (SEGMENTATION.replace("label:", "lable: x, label:"), "lable"),
        (SEGMENTATION + "segment: {seeds: [0, 0]}\n", "seeds"),
        (SEGMENTATION + "segment: {tasks: [a]}\n", "state `tasks` of the segmentation instead"),
        (SEGMENTATION + "segment: {epoch: 3}\n", "did you mean 'epochs'"),
    ],
)
def test_a_wrong_segmentation_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(BASE + text)
    with pytest.raises(InputError) as error:
        Study(load_experiment(str(path))).check(sources=False)
    assert expected in str(error.value)
    assert "study.yaml" in str(error.value)


def test_every_encoder_is_segmented_and_a_change_of_its_settings_is_no_change_of_the_probes(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    studies = []
    for settings in ("{epochs: 2}", "{epochs: 3}"):
        path.write_text(BASE + SEGMENTATION + f"segment: {settings}\n")
        studies.append(Study(load_experiment(str(path))).design)
    assert [len([run for run in design.runs if run.segmentation is not None]) for design in studies] == [4, 4]
    for first, second in zip(studies[0].runs, studies[1].runs, strict=True):
        assert first.probe.config == second.probe.config
        assert first.segmentation.config != second.segmentation.config  # type: ignore[union-attr]
