"""Open weights from their published layouts, at a small size."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import radscale
from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, build_encoder
from radscale.training import open_weights
from radscale.training.checkpointing import published_state, save_checkpoint
from radscale.training.open_weights import check_tokenizer, load_dino_head, load_encoder
from radscale.training.weight_files import read_state

SIZES = {"image_size": 28, "patch_size": 14, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT = {"image_size_px": 28, "width": 16, "depth": 4, "num_heads": 2}
PROCESSOR = {"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
MEDIMAGEINSIGHT: dict[str, Any] = {
    "family": "davit",
    "architecture": {
        "image": {"depths": [1, 1, 1, 1], "widths": [8, 16, 16, 32], "num_heads": [1, 2, 2, 4], "window_size": 3},
        "text": {"width": 16, "depth": 1, "num_heads": 2},
        "embedding_dim": 12,
    },
    "preprocessing": {"image_size_px": 32, "resize": "squash"},
}


def dinov2_state() -> dict[str, Tensor]:
    return published_state(build_encoder({"family": "vit", "architecture": VIT}, seed=0))


def huggingface_state() -> dict[str, Tensor]:
    """DINOv2's names to those of Hugging Face files, written out independently of the loader's table."""
    renamed: dict[str, Tensor] = {}
    outer = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "mask_token": "embeddings.mask_token",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    for name, tensor in dinov2_state().items():
        if name in outer:
            renamed[outer[name]] = tensor
            continue
        _, block, rest = name.split(".", 2)
        layer = f"encoder.layer.{block}."
        if rest.startswith("attn.qkv."):
            for role, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{layer}attention.attention.{role}.{rest.rsplit('.', 1)[1]}"] = part.clone()
        elif rest.startswith("attn.proj."):
            renamed[layer + rest.replace("attn.proj", "attention.output.dense")] = tensor
        elif rest.startswith("ls"):
            renamed[f"{layer}layer_scale{rest[2]}.lambda1"] = tensor
        else:
            renamed[layer + rest] = tensor
    return renamed


def folder(path: Path, state: dict[str, Tensor], file: str = "model.safetensors", processor: bool = True) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "dinov2", **SIZES}))
    if processor:
        (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    save_file(state, path / file)
    return path


def same_weights(encoder: torch.nn.Module) -> bool:
    expected = dinov2_state()
    actual = published_state(encoder)  # type: ignore[arg-type]
    return expected.keys() == actual.keys() and all(torch.equal(expected[name], actual[name]) for name in expected)


def test_huggingface_and_dinov2_names_give_the_same_encoder(tmp_path: Path) -> None:
    for name, state, file in (
        ("hf", huggingface_state(), "model.safetensors"),
        ("d2", dinov2_state(), "backbone_compatible.safetensors"),
    ):
        encoder = load_encoder("rad-dino", weights=folder(tmp_path / name, state, file))
        assert same_weights(encoder)
        assert not encoder.training
        assert encoder.preprocessing.image_size_px == 28
        assert encoder.preprocessing.mean == (0.5307, 0.5307, 0.5307)
        assert encoder.preprocessing.crop_fraction == 1


def test_half_precision_is_cast_and_said(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in huggingface_state().items()}
    with pytest.warns(UserWarning, match="not exactly those of the float32 weights"):
        encoder = load_encoder("dinov2", weights=folder(tmp_path / "half", state))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder.origin == "model.safetensors (cast from float16 to float32)"


def test_no_preprocessor_file_means_imagenet_and_a_warning(tmp_path: Path) -> None:
    path = folder(tmp_path / "plain", huggingface_state(), processor=False)
    with pytest.warns(UserWarning, match="taking ImageNet statistics"):
        encoder = load_encoder("dinov2", weights=path)
    assert encoder.preprocessing.mean == (0.485, 0.456, 0.406)


def test_a_larger_resize_than_crop_is_kept(tmp_path: Path) -> None:
    path = folder(tmp_path / "hf", huggingface_state())
    (path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "size": {"shortest_edge": 32}}))
    assert load_encoder("dinov2", weights=path).preprocessing.crop_fraction == 28 / 32


def test_a_missing_key_projection_is_a_missing_tensor(tmp_path: Path) -> None:
    state = huggingface_state()
    del state["encoder.layer.2.attention.attention.key.weight"]
    with pytest.raises(InputError, match=r"1 missing \(blocks\.2\.attn\.qkv\.weight\)"):
        load_encoder("dinov2", weights=folder(tmp_path / "hf", state))


def test_the_head_beside_the_weights(tmp_path: Path) -> None:
    path = folder(tmp_path / "hf", huggingface_state())
    assert load_dino_head(path) is None
    head = DinoHead(16, num_prototypes=8, hidden=12, bottleneck=4)
    save_file(head.state_dict(), path / "dino_head.safetensors")
    loaded = load_dino_head(path)
    assert loaded is not None
    assert loaded.sizes == head.sizes
    save_file({"w": torch.zeros(1)}, path / "dino_head.safetensors")
    with pytest.raises(InputError, match="not a DINO head"):
        load_dino_head(path)


def test_medimageinsight_under_present_and_older_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_weights, "MEDIMAGEINSIGHT_CONFIG", MEDIMAGEINSIGHT)
    state = build_encoder(MEDIMAGEINSIGHT, seed=0).state_dict()
    older = {
        name.replace("image_encoder.", "visual.")
        .replace("lang_encoder.", "text.")
        .replace("visual.convs.", "visual.conv_embeds.")
        .replace("image_projection", "vision_projection"): tensor
        for name, tensor in state.items()
    }
    for index, names in enumerate((state, older)):
        path = tmp_path / str(index) / "vision_model"
        path.mkdir(parents=True)
        save_file(names, path / "medimageinsigt-v1.0.0.pt")
        for weights in (path / "medimageinsigt-v1.0.0.pt", path.parent):
            loaded = load_encoder("medimageinsight", weights=weights).state_dict()
            assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("name", ["medimageinsight", "dinov2"])
def test_weights_of_another_model_say_what_they_look_like(tmp_path: Path, name: str) -> None:
    if name == "medimageinsight":
        folder(tmp_path / "other", huggingface_state())
        weights, family = tmp_path / "other" / "model.safetensors", "dinov2"
    else:
        weights, family = folder(tmp_path / "other", build_encoder(MEDIMAGEINSIGHT, 0).state_dict()), "medimageinsight"
    with pytest.raises(InputError, match=f"holds weights of {family}, not of {name}"):
        load_encoder(name, weights=weights)


def test_a_checkpoint_loads_through_the_package(tmp_path: Path) -> None:
    config = {"family": "vit", "architecture": VIT, "preprocessing": {"image_size_px": 28}}
    save_checkpoint(tmp_path, build_encoder(config, seed=0), info={})
    assert same_weights(radscale.load_encoder(str(tmp_path)))


def test_clear_words_for_wrong_arguments(tmp_path: Path) -> None:
    path = folder(tmp_path / "hf", huggingface_state())
    with pytest.raises(InputError, match="unknown encoder 'resnet'"):
        load_encoder("resnet", weights=path)
    with pytest.raises(InputError, match="no such file or folder"):
        load_encoder("dinov2", weights=tmp_path / "absent")
    with pytest.raises(
        InputError, match="dinov2: neither a checkpoint nor a file of weights, nor, with weights, one of medimage"
    ):
        load_encoder("dinov2")
    with pytest.raises(InputError, match="a tokenizer belongs to medimageinsight"):
        load_encoder("dinov2", weights=path, tokenizer=tmp_path)
    (path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(InputError, match="model_type 'vit'"):
        load_encoder("dinov2", weights=path)


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    state = huggingface_state()
    state["layernorm.weight"][3] = float("nan")
    with pytest.raises(InputError, match=r"norm\.weight holds infinite or undefined numbers"):
        load_encoder("dinov2", weights=folder(tmp_path / "hf", state))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"hidden_size": "wide"}, "a size is no number"),
        ("config.json", {"num_hidden_layers": None}, "a size is no number"),
        ("preprocessor_config.json", {"image_mean": 0.5}, "sizes or statistics are no numbers"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 0}}, "sizes or statistics are no numbers"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "std above 0"),
    ],
)
def test_configurations_that_make_no_sense(tmp_path: Path, file: str, change: dict[str, Any], message: str) -> None:
    path = folder(tmp_path / "hf", huggingface_state())
    (path / file).write_text(json.dumps({**json.loads((path / file).read_text()), **change}))
    with pytest.raises(InputError, match=message) as refused:
        load_encoder("dinov2", weights=path)
    assert "\n" not in str(refused.value)


def test_a_transposed_tensor_is_named(tmp_path: Path) -> None:
    state = huggingface_state()
    name = "encoder.layer.3.mlp.fc1.weight"
    state[name] = state[name].T.contiguous()
    with pytest.raises(InputError, match=r"1 reshaped \(blocks\.3\.mlp\.fc1\.weight \(16, 64\) instead of \(64, 16\)\)"):
        load_encoder("dinov2", weights=folder(tmp_path / "hf", state))


def test_names_and_arguments_are_those_that_others_build_on() -> None:
    assert list(inspect.signature(radscale.load_encoder).parameters) == ["name", "weights", "tokenizer"]
    assert "load_encoder" in dir(radscale)
    for name in ("preprocess", "forward_features", "encode_image", "encode_text"):
        assert callable(getattr(Encoder, name))


def teacher_dump(path: Path, backbone: dict[str, Tensor], head: DinoHead, chunks: bool) -> Path:
    """As DINOv2's training writes its evaluation checkpoints; with FSDP, blocks carry the number of their chunk."""
    state = {}
    for name, tensor in backbone.items():
        if chunks and name.startswith("blocks."):
            index = int(name.split(".")[1])
            name = name.replace("blocks.", f"blocks.{index // 2}.", 1)
        state[f"backbone.{name}"] = tensor
    state |= {f"dino_head.{name}": tensor for name, tensor in head.state_dict().items()}
    state |= {f"ibot_head.{name}": tensor for name, tensor in head.state_dict().items()}
    torch.save({"teacher": state}, path)
    return path


