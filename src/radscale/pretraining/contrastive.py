"""CLIP and UniCL: images and texts in one space. Both are one loss; they differ in which texts an image is shown with."""

import copy
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.losses import unicl_loss, unique_pair_targets
from radscale.models import Encoder, ImageTextEncoder, TextEncoderConfig, ViTEncoder, add_text_tower, make_encoder
from radscale.models.recomputation import recompute
from radscale.models.stochastic_depth import BatchPart
from radscale.models.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, pad_tokens
from radscale.pretraining.augmentations import apply_crops, plan_crops
from radscale.pretraining.config import PretrainingConfig
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.knn import KnnMonitor
from radscale.pretraining.texts import TrainingRows
from radscale.pretraining.trivial_augment import apply_trivial_augment, plan_trivial_augment
from radscale.training import ONE_RANK, Ranks, ShuffledEpochs

NORM_LAYERS = (nn.LayerNorm,)
WITHOUT_DECAY = (".bias", ".dw.weight", "embedding", "token_embedding.weight", "logit_scale", ".gamma")
ALARM_AFTER_STEPS = 200
ALARM_WINDOW = 20
"""Logged steps over which accuracy is averaged before it can raise an alarm."""
COLLAPSED_COSINE = 0.99
LARGEST_SCALE = 100.0
"""CLIP clamps its scale here; MedImageInsight's trainer does not clamp, and neither do we."""
LEAST_LEAD = 1.2
"""Times the accuracy of guessing."""

Encode = Callable[[Tensor, torch.Generator | None], Tensor]


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


def context_length(encoder: Encoder, config: PretrainingConfig) -> int:
    """Tokens that the text tower will read: the encoder's own, or those of the tower that it will get."""
    return encoder.tokenizer.context_length if isinstance(encoder, ImageTextEncoder) else config.text_tower.context_length


