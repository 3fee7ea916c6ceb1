"""Encoders of the user's own: the documented example, as he would use it, and what goes wrong."""

import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import radscale
from radscale.cli import app
from radscale.errors import InputError
from radscale.probing import embed_images
from radscale.training.checkpointing import load_checkpoint
from radscale.training.encoder_registry import build_registered, registered_names

DOCS = Path(__file__).parents[3] / "docs" / "own_encoder.md"


def example() -> str:
    """The first block of Python of the page."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return str(blocks[0])


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, Path]:
    """Name of the builder, and weights that it reads."""
    file = tmp_path / "my_encoder.py"
    file.write_text(example(), encoding="utf-8")
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(build_registered(f"{file}:build", None).state_dict(), weights)
    return f"{file}:build", weights


IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)


def test_the_documented_example_loads_and_encodes(own: tuple[str, Path]) -> None:
    encoder = radscale.load_encoder(own[0], weights=own[1])
    pixels = encoder.preprocess([IMAGE])
    assert [tuple(m.shape) for m in encoder.forward_features(pixels)] == [
        (1, 16, 32, 32),
        (1, 32, 16, 16),
        (1, 64, 8, 8),
        (1, 128, 4, 4),
    ]
    assert encoder.origin == f"{own[0]} with weights.pt"
    assert not encoder.training
    with pytest.raises(InputError, match="a 'external' encoder reads images only"):
        encoder.encode_text(["clear lungs"])


def test_its_images_can_be_embedded(own: tuple[str, Path]) -> None:
    encoder = radscale.load_encoder(own[0], weights=own[1])
    expected = encoder.forward_features(encoder.preprocess([IMAGE]))[-1]
    assert torch.equal(torch.from_numpy(embed_images(encoder, [IMAGE])), encoder.encode_image(encoder.preprocess([IMAGE])))
    assert np.array_equal(embed_images(encoder, [IMAGE], features="patches")[0], expected[0].permute(1, 2, 0).detach())
    assert np.array_equal(embed_images(encoder, [IMAGE], features="mean")[0], expected[0].flatten(1).mean(1).detach())


def test_its_checkpoint_gives_it_back_as_long_as_the_code_is_the_same(own: tuple[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    run = CliRunner().invoke(
        app, ["convert", str(own[1]), "--to", "radscale", "--model", own[0], "--out", str(out), "--verify"]
    )
    assert run.exit_code == 0, run.output
    assert "8 of 8 tensors equal bit for bit" in " ".join(run.output.split())
    before, after = radscale.load_encoder(own[0], weights=own[1]), radscale.load_encoder(str(out))
    pixels = before.preprocess([IMAGE])
    assert torch.equal(before.encode_image(pixels), after.encode_image(pixels))
    file = Path(own[0].rpartition(":")[0])
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.raises(InputError, match=r"made with another version of .*my_encoder\.py"):
        load_checkpoint(out)
    file.unlink()
    with pytest.raises(InputError, match=r"my_encoder\.py: no such file"):
        load_checkpoint(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("self.embedding_dim = 128", "self.embedding_dim = 64"),
            r"encode_image gave \(1, 128\); embedding_dim says \(1, 64\)",
        ),
        (("[16, 32, 64, 128]", "[16, 32, 64, 128, 256]"), r"forward_features gave shapes .*; it must give four maps"),
        (("return maps", "return [m[:, :2] for m in maps]"), r"forward_features gave \[2, 2, 2, 2\] channels"),
        (("F.normalize(", "2 * F.normalize("), "a vector of length 2; it must be normalised to 1"),
        (("self.embedding_dim = 128", "pass"), "the encoder has no 'embedding_dim'"),
        (("return encoder", "return 3"), "gave a int; a builder returns a radscale.models.Encoder"),
        (("def build(", "def make("), "has no function 'build'"),
        (("import torch\n", "import torch\nimport no_such_package\n"), "cannot be imported .ModuleNotFoundError"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "my_encoder.py"
    assert change[0] in example()
    file.write_text(example().replace(*change), encoding="utf-8")
    with pytest.raises(InputError, match=message) as refused:
        build_registered(f"{file}:build", None)
    assert "\n" not in str(refused.value)


def test_an_installed_package_offers_one_by_name(own: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(own[1].parent))
    point = metadata.EntryPoint(name="small-cnn", value="my_encoder:build", group="radscale.encoders")
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints([point] if group == point.group else []))
    assert registered_names() == ["small-cnn"]
    assert radscale.load_encoder("small-cnn", weights=own[1]).embedding_dim == 128
    with pytest.raises(InputError, match=r"unknown encoder 'other'; allowed: .* or an installed one \(small-cnn\)"):
        radscale.load_encoder("other", weights=own[1])
