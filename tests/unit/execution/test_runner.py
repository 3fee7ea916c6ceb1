import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from radscale.errors import InputError
from radscale.execution import ArtifactStore, run_steps
from radscale.execution.runner import describe_error
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


def test_two_runs_at_once_share_the_work(store: ArtifactStore, tmp_path: Path) -> None:
    """The second waits for the step at work and takes its output; both end well, and nothing is done twice."""
    count = make_step("count", "count_up", total=100)
    after = make_step("after", inputs=[count], text="!")
    displays, summaries = [Recorder(), Recorder()], {}

    def run(index: int) -> None:
        summaries[index] = run_steps([after], ArtifactStore(store.root), display=displays[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(summaries[index].ok for index in range(2))
    events = [event for display in displays for event in display.events]
    assert sum(event[:2] == ("done", "count") for event in events) >= 1
    assert any(kind in ("waiting", "kept") and name == "count" for kind, name, _ in events)
    assert (store.path(after) / "text.txt").read_text() == "100!"


def test_a_run_waits_for_a_step_of_another_process_and_says_so(store: ArtifactStore, display: Recorder) -> None:
    step = make_step("one", text="x")
    with store.lock(step) as free:
        assert free
        threading.Timer(1.5, lambda: release.set()).start()
        release = threading.Event()
        thread = threading.Thread(target=run_steps, args=([step], store), kwargs={"display": display})
        thread.start()
        release.wait(10)
        assert not store.path(step).exists()
    thread.join(30)
    assert ("waiting", "one", "") in display.events
    assert store.state(step).status == "done"


def test_a_kill_while_an_old_output_is_replaced_leaves_nothing_that_passes_for_whole(
    store: ArtifactStore, display: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_step("one", text="old"), make_step("one", text="new")
    run_steps([old], store, display=display)

    def killed(folder: Path, **kwargs: object) -> None:
        if folder == store.path(old):
            raise KeyboardInterrupt

    store.open_partial(new)
    record = store.record(old)
    assert record is not None
    monkeypatch.setattr("radscale.execution.artifact.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        store.commit(new, record)
    assert store.path(old).exists()
    assert store.state(old).status != "done"


def test_an_old_failure_is_not_that_of_changed_settings(store: ArtifactStore, display: Recorder) -> None:
    bad = make_step("one", "fail", message="no")
    run_steps([bad], store, display=display)
    assert store.state(bad).status == "failed"
    assert store.state(make_step("one", text="x")).status != "failed"


def test_a_full_disk_is_said_even_if_the_reason_cannot_be_written(
    store: ArtifactStore, display: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = make_step("bad", "fill_disk_for_good")
    summary = run_steps([bad], store, display=display)
    assert summary.outcomes == {"bad": "failed"}
    assert "no space left" in summary.reasons["bad"]


def test_status_needs_no_right_to_write(store: ArtifactStore, display: Recorder) -> None:
    step = make_step("one", text="x")
    run_steps([step], store, display=display)
    os.chmod(store.root / ".locks" / "one.lock", 0o400)
    os.chmod(store.root / ".locks", 0o500)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    assert store.state(step).status == "done"
    assert before == {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    os.chmod(store.root / ".locks", 0o700)


def test_a_folder_with_anything_else_in_it_is_never_touched(tmp_path: Path) -> None:
    precious = tmp_path / "datasets" / "own" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(InputError, match="no run of an experiment made"):
        ArtifactStore(tmp_path).claim("study")
    assert [path.name for path in tmp_path.iterdir()] == ["datasets"]


def test_a_folder_belongs_to_one_experiment(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "out")
    store.claim("one")
    store.claim("one")
    with pytest.raises(InputError, match="belongs to the experiment 'one', this one is 'two'"):
        ArtifactStore(store.root).claim("two")


def test_what_is_stale_says_why_in_words(store: ArtifactStore, display: Recorder) -> None:
    run_steps([make_step("two", inputs=[make_step("one", text="old")], text="2")], store, display=display)
    changed = make_step("two", inputs=[make_step("one", text="new")], text="2")
    assert store.state(changed).changes == ("input one is another",)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_is_known_in_every_wording(error: Exception) -> None:
    assert describe_error(error).startswith("no space left on the disk")


@pytest.mark.parametrize("num_workers", [1, 3])
def test_threads_come_from_the_step_and_not_from_the_machine(
    store: ArtifactStore, display: Recorder, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    step = replace(make_step("one", "count_threads"), num_threads=2)
    assert run_steps([step], store, display=display, num_workers=num_workers).ok
    record = store.record(step)
    assert record is not None
    assert record.result == {"torch": 2}
    assert record.identity["num_threads"] == 2


def test_other_threads_or_another_version_make_an_output_stale(store: ArtifactStore, display: Recorder) -> None:
    step = make_step("one", text="x")
    run_steps([step], store, display=display)
    assert store.state(replace(step, num_threads=2)).changes == ("num_threads: 1 -> 2",)
    assert store.state(replace(step, version=2)).changes == ("made by another version of the step",)
    assert store.state(step).status == "done"


def test_a_step_is_made_without_optional_inputs_that_failed_and_again_when_they_are_there(
    store: ArtifactStore, display: Recorder
) -> None:
    good, bad = make_step("good", text="g"), make_step("bad", "fail", message="too few labels")
    whole = replace(make_step("all", inputs=[good, bad], text="!"), optional=frozenset({"good", "bad"}))
    summary = run_steps([whole], store, display=display)
    assert summary.outcomes == {"good": "done", "bad": "failed", "all": "done"}
    assert (store.path(whole) / "text.txt").read_text() == "g!"
    assert (store.state(whole).status, store.state(whole).reason) == ("incomplete", "made without bad")
    assert run_steps([whole], store, display=display).outcomes["all"] == "kept"
    mended = make_step("bad", text="b")
    whole = replace(whole, inputs={"good": good, "bad": mended})
    assert run_steps([whole], store, display=display).ok
    assert (store.path(whole) / "text.txt").read_text() == "gb!"
    assert store.state(whole).status == "done"


def test_a_step_without_any_of_its_optional_inputs_is_skipped(store: ArtifactStore, display: Recorder) -> None:
    good, bad = make_step("good", text="g"), make_step("bad", "fail", message="no")
    whole = replace(make_step("all", inputs=[good, bad], text="!"), optional=frozenset({"bad"}))
    assert run_steps([whole], store, display=display).outcomes["all"] == "skipped"