class ContrastiveObjective:
    """See `radscale.training.trainer.Objective`.

    The vocabulary is narrowed to the tokens that occur in the run while it lasts: a token that never occurs gets neither
    gradient nor decay, so the result is the same, and small runs do not pay for 49,408 rows.

    B = rows of a step over all ranks, b = rows of this one, D = embedding dimension.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: SubsetImages,
        rows: TrainingRows,
        config: PretrainingConfig,
        *,
        from_scratch: bool,
        ranks: Ranks = ONE_RANK,
        knn: KnnMonitor | None = None,
    ) -> None:
        self.knn = knn
        self.new_tower_multiplier = 1.0
        if isinstance(encoder, ViTEncoder):
            encoder = with_text_tower(encoder, config)
            if not from_scratch:
                self.new_tower_multiplier = config.text_tower.learning_rate_multiplier
        if not isinstance(encoder, ImageTextEncoder):
            raise InputError(f"objective {config.objective} needs an encoder with images, got family '{encoder.family}'")
        rows.check(config.objective, config.batch_size)
        if config.batch_size % ranks.world_size:
            raise InputError(f"batch_size {config.batch_size} is not a multiple of {ranks.world_size} processes; change one")
        own = ranks.share(range(config.batch_size))
        self.own = slice(own[0], own[-1] + 1)
        self.encoder, self.images, self.rows, self.config, self.ranks = encoder.train(), images, rows, config, ranks
        self.size_px = config.image_size_px or encoder.preprocessing.image_size_px
        self.sampler = ShuffledEpochs(len(rows), config.batch_size, config.seed)
        images.follow(self.images_of_step, 0, 0)
        used = np.union1d(rows.table.vocabulary(), [BEGIN_OF_TEXT, END_OF_TEXT])
        self.vocabulary = torch.from_numpy(used)
        # Order is kept, so the end token still has the largest id, by which the text tower finds it.
        self.place = np.zeros(END_OF_TEXT + 1, dtype=np.int64)
        self.place[used] = np.arange(len(used))
        self.full_embedding = encoder.lang_encoder.token_embedding
        self.encoder.lang_encoder.token_embedding = nn.Embedding.from_pretrained(
            self.full_embedding.weight.detach()[self.vocabulary].clone(), freeze=False
        )
        freeze(self.encoder, config.contrastive.frozen_patterns)
        self.average = [parameter.detach().clone() for parameter in self.encoder.parameters()]
        self.device = torch.device("cpu")
        self.steps_done = 0
        self.lead_over_chance: deque[float] = deque(maxlen=ALARM_WINDOW)

    def images_of_step(self, step: int) -> np.ndarray:
        """(b,) positions of this rank's images in the subset."""
        return self.rows.image[self.sampler.batch(step)[self.own]]

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """MedImageInsight's rule: no decay of norms, biases, depth-wise kernels, embeddings and the logit scale.

        Its rule for biases asks for a dot before the word, so that `attn.in_proj_bias` of the text tower is decayed; kept, as
        the published weights were trained so. A ViT's layer scale is not decayed, as in DINOv2.
        """
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        norms = {
            f"{name}.{key}"
            for name, m in self.encoder.named_modules()
            if isinstance(m, NORM_LAYERS)
            for key in ("weight", "bias")
        }
        for name, parameter in self.encoder.named_parameters():
            if not parameter.requires_grad:
                continue
            exempt = name in norms or name.endswith(WITHOUT_DECAY)
            multiplier = 1.0 if name.startswith("image_encoder.") else self.new_tower_multiplier
            groups.setdefault((multiplier, not exempt), []).append(parameter)
        return [{"params": params, "lr_multiplier": m, "decays": decays} for (m, decays), params in groups.items()]

    def to(self, device: torch.device) -> None:
        self.device = device
        self.encoder.to(device)
        self.average = [value.to(device) for value in self.average]

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Every rank encodes its rows and computes the one loss of all rows, from the gathered features."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        chosen = self.sampler.batch(step)
        crops = self._crops(step, chosen, generator)
        image_features = self.ranks.gather(self._image_features(crops, generator))
        text_features = self.ranks.gather(self._text_features(chosen[self.own]))
        # Every rank knows the rows of all, so that targets need not be sent and new ids are the same everywhere.
        targets = unique_pair_targets(torch.from_numpy(self.rows.label[chosen])).to(self.device)
        scale = self.encoder.logit_scale.exp()
        loss = unicl_loss(image_features, text_features, targets, scale)
        return loss, {"logit_scale": scale.detach(), **contrastive_health(image_features, text_features, targets)}

    def _crops(self, step: int, chosen: np.ndarray, generator: torch.Generator) -> Tensor:
        """(b, 1, S, S) grey in [0, 1]. Drawn for all rows, so that each is cropped alike however many ranks there are."""
        heights, widths = self.images.sizes(self.rows.image[chosen])
        options, own = self.config.augmentation, torch.arange(len(chosen))[self.own]
        light = options.recipe == "light"
        plan = plan_crops(
            heights,
            widths,
            generator,
            scale=options.crop_scale,
            ratio=options.crop_ratio,
            brightness=options.brightness if light else 0.0,
            contrast=options.contrast if light else 0.0,
        )
        canvas, _, _ = self.images.batch_of(step, self.device)
        crops = apply_crops(canvas, plan.rows(own), self.size_px)
        if light:
            return crops
        trivial = plan_trivial_augment(len(chosen), self.size_px, generator, erasing_probability=options.erasing_probability)
        return apply_trivial_augment(crops, trivial.rows(own))

    def _image_features(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """(b, D); each image's stochastic depth is what it would draw in the whole batch on one rank."""

        def encode(grey: Tensor, draws: torch.Generator | None) -> Tensor:
            return self.encoder.encode_image(self.encoder.preprocessing.normalise(grey), draws)

        def inputs(rows: slice) -> tuple[Encode, Tensor, torch.Generator]:
            places = torch.arange(self.own.start + rows.start, self.own.start + rows.stop)
            return encode, crops[rows], BatchPart.of(generator, places, self.config.batch_size)

        return self._in_micro_batches(len(crops), inputs)

    def _text_features(self, chosen: np.ndarray) -> Tensor:
        """(b, D)"""

        def inputs(rows: slice) -> tuple[Encode, Tensor, None]:
            input_ids, mask = pad_tokens([self.place[self.rows.tokens(row)] for row in chosen[rows]], len(self.vocabulary) - 1)
            mask = mask.to(self.device)
            return (lambda ids, _: self.encoder.encode_tokens(ids, mask)), input_ids.to(self.device), None

        return self._in_micro_batches(len(chosen), inputs)

    def _in_micro_batches(self, count: int, inputs: Callable[[slice], tuple[Encode, Tensor, torch.Generator | None]]) -> Tensor:
        """Features of all rows, of which only those of one micro-batch keep their activations at a time.

        The loss needs all features at once, but the encoders do not: each micro-batch is encoded without its activations, and
        again when the gradient of its features is known (GradCache, Gao et al., 2021). The batch of the loss is the whole one.
        """
        size = self.config.contrastive.micro_batch_size or count
        if size >= count:
            encode, x, generator = inputs(slice(0, count))
            return encode(x, generator)
        return torch.cat([recompute(*inputs(slice(start, min(start + size, count)))) for start in range(0, count, size)])

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        decay = min(self.config.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.encoder.parameters()], 1 - decay)
        self.steps_done = step + 1

    def evaluate(self, step: int) -> dict[str, float]:
        """Each `knn.every_steps` steps the k-NN AUPRC of the averaged encoder's image embeddings.

        Args:
            step: number of steps done.
        """
        if self.knn is None or step % self.config.knn.every_steps:
            return {}
        preprocessing = replace(self.encoder.preprocessing, image_size_px=self.size_px)
        with self._averaged():
            return self.knn.evaluate(lambda images: self.encoder.encode_image(preprocessing(images, self.device)))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The encoder as it would be exported now: average and weights change places, and no bit of either."""
        self._swap()
        self.encoder.eval()
        try:
            yield
        finally:
            self._swap()
            self.encoder.train()

    def _swap(self) -> None:
        for place, parameter in enumerate(self.encoder.parameters()):
            parameter.data, self.average[place] = self.average[place], parameter.data

    def facts(self) -> dict[str, Any]:
        """Of texts and trained weights, for the record of the run."""
        trained = sum(p.numel() for p in self.encoder.parameters() if p.requires_grad)
        return {**self.rows.facts(self.config.batch_size), "trained_parameters": trained}

    def alarms(self, measurements: Mapping[str, float]) -> list[str]:
        """What looks wrong in what was measured last, each with what to try. Of an evaluation nothing is judged.

        Features of a fresh tower are alike at first, and one batch says little of accuracy: they count after some steps.
        """
        found: list[str] = []
        if "logit_scale" not in measurements:
            return found
        if measurements["logit_scale"] > LARGEST_SCALE:
            found.append(
                f"logit_scale is {measurements['logit_scale']:.0f}, above the {LARGEST_SCALE:.0f} at which CLIP stops it; "
                "try a lower learning_rate"
            )
        self.lead_over_chance.append(measurements["contrastive_accuracy"] / measurements["expected_random_accuracy"])
        if self.steps_done < ALARM_AFTER_STEPS:
            return found
        cosines = {kind: measurements[f"mean_{kind}_cosine"] for kind in ("image", "text")}
        found += [
            f"{kind} features collapsed: their mean cosine is {cosine:.3f}; try a lower learning_rate, a longer warm-up or a "
            "larger batch"
            for kind, cosine in cosines.items()
            if cosine > COLLAPSED_COSINE
        ]
        lead = sum(self.lead_over_chance) / len(self.lead_over_chance)
        if len(self.lead_over_chance) == ALARM_WINDOW and lead < LEAST_LEAD:
            found.append(
                f"contrastive accuracy is at chance ({lead:.2f} times it) after {self.steps_done} steps; check that texts "
                "belong to their images and differ (facts of the run), then try a higher learning_rate"
            )
        return found

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


def freeze(encoder: nn.Module, patterns: Sequence[str]) -> None:
    """Keep the parameters whose name has a match of some pattern as they are.

    Raises:
        InputError: a pattern that is none or that matches nothing (in the published recipe two do so, and freeze nothing of
            what they were meant to), or nothing left to train.
    """
    names = [name for name, _ in encoder.named_parameters()]
    for pattern in patterns:
        try:
            matches = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise InputError(f"contrastive.frozen_patterns: '{pattern}' is not a regular expression ({error})") from None
        if not matches:
            parts = sorted({".".join(name.split(".")[:2]) for name in names})
            raise InputError(
                f"contrastive.frozen_patterns: '{pattern}' matches no parameter; names begin with {', '.join(parts)}"
            )
        for name in matches:
            encoder.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise InputError("contrastive.frozen_patterns: they match every parameter, so nothing is left to train; name fewer")


@torch.no_grad()
def contrastive_health(image_features: Tensor, text_features: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """How well images and texts find each other, and how alike those of different rows are.

    Args:
        image_features: (B, D), L2-normalised.
        text_features: (B, D), L2-normalised.
        targets: (B,) rows with equal ones are positives.

    Returns:
        Accuracy of finding a positive text for an image and the reverse, and what guessing would reach; mean cosines between
        different images and texts (1 is collapse); the loss of features that know nothing, ln B.
    """
    images, texts = image_features.float(), text_features.float()
    similarity = images @ texts.T
    count = len(targets)

    def mean_cosine(features: Tensor) -> Tensor:
        # The sum over all pairs is the squared length of the sum; each row's cosine with itself is 1.
        return (features.sum(dim=0).square().sum() - count) / (count * (count - 1))

    return {
        "contrastive_accuracy": (targets[similarity.argmax(dim=1)] == targets).float().mean(),
        "text_to_image_accuracy": (targets[similarity.argmax(dim=0)] == targets).float().mean(),
        "expected_random_accuracy": (targets[:, None] == targets[None, :]).float().mean(),
        "expected_random_loss": torch.tensor(math.log(count)),
        "mean_image_cosine": mean_cosine(images),
        "mean_text_cosine": mean_cosine(texts),
    }
