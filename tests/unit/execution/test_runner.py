import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from radscale.errors import InputError
from radscale.execution import ArtifactStore, run_steps
from runner_doubles import Recorder, make_step

HELPERS = Path(__file__).parents[2] / "helpers"


def test_runs_in_order_then_has_nothing_to_do(store: ArtifactStore, display: Recorder) -> None:
    first = make_step("a/one", text="1")
    second = make_step("a/two", inputs=[first], text="2")
    summary = run_steps([second], store, display=display, num_workers=2)
    assert summary.outcomes == {"a/one": "done", "a/two": "done"}
    assert (store.path(second) / "text.txt").read_text() == "12"
    record = json.loads((store.path(second) / "record.json").read_text())
    assert record["result"] == {"length": 2}
    assert record["provenance"]["packages"]["radscale"]
    again = run_steps([second], store, display=display, num_workers=2)
    assert set(again.outcomes.values()) == {"kept"}


def test_changed_settings_are_refused_with_the_change_and_rebuilt_on_demand(store: ArtifactStore, display: Recorder) -> None:
    run_steps([make_step("one", text="old")], store, display=display)
    changed = make_step("one", text="new")
    assert store.state(changed).status == "stale"
    with pytest.raises(InputError, match=r'config\.text: "old" -> "new".*--rebuild'):
        run_steps([changed], store, display=display)
    assert (store.path(changed) / "text.txt").read_text() == "old"
    run_steps([changed], store, display=display, rebuild=True)
    assert (store.path(changed) / "text.txt").read_text() == "new"


def test_downstream_of_a_change_is_stale(store: ArtifactStore, display: Recorder) -> None:
    run_steps([make_step("two", inputs=[make_step("one", text="old")], text="2")], store, display=display)
    downstream = make_step("two", inputs=[make_step("one", text="new")], text="2")
    assert ArtifactStore(store.root).state(downstream).status == "stale"


@pytest.mark.parametrize(
    ("function", "expected"),
    [("fail", "the archive is empty"), ("fill_disk", "no space left"), ("die", "ended by SIGKILL")],
)
def test_a_failure_leaves_no_artifact_and_stops_only_what_needs_it(
    store: ArtifactStore, display: Recorder, function: str, expected: str
) -> None:
    bad = make_step("bad", function, message="the archive is empty")
    needs_bad = make_step("needs", inputs=[bad], text="x")
    good = make_step("good", text="g")
    summary = run_steps([needs_bad, good], store, display=display, num_workers=2)
    assert summary.outcomes == {"bad": "failed", "needs": "skipped", "good": "done"}
    assert expected in summary.reasons["bad"]
    assert not store.path(bad).exists()
    assert store.state(bad).status == "failed"
    assert not summary.ok


def test_failed_steps_are_tried_again(store: ArtifactStore, display: Recorder) -> None:
    run_steps([make_step("one", "fail", message="no")], store, display=display)
    fixed = make_step("one", text="now")
    assert run_steps([fixed], store, display=display).outcomes == {"one": "done"}


def test_a_half_written_folder_is_not_an_artifact(store: ArtifactStore, display: Recorder) -> None:
    step = make_step("one", text="whole")
    store.path(step).mkdir(parents=True)
    (store.path(step) / "text.txt").write_text("ha")
    (store.path(step) / "record.json").write_text('{"name": "one", "finger')
    assert store.state(step).status == "missing"
    run_steps([step], store, display=display)
    assert (store.path(step) / "text.txt").read_text() == "whole"


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from runner_doubles import Recorder, make_step
from pathlib import Path
from radscale.execution import ArtifactStore, run_steps
if __name__ == "__main__":
    run_steps([make_step("count", "count_up", total=100)], ArtifactStore(Path({root!r})), display=Recorder())
"""


def test_killed_run_resumes_from_its_work(store: ArtifactStore, display: Recorder, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(HELPERS), root=str(store.root)))
    step = make_step("count", "count_up", total=100)
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    place = store.partial(step) / "work" / "place.txt"
    deadline = time.monotonic() + 60
    while not (place.exists() and int(place.read_text() or 0) > 10):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert store.state(step).status == "running"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while store.state(step).status == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.state(step).status == "interrupted"
    run_steps([step], store, display=display)
    record = store.record(step)
    assert record is not None
    assert record.result["started_at"] > 10
    assert (store.path(step) / "text.txt").read_text() == "100"


def test_a_step_that_another_process_works_on_is_left_to_it(store: ArtifactStore, display: Recorder) -> None:
    step = make_step("one", text="x")
    with store.lock(step) as free:
        assert free
        summary = run_steps([step], store, display=display)
    assert summary.outcomes == {"one": "busy"}
    assert not store.path(step).exists()
