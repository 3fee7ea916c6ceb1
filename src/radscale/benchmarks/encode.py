"""Forward passes of the full-size image encoders, the peers with the same weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from radscale.benchmarks.measure import Case, Contestant, Options
from radscale.benchmarks.peers import davit_names_of_timm, import_timm, repair_torchvision
from radscale.models import DaViT, DaViTConfig, Preprocessing, ViTConfig, ViTEncoder

Forward = Callable[[Tensor], Tensor]
QUICK_VIT: dict[str, Any] = {"width": 64, "depth": 4, "num_heads": 1}
QUICK_DAVIT: dict[str, Any] = {"depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128), "num_heads": (2, 4, 8, 16)}


def cases(options: Options) -> list[Case]:
    """ViT-B/14 (RAD-DINO) and DaViT (MedImageInsight) at 518 px: float32 on a processor, bfloat16 on a GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, size_px = (32, 518) if device.type == "cuda" else (1, 518)
    if options.quick:
        batch, size_px = 2, 112
    vit = _vit(options, device)
    davit = _davit(options, device)
    generator = torch.Generator().manual_seed(options.seed)
    pixels = torch.randn(batch, 3, size_px, size_px, generator=generator).to(device)
    precision = "bfloat16" if device.type == "cuda" else f"float32, {torch.get_num_threads()} threads"
    common: dict[str, Any] = {
        "unit": "image",
        "workload": lambda _: pixels,
        "rounds": options.repeat or (2 if options.quick else 5),
        "difference": _relative,
    }

    def contestant(name: str, package: str, load: Callable[[], Forward]) -> Contestant:
        return Contestant(name, package, lambda: _timed(load(), device), units=batch)

    result = []
    for title, model, peers in (
        ("ViT-B/14", _Pooled(vit), {"transformers, SDPA": ("transformers", _transformers_vit), "timm": ("timm", _timm_vit)}),
        ("DaViT of MedImageInsight", _Pooled(davit), {"timm": ("timm", _timm_davit)}),
    ):
        flops = count_flops(model, pixels[:1])
        contestants = [contestant("radscale", "radscale", lambda model=model: model)]  # type: ignore[misc]
        contestants.append(contestant("radscale, compiled", "torch", lambda model=model: _compiled(model)))  # type: ignore[misc]
        contestants += [
            contestant(name, package, lambda load=load, model=model: load(model.inner, options, device))  # type: ignore[misc]
            for name, (package, load) in peers.items()
        ]
        bound = _matrix_products(flops * batch, device)
        contestants.append(contestant("bare matrix products of as many FLOPs", "torch", lambda bound=bound: bound))  # type: ignore[misc]
        result.append(
            Case(
                title=f"forward of {title}, {batch} x {size_px} px, {device.type}, {precision}",
                contestants=contestants,
                note=f"{flops / 1e9:.3g} GFLOP an image; the last row is what the device gives at best: its ratio is our share "
                "of that peak. Differences are relative to the largest output"
                + ("; timm resizes positions otherwise at sizes other than 518 px" if size_px != 518 else ""),
                **common,
            )
        )
    return result


class _Pooled(nn.Module):
    """Pixels to the tokens or pooled vector that every contestant gives."""

    def __init__(self, inner: ViTEncoder | DaViT) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        if isinstance(self.inner, DaViT):
            return self.inner.forward_pooled(pixels)
        tokens = self.inner.backbone.forward_tokens(pixels)
        return torch.cat([tokens["cls"][:, None], tokens["patches"]], dim=1)


def _timed(forward: Forward, device: torch.device) -> Forward:
    def run(pixels: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            result = forward(pixels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def _compiled(model: nn.Module) -> Forward:
    """Raises ImportError where torch cannot compile: without a compiler of C++."""
    import shutil

    if not torch.cuda.is_available() and shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ImportError("no C++ compiler")
    compiled: Forward = torch.compile(model, fullgraph=True)
    return compiled


def count_flops(model: nn.Module, pixels: Tensor) -> int:
    """Of one forward pass, a multiplication and an addition counted as two."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not see into fused attention on a processor.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(pixels)
    return int(counter.get_total_flops())


def _matrix_products(flops: int, device: torch.device) -> Forward:
    """Square products, as many as come nearest; the time is scaled by their count through the size of the last."""
    side = 2048 if device.type == "cpu" else 8192
    count = max(1, round(flops / (2 * side**3)))
    side = round((flops / (2 * count)) ** (1 / 3))
    a = torch.randn(side, side, device=device)

    def run(pixels: Tensor) -> Tensor:
        for _ in range(count):
            torch.mm(a, a)
        return pixels.new_full((1,), float("nan"))

    return run


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / ours.abs().max()) if theirs.shape == ours.shape else float("nan")


@cache
def _vit(options: Options, device: torch.device) -> ViTEncoder:
    config = ViTConfig(layerscale_init=1.0, interpolation="size", **(QUICK_VIT if options.quick else {}))
    encoder = ViTEncoder(config, Preprocessing(image_size_px=518))
    encoder.backbone.reset_parameters(torch.Generator().manual_seed(options.seed))
    return encoder.eval().to(device)


@cache
def _davit(options: Options, device: torch.device) -> DaViT:
    model = DaViT(DaViTConfig(**(QUICK_DAVIT if options.quick else {})))
    model.reset_parameters(torch.Generator().manual_seed(options.seed))
    return model.eval().to(device)


def _transformers_vit(vit: ViTEncoder, options: Options, device: torch.device) -> Forward:
    repair_torchvision()
    from transformers import Dinov2Model

    from radscale.training.conversion import convert

    with TemporaryDirectory() as folder:
        convert(vit, None, "huggingface", Path(folder) / "vit")
        model = Dinov2Model.from_pretrained(Path(folder) / "vit", attn_implementation="sdpa").eval().to(device)
    return lambda pixels: model(pixels).last_hidden_state


def _timm_vit(vit: ViTEncoder, options: Options, device: torch.device) -> Forward:
    timm = import_timm()
    sizes = {"embed_dim": 64, "depth": 4, "num_heads": 1} if options.quick else {}
    model = timm.create_model("vit_base_patch14_dinov2", num_classes=0, dynamic_img_size=True, **sizes).eval().to(device)
    state = dict(vit.backbone.state_dict())
    del state["mask_token"]
    model.load_state_dict(state)
    forward: Forward = model.forward_features
    return forward


def _timm_davit(davit: DaViT, options: Options, device: torch.device) -> Forward:
    timm = import_timm()
    quick = {"depths": QUICK_DAVIT["depths"], "embed_dims": QUICK_DAVIT["widths"], "num_heads": QUICK_DAVIT["num_heads"]}
    model = timm.create_model("davit_huge_fl", num_classes=0, **(quick if options.quick else {})).eval().to(device)
    model.load_state_dict(davit_names_of_timm(davit.state_dict()))
    return lambda pixels: model.forward_head(model.forward_features(pixels), pre_logits=True)
