"""DINOv2's projection head: a 3-layer MLP, L2 normalisation, weight-normalised prototypes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """Linear layer whose rows are `weight_g * weight_v / |weight_v|`; no bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1))
        self.weight_v = nn.Parameter(nn.init.trunc_normal_(torch.empty(out_features, in_features), std=0.02))

    @property
    def weight(self) -> Tensor:
        """(out_features, in_features)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)  # what torch's own parametrisation calls: one pass

    def prototypes(self) -> Tensor:
        """The weight in the type that autocast computes in: cast once for all uses of a step."""
        device = self.weight_v.device.type
        autocast = torch.is_autocast_enabled(device)
        return self.weight.to(torch.get_autocast_dtype(device)) if autocast else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class DinoHead(nn.Module):
    """RAD-DINO's released head has 768 inputs, 65,536 prototypes, 2048 hidden units and a bottleneck of 256."""

    def __init__(self, in_features: int, num_prototypes: int = 65536, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        self.in_features, self.hidden = in_features, hidden
        self.mlp = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last_layer = WeightNormLinear(bottleneck, num_prototypes)

    def reset_parameters(self, generator: torch.Generator) -> None:
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.ones_(self.last_layer.weight_g)
        nn.init.trunc_normal_(self.last_layer.weight_v, std=0.02, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) -> logits (N, num_prototypes)."""
        return self.last_layer(self.bottleneck(x))

    def bottleneck(self, x: Tensor) -> Tensor:
        """(N, in_features) -> (N, bottleneck), L2-normalised: the logits are its products with `last_layer.weight`."""
        x = self.mlp(x)
        return F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12)

    @property
    def sizes(self) -> dict[str, int]:
        return {
            "in_features": self.in_features,
            "num_prototypes": self.last_layer.weight_v.shape[0],
            "hidden": self.hidden,
            "bottleneck": self.last_layer.weight_v.shape[1],
        }
