"""CLIP and UniCL: images and texts in one space. Both are one loss; they differ in which texts an image is shown with."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.losses import unicl_loss, unique_pair_targets
from radscale.models import Encoder, ImageTextEncoder, TextEncoderConfig, ViTEncoder, add_text_tower, make_encoder
from radscale.models.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, pad_tokens
from radscale.pretraining.augmentations import apply_crops, plan_crops
from radscale.pretraining.config import PretrainingConfig
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.texts import TrainingRows
from radscale.training import ShuffledEpochs

NORM_LAYERS = (nn.LayerNorm,)


def with_text_tower(encoder: ViTEncoder, config: PretrainingConfig, *, initialise: bool = True) -> ImageTextEncoder:
    """A ViT that came without texts, with a fresh tower of the configured size."""
    tower = config.text_tower
    text = TextEncoderConfig(
        width=tower.width, depth=tower.depth, num_heads=tower.num_heads, context_length=tower.context_length
    )
    if initialise:
        return add_text_tower(encoder, text, tower.embedding_dim, config.seed)
    described = encoder.config_dict()
    sizes = {"width": tower.width, "depth": tower.depth, "num_heads": tower.num_heads, "context_length": tower.context_length}
    architecture = {"image": described["architecture"], "text": sizes, "embedding_dim": tower.embedding_dim}
    made = make_encoder({**described, "family": "vit_text", "architecture": architecture})
    assert isinstance(made, ImageTextEncoder)
    return made


class ContrastiveObjective:
    """See `radscale.training.trainer.Objective`.

    The vocabulary is narrowed to the tokens that occur in the run while it lasts: a token that never occurs gets neither
    gradient nor decay, so the result is the same, and small runs do not pay for 49,408 rows.
    """

    def __init__(
        self, encoder: Encoder, images: SubsetImages, rows: TrainingRows, config: PretrainingConfig, *, from_scratch: bool
    ) -> None:
        self.new_tower_multiplier = 1.0
        if isinstance(encoder, ViTEncoder):
            encoder = with_text_tower(encoder, config)
            if not from_scratch:
                self.new_tower_multiplier = config.text_tower.learning_rate_multiplier
        if not isinstance(encoder, ImageTextEncoder):
            raise InputError(f"objective {config.objective} needs an encoder with images, got family '{encoder.family}'")
        if len(rows.text) < config.batch_size:
            raise InputError(
                f"objective {config.objective}: {len(rows.text)} pairs are fewer than batch_size {config.batch_size}; "
                "take a smaller batch or a larger subset"
            )
        self.encoder, self.images, self.rows, self.config = encoder.train(), images, rows, config
        self.size_px = config.image_size_px or encoder.preprocessing.image_size_px
        self.sampler = ShuffledEpochs(len(rows.text), config.batch_size, config.seed)
        length = encoder.tokenizer.context_length
        tokens = [encoder.tokenizer.encode(text) for text in rows.text]
        self.num_truncated = sum(len(row) > length - 2 for row in tokens)
        cut = [[BEGIN_OF_TEXT, *row[: length - 2], END_OF_TEXT] for row in tokens]
        self.vocabulary = torch.tensor(sorted({token for row in cut for token in row}))
        place = {int(token): index for index, token in enumerate(self.vocabulary)}
        # Order is kept, so the end token still has the largest id, by which the text tower finds it.
        self.tokens = [[place[token] for token in row] for row in cut]
        self.full_embedding = encoder.lang_encoder.token_embedding
        self.encoder.lang_encoder.token_embedding = nn.Embedding.from_pretrained(
            self.full_embedding.weight.detach()[self.vocabulary].clone(), freeze=False
        )
        self.average = [parameter.detach().clone() for parameter in self.encoder.parameters()]
        self.device = torch.device("cpu")

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """MedImageInsight's rule: no decay of norms, biases, depth-wise kernels, embeddings and the logit scale."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        norms = {
            f"{name}.{key}"
            for name, m in self.encoder.named_modules()
            if isinstance(m, NORM_LAYERS)
            for key in ("weight", "bias")
        }
        for name, parameter in self.encoder.named_parameters():
            exempt = name in norms or name.endswith(
                (".bias", ".dw.weight", "embedding", "token_embedding.weight", "logit_scale")
            )
            multiplier = 1.0 if name.startswith("image_encoder.") else self.new_tower_multiplier
            groups.setdefault((multiplier, not exempt), []).append(parameter)
        return [{"params": params, "lr_multiplier": m, "decays": decays} for (m, decays), params in groups.items()]

    def to(self, device: torch.device) -> None:
        self.device = device
        self.encoder.to(device)
        self.average = [value.to(device) for value in self.average]

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        chosen = self.sampler.batch(step)
        pixels = self._pixels(chosen, generator)
        input_ids, mask = pad_tokens([self.tokens[row] for row in chosen], len(self.vocabulary) - 1)
        image_features = self.encoder.encode_image(pixels, generator)
        text_features = self.encoder.encode_tokens(input_ids.to(self.device), mask.to(self.device))
        targets = unique_pair_targets(torch.from_numpy(self.rows.label[chosen])).to(self.device)
        scale = self.encoder.logit_scale.exp()
        loss = unicl_loss(image_features, text_features, targets, scale)
        return loss, {"logit_scale": scale.detach(), **contrastive_health(image_features, text_features, targets)}

    def _pixels(self, chosen: Any, generator: torch.Generator) -> Tensor:
        canvas, heights, widths = self.images.batch(self.rows.image[chosen])
        options = self.config.augmentation
        plan = plan_crops(
            heights,
            widths,
            generator,
            scale=options.crop_scale,
            ratio=options.crop_ratio,
            brightness=options.brightness,
            contrast=options.contrast,
        )
        return self.encoder.preprocessing.normalise(apply_crops(canvas.to(self.device), plan, self.size_px))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        decay = min(self.config.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.encoder.parameters()], 1 - decay)

    def evaluate(self, step: int) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"encoder": self.encoder.state_dict(), "average": self.average}

    def load_state(self, state: dict[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.average = [value.to(self.device) for value in state["average"]]

    def export(self) -> Encoder:
        """The averaged encoder with its whole vocabulary."""
        encoder = copy.deepcopy(self.encoder).cpu().eval()
        with torch.no_grad():
            for parameter, value in zip(encoder.parameters(), self.average, strict=True):
                parameter.copy_(value)
            embedding = copy.deepcopy(self.full_embedding)
            embedding.weight[self.vocabulary] = encoder.lang_encoder.token_embedding.weight
        encoder.lang_encoder.token_embedding = embedding
        return encoder


@torch.no_grad()
def contrastive_health(image_features: Tensor, text_features: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Accuracy of finding a positive text, and mean cosine between different images (1 is collapse)."""
    similarity = image_features.float() @ text_features.float().T
    accuracy = (targets[similarity.argmax(dim=1)] == targets).float().mean()
    cosines = image_features.float() @ image_features.float().T
    count = len(targets)
    mean_cosine = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
    return {"contrastive_accuracy": accuracy, "mean_image_cosine": mean_cosine}
