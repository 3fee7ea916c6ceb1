"""A probing run that is stopped goes on where it was, to the same bytes."""

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from killed_commands import kill_when
from radscale.cli import app
from radscale.errors import InputError
from radscale.probing import ProbeConfig, run_probing
from radscale.training import features, training_state

CONFIG = ProbeConfig(
    tasks=("blob", "stripe"), seeds=(0, 1), epochs=3, batch_size=32, image_batch_size=16, label_fractions=(0.5, 1.0)
)


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def probe(blob_dataset, encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(training_state, "SAVE_SECONDS", -1.0)

    def run(name, config=CONFIG, labels=blob_dataset, encoder=encoder_folder, **settings):
        out = tmp_path / name
        settings = {"work": tmp_path / "work", **settings}
        run_probing(config, encoder=encoder, dataset=blob_dataset, labels=labels, out=out, **settings)
        return tables(out)

    return run


def stop_at(stage, images):
    def progress(done, total, what):
        if what.startswith(stage) and done >= images:
            raise KeyboardInterrupt

    return progress


def test_stopped_in_each_stage_it_ends_with_the_same_files(probe):
    straight = probe("straight", work=None)
    assert set(straight) == {"predictions.parquet", "label_efficiency.csv", "label_efficiency.svg"}
    for stage, images in (("features", 48), ("probe tasks", 250), ("probe tasks", 400), ("0.5 of the labels", 0)):
        with pytest.raises(KeyboardInterrupt):
            probe("stopped", progress=stop_at(stage, images))
    counts = []
    assert probe("stopped", progress=lambda done, total, what: counts.append(what)) == straight
    assert "features" not in counts
    assert "probe tasks" not in counts  # it was whole, and is not trained again


def test_work_of_other_settings_or_labels_is_refused(probe, blob_dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        probe("out", progress=stop_at("probe tasks", 300))
    with pytest.raises(InputError, match=r"had other settings \(learning_rate: 0.001 -> 0.01\)"):
        probe("out", dataclasses.replace(CONFIG, learning_rate=0.01))
    with pytest.raises(InputError, match=r"had other settings .*labels"):
        probe("out", dataclasses.replace(CONFIG, uncertain="positive"))


@pytest.mark.slow
def test_killed_and_repeated_the_command_goes_on_to_the_same_files(encoder_folder, blob_dataset, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text("epochs: 100\nmin_steps: 400\nseeds: [0, 1]\n")
    common = ["probe", str(encoder_folder), str(blob_dataset), "--labels", str(blob_dataset), "--config", str(settings)]
    straight = CliRunner().invoke(app, [*common, "--out", str(tmp_path / "straight")])
    assert straight.exit_code == 0, straight.output
    killed = [*common, "--out", str(tmp_path / "killed")]
    cache = tmp_path / "killed.partial" / "work" / "probe.features.npy"
    kill_when(killed, cache, after=0.3)
    first = cache.stat().st_mtime_ns
    assert not (tmp_path / "killed").exists()
    settings.write_text(settings.read_text().replace("100", "99"))
    changed = CliRunner().invoke(app, killed)
    assert "an unfinished run there had other settings (epochs: 100 -> 99)" in str(changed.exception)
    assert cache.stat().st_mtime_ns == first
    settings.write_text(settings.read_text().replace("99", "100"))
    again = CliRunner().invoke(app, killed)
    assert again.exit_code == 0, again.output
    assert tables(tmp_path / "killed") == tables(tmp_path / "straight")
    assert not (tmp_path / "killed.partial").exists()