@pytest.mark.parametrize("chunks", [False, True])
def test_a_teacher_dump_of_dinov2s_training(tmp_path: Path, chunks: bool) -> None:
    config = {"family": "vit", "architecture": {**VIT, "width": 128}}
    encoder, head = build_encoder(config, seed=0).eval(), DinoHead(128, num_prototypes=8, hidden=12, bottleneck=4)
    path = teacher_dump(tmp_path / "teacher_checkpoint.pth", published_state(encoder), head, chunks)
    for name in ("dinov2", None):
        with pytest.warns(UserWarning, match="taking ImageNet statistics"):
            loaded = load_encoder(str(path)) if name is None else load_encoder(name, weights=path)
        assert published_state(loaded).keys() == published_state(encoder).keys()
        assert all(torch.equal(published_state(loaded)[key], tensor) for key, tensor in published_state(encoder).items())
        assert loaded.config_dict()["architecture"] == {
            **encoder.config_dict()["architecture"],
            "interpolation": "offset0.1",
        }
    loaded_head = load_dino_head(path)
    assert loaded_head is not None
    assert all(torch.equal(a, b) for a, b in zip(loaded_head.state_dict().values(), head.state_dict().values(), strict=True))


def test_a_file_alone_takes_the_configuration_beside_it(tmp_path: Path) -> None:
    path = folder(tmp_path / "rad-dino", dinov2_state(), "backbone_compatible.safetensors")
    encoder = load_encoder("rad-dino", weights=path / "backbone_compatible.safetensors")
    assert same_weights(encoder)
    assert encoder.preprocessing.mean == (0.5307, 0.5307, 0.5307)


