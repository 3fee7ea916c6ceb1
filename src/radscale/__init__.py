"""radscale: how much of our own data does it take to beat the open chest X-ray models, and what will more data buy?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radscale.training.open_weights import load_encoder

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    """`radscale.load_encoder`, imported on first use: the package itself loads no torch."""
    if name == "load_encoder":
        from radscale.training.open_weights import load_encoder

        return load_encoder
    raise AttributeError(f"module 'radscale' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
