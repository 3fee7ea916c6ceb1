from pathlib import Path

import pytest

from radscale.execution import describe_changes, external_identity, fingerprint


def test_order_of_keys_and_spelling_of_numbers_do_not_matter() -> None:
    assert fingerprint({"a": 1, "b": [1.0, 2]}) == fingerprint({"b": (1, 2.0), "a": 1})


def test_every_value_matters() -> None:
    base = {"lr": 1e-3, "sizes": [1, 2], "name": "x", "flag": True}
    variants = [
        {**base, "lr": 2e-3},
        {**base, "sizes": [2, 1]},
        {**base, "name": "y"},
        {**base, "flag": False},
        {"lr": 1e-3},
    ]
    assert len({fingerprint(value) for value in [base, *variants]}) == len(variants) + 1


def test_true_is_not_one() -> None:
    assert fingerprint({"a": True}) != fingerprint({"a": 1})


@pytest.mark.parametrize("value", [Path("/data"), len, object(), {1, 2}])
def test_what_has_no_stable_identity_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot fingerprint"):
        fingerprint({"value": value})


def test_changes_are_named() -> None:
    old = {"model": {"width": 64, "depth": 4}, "seed": 0}
    new = {"model": {"width": 96, "depth": 4}, "epochs": 5}
    assert describe_changes(old, new) == ["epochs: new (5)", "model.width: 64 -> 96", "seed: gone (was 0)"]


def test_a_table_of_the_same_size_with_another_label_is_another_source(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("image,label\na.png,0\n")
    before = external_identity(tmp_path)
    (tmp_path / "metadata.csv").write_text("image,label\na.png,1\n")
    assert external_identity(tmp_path) != before


def test_external_identity_is_content_not_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "x.txt").write_text("1234")
    assert external_identity(tmp_path / "a") == external_identity(tmp_path / "b")
    (tmp_path / "b" / "sub" / "x.txt").write_text("12345")
    assert external_identity(tmp_path / "a") != external_identity(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        external_identity(tmp_path / "none")