def test_a_file_without_configuration_is_measured(tmp_path: Path) -> None:
    wide = {**VIT, "width": 64, "num_heads": 1, "num_registers": 4}
    encoder = build_encoder({"family": "vit", "architecture": wide}, seed=0)
    save_file(published_state(encoder), tmp_path / "weights.safetensors")
    with pytest.warns(UserWarning, match=r"weights\.safetensors: no preprocessor_config\.json beside it, taking RAD-DINO's"):
        loaded = load_encoder("rad-dino", weights=tmp_path / "weights.safetensors")
    assert loaded.preprocessing.std == (0.2583,) * 3
    architecture = loaded.config_dict()["architecture"]
    assert (architecture["num_registers"], architecture["interpolation"]) == (4, "size_antialias")
    assert (architecture["image_size_px"], architecture["num_heads"], architecture["depth"]) == (28, 1, 4)
    save_file(dinov2_state(), tmp_path / "narrow.safetensors")
    with pytest.raises(InputError, match="width 16 is not a multiple of 64, so the number of heads is unknown"):
        load_encoder("dinov2", weights=tmp_path / "narrow.safetensors")
    save_file({**dinov2_state(), "blocks.0.mlp.w12.weight": torch.zeros(2, 2)}, tmp_path / "giant.safetensors")
    with pytest.raises(InputError, match="SwiGLU"):
        load_encoder("dinov2", weights=tmp_path / "giant.safetensors")


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path, protocol: str) -> None:
    path = tmp_path / "teacher_checkpoint.pth"
    content = {"teacher": {"backbone.norm.weight": torch.ones(2)}, "config": Bomb()}
    torch.save(content, path, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(InputError, match="a pickle that wants to run code") as refused:
        load_encoder("dinov2", weights=path)
    assert "\n" not in str(refused.value)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"iteration": 3}, path)
    with pytest.raises(InputError, match="holds no state dict"):
        load_encoder("dinov2", weights=path)
    torch.save(dinov2_state(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged PyTorch file"):
        load_encoder("dinov2", weights=path)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_encoder("dinov2", weights=path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json or medimageinsigt-v1\.0\.0\.pt in it"):
        load_encoder(str(tmp_path / "empty"))
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="tensors of an unknown model; radscale reads MedImageInsight"):
        load_encoder(str(tmp_path / "other.safetensors"))


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    """Its first bytes are a length: 0x4b50 reads "PK" as a zip archive does."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "weights"
    path.write_bytes((0x4B50).to_bytes(8, "little") + header.ljust(0x4B50) + torch.ones(1).numpy().tobytes())
    assert read_state(path)["w"].tolist() == [1.0]


def clip_folder(path: Path, swap: bool = False) -> Path:
    """vocab.json and merges.txt of CLIP's size and order with made-up merges, as far as the check of ids needs them."""
    path.mkdir(parents=True)
    merges = [f"{2 * rank:x}_ {rank:x}</w>" for rank in range(49406 - 512)]
    tokens = [f"byte{index}" for index in range(512)] + ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    if swap:
        tokens[600], tokens[601] = tokens[601], tokens[600]
    (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return path


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_tokenizer(clip_folder(tmp_path / "same"))
    with pytest.raises(InputError, match=r"not CLIP's vocabulary of 49,408 entries \('b0_58</w>' has id 601 instead of 600\)"):
        check_tokenizer(clip_folder(tmp_path / "other", swap=True))
    (tmp_path / "same" / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(InputError, match="1 merges instead of 48,894"):
        check_tokenizer(tmp_path / "same")
    monkeypatch.setattr(open_weights, "MEDIMAGEINSIGHT_CONFIG", MEDIMAGEINSIGHT)
    model = tmp_path / "mlflow" / "artifacts" / "checkpoints"
    clip_folder(model / "language_model" / "clip_tokenizer_4.16.2", swap=True)
    (model / "vision_model").mkdir()
    save_file(build_encoder(MEDIMAGEINSIGHT, seed=0).state_dict(), model / "vision_model" / "medimageinsigt-v1.0.0.pt")
    with pytest.raises(InputError, match="not CLIP's vocabulary"):
        load_encoder("medimageinsight", weights=tmp_path / "mlflow")
    with pytest.raises(InputError, match=r"no vocab\.json in it"):
        check_tokenizer(model)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, radscale; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
