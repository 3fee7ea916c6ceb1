from pathlib import Path

import pytest

from radscale.benchmarks import PARTS, Options, run_part, tables
from radscale.cli import _run, app
from radscale.errors import InputError

OF_THEIR_OWN = {"lightly-train", "rapidocr-onnxruntime"}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_measures_us_and_a_peer(part: str, tmp_path: Path) -> None:
    results = run_part(part, Options(quick=True))
    for result in results:
        assert result.rows[0].name.startswith("radscale")
        assert result.rows[0].ratio == 1
        # What the test extras do not have is named as missing.
        assert len(result.rows) > 1 or result.note.startswith("no peer") or set(result.missing.values()) <= OF_THEIR_OWN
        for row in result.rows:
            assert min(row.seconds) > 0
    for name in ("a.md", "a.json"):
        tables.write(tmp_path / name, part, results)
        assert results[0].title in (tmp_path / name).read_text()


def test_exact_peers_agree_with_us() -> None:
    for result in run_part("hausdorff", Options(quick=True)):
        differences = {row.name: row.difference for row in result.rows}
        assert differences["scipy directed_hausdorff"] == pytest.approx(0, abs=1e-9)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="part 'nothing' is not known; choose one of bootstrap"):
        run_part("nothing", Options())
    with pytest.raises(InputError, match=r"ends in \.json or \.md"):
        tables.check_out(Path("a.txt"))
    assert _run(lambda: app(args=["bench", "nothing"], standalone_mode=False)) == 2
