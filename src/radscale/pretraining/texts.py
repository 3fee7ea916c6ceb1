"""What the text tower reads: reports and label names, each with the view position in front (paper, section 5).

Reports stay on disk; in memory are their tokens, end to end in one flat array, and a few numbers for each row.

R = rows (an image with one of its texts), T = distinct prefixes, label texts and reports.
"""

import hashlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.datasets import Dataset, read_label_table
from radscale.datasets.views import view_word
from radscale.errors import InputError
from radscale.models.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, ClipTokenizer
from radscale.pretraining.config import PretrainingConfig, TextOptions

REPORTS_AT_ONCE = 16_384
TOKENS_AT_ONCE = 1 << 20
DOMINATING_SHARE = 0.5


def view_prefix(view_position: str, view: str) -> str:
    """`x-ray chest anteroposterior`, in the style that MedImageInsight was trained with."""
    return f"x-ray chest {view_word(view_position, view)}".strip()


def report_text(sections: Mapping[str, str | None], options: TextOptions) -> str:
    """Sections in the configured order, or the whole text if none of them is filled; empty without a report."""
    parts = [text for name in options.sections if (text := (sections.get(name) or "").strip())]
    return " ".join(parts) or (sections.get("text") or sections.get("remainder") or "").strip()


def label_text(tasks: Collection[str], names: Mapping[str, str]) -> str:
    """Names of the positive tasks in a fixed order: equal sets give equal texts."""
    return ", ".join(names[task] for task in names if task in tasks)


@dataclass(frozen=True)
class TokenTable:
    """Token rows of different lengths, end to end."""

    ids: np.ndarray
    """uint16: the vocabulary has 49,408 entries."""
    offsets: np.ndarray
    """(T + 1,) int64 where each row begins."""
    lengths: np.ndarray
    """(T,) int32 tokens that a row had before it was cut."""

    @classmethod
    def of(cls, texts: Iterable[str], most: int) -> "TokenTable":
        """Tokens of texts, at most so many of each: no more is kept than a row can show."""
        encode = ClipTokenizer().encode
        # Typed arrays grow in place: a Python list for each text would take ten times the memory of its tokens.
        ids, offsets, lengths = array("H"), array("q", [0]), array("i")
        for text in texts:
            tokens = encode(text)
            ids.extend(tokens[:most])
            offsets.append(len(ids))
            lengths.append(len(tokens))
        return cls(np.frombuffer(ids, np.uint16), np.frombuffer(offsets, np.int64), np.frombuffer(lengths, np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def vocabulary(self) -> np.ndarray:
        """(V,) int64 tokens that occur, in rising order."""
        occurs = np.zeros(END_OF_TEXT + 1, dtype=bool)
        for start in range(0, len(self.ids), TOKENS_AT_ONCE):  # numpy turns an index into eight bytes a token
            occurs[self.ids[start : start + TOKENS_AT_ONCE]] = True
        return np.flatnonzero(occurs)

    def __getitem__(self, row: int | np.integer[Any]) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class TrainingRows:
    """One row per image and text; an image has up to two (its report, its labels)."""

    image: np.ndarray
    """(R,) index into the subset's images."""
    prefix: np.ndarray
    """(R,) row of `table` that every text begins with."""
    text: np.ndarray
    """(R,) row of `table`."""
    is_label: np.ndarray
    """(R,) bool: the text names labels; else it is a report."""
    table: TokenTable
    context_length: int
    """Tokens that the tower reads, begin and end included."""
    identical_texts_are_positives: bool
    num_images: int
    """Of the subset, with or without a text."""

    def __len__(self) -> int:
        return len(self.image)

    def tokens(self, row: int | np.integer[Any]) -> np.ndarray:
        """What the tower reads of a row: begin, the head of prefix and text, end."""
        both = np.concatenate([self.table[self.prefix[row]], self.table[self.text[row]]])
        return np.concatenate([[BEGIN_OF_TEXT], both[: self.context_length - 2], [END_OF_TEXT]])

    @cached_property
    def same(self) -> np.ndarray:
        """(R,) ids from 1 of the texts as the tower reads them: what it cannot tell apart is one text."""
        pairs, of_pair = np.unique(self.prefix * np.int64(len(self.table)) + self.text, return_inverse=True)
        one_of_each = np.zeros(len(pairs), dtype=np.int64)
        one_of_each[of_pair] = np.arange(len(self))
        # 64 bits: two of 4 million different texts meet with a probability of 4e-7.
        hashes = (hashlib.blake2b(self.tokens(row).tobytes(), digest_size=8).digest() for row in one_of_each)
        values = np.fromiter((int.from_bytes(value, "little") for value in hashes), np.uint64, len(pairs))
        return 1 + np.unique(values, return_inverse=True)[1][of_pair].astype(np.int64)

    @cached_property
    def label(self) -> np.ndarray:
        """(R,) 0 for a report (a pair of its own), else the class id of the text, from 1."""
        shares = self.is_label | self.identical_texts_are_positives
        return np.where(shares, self.same, 0)

    def digest(self) -> str:
        """SHA-256 of all rows and tokens."""
        digest = hashlib.sha256(str((self.context_length, self.identical_texts_are_positives)).encode())
        for values in (self.image, self.prefix, self.text, self.is_label, self.table.ids, self.table.offsets):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def facts(self, batch_size: int) -> dict[str, Any]:
        """What a reader of the run must know of its texts.

        `identical_report_pairs` is what `identical_texts_are_positives` changes: pairs of reports with the same text, which are
        positives with it and negatives without; `_in_a_batch` of them meet in a step on average.
        """
        counts = np.bincount(self.same)[1:]
        of_reports = np.bincount(self.same[~self.is_label]) if not self.is_label.all() else np.zeros(1)
        pairs = float((of_reports * (of_reports - 1.0) / 2).sum())
        meet = batch_size * (batch_size - 1) / max(len(self) * (len(self) - 1), 1)
        classes = np.bincount(self.same[self.is_label])[1:]
        length = self.table.lengths[self.prefix] + self.table.lengths[self.text]
        return {
            "num_texts": len(self),
            "num_label_texts": int(self.is_label.sum()),
            "images_without_text": self.num_images - len(np.unique(self.image)),
            "distinct_texts": len(counts),
            "most_frequent_text_share": round(float(counts.max() / len(self)), 4),
            "truncated_text_share": round(float((length > self.context_length - 2).mean()), 4),
            "identical_texts_are_positives": self.identical_texts_are_positives,
            "identical_report_pairs": int(pairs),
            "identical_report_pairs_in_a_batch": round(pairs * meet, 2),
            "label_classes": int((classes > 0).sum()),
            "label_classes_of_one_image": int((classes == 1).sum()),
        }

    def check(self, objective: str, batch_size: int) -> None:
        """Refuse rows from which nothing can be learned.

        Raises:
            InputError: fewer rows than a batch, or one text for all.
        """
        if len(self) < batch_size:
            raise InputError(
                f"objective {objective}: {len(self)} pairs are fewer than batch_size {batch_size}; "
                "take a smaller batch or a larger subset"
            )
        if self.same.max() == 1:
            raise InputError(
                f"objective {objective}: all {len(self):,} texts are equal as far as the text tower reads them "
                f"({self.context_length} tokens), so there is nothing to tell apart; check text.sections and the reports"
            )

    def remarks(self, objective: str) -> list[str]:
        """What a person should know before hours of training; one line each."""
        share = float(np.bincount(self.same).max() / len(self))
        if share <= DOMINATING_SHARE:
            return []
        return [
            f"objective {objective}: {share:.0%} of the texts are the same one; most of a batch cannot be told apart. "
            "Look at text.sections, or set text.identical_texts_are_positives"
        ]


def read_training_rows(
    config: PretrainingConfig, data: Dataset, rows: np.ndarray, labels: Path | None, context_length: int
) -> TrainingRows:
    """Rows of a subset: each image once with its report and once with its label text, where it has them.

    Args:
        config: objective, label tasks, sections, prefix.
        data: the dataset.
        rows: (n,) manifest rows of the subset's images.
        labels: label table (file or folder); `sections.parquet` beside it goes before the dataset's own reports.
        context_length: of the text tower.

    Raises:
        InputError: no report (CLIP), no positive label (UniCL), sections that the reports do not have.
    """
    manifest = data.columns("sample_id", "study_id", "view", "view_position", rows=rows)
    studies = manifest["study_id"].combine_chunks().dictionary_encode()
    study_of_image = studies.indices.to_numpy()

    prefixes, prefix_of_image = _prefixes(manifest, config.text)
    names, label_of_image = [""], np.zeros(len(rows), dtype=np.int64)
    if config.objective == "unicl":
        names, label_of_image = _label_texts(
            config, labels, manifest["sample_id"].combine_chunks(), studies.dictionary, study_of_image
        )
    reports, report_of_study = _reports(_report_file(data, labels), studies.dictionary, config.text)
    table = TokenTable.of(chain(prefixes, names, reports), context_length - 2)
    del manifest, studies
    pa.default_memory_pool().release_unused()  # what Arrow keeps after reading is half as much again as the tokens
    report_of_image = report_of_study[study_of_image]
    if config.objective == "clip" and not (report_of_image >= 0).any():
        raise InputError("objective clip: no image of the subset has a report; ingest reports, or use unicl or dinov2")

    with_report, with_label = np.flatnonzero(report_of_image >= 0), np.flatnonzero(label_of_image > 0)
    image = np.concatenate([with_report, with_label])
    first_label, first_report = len(prefixes), len(prefixes) + len(names)
    text = np.concatenate([first_report + report_of_image[with_report], first_label + label_of_image[with_label]])
    return TrainingRows(
        image=image,
        prefix=prefix_of_image[image],
        text=text,
        is_label=np.arange(len(image)) >= len(with_report),
        table=table,
        context_length=context_length,
        identical_texts_are_positives=config.text.identical_texts_are_positives,
        num_images=len(rows),
    )


def _prefixes(manifest: pa.Table, options: TextOptions) -> tuple[list[str], np.ndarray]:
    """The few prefixes, and which one each image has."""
    if not options.view_prefix:
        return [""], np.zeros(len(manifest), dtype=np.int64)
    columns = [manifest[name].fill_null("") for name in ("view_position", "view")]
    views = pc.binary_join_element_wise(*columns, "\t").combine_chunks().dictionary_encode()
    return [view_prefix(*view.split("\t")) for view in views.dictionary.to_pylist()], views.indices.to_numpy().astype(np.int64)


def _report_file(data: Dataset, labels: Path | None) -> Path:
    """Sections that `radscale extract` split, else reports as they came."""
    split = None if labels is None else (labels if labels.is_dir() else labels.parent) / "sections.parquet"
    return split if split is not None and split.exists() else data.path / "reports.parquet"


def _reports(file: Path, studies: pa.Array, options: TextOptions) -> tuple[Iterator[str], np.ndarray]:
    """The studies' reports, read as they are asked for, and which one each study has: known when all are read, -1 for none."""
    of_study = np.full(len(studies), -1, dtype=np.int64)
    if not file.exists():
        return iter(()), of_study
    parquet = pq.ParquetFile(file)
    known = [name for name in (*options.sections, "text", "remainder") if name in parquet.schema_arrow.names]
    if not known:
        there = [name for name in parquet.schema_arrow.names if name not in ("study_id", "patient_id")]
        raise InputError(
            f"text.sections {', '.join(options.sections)}: {file.name} has none of them; it has {', '.join(there)}"
        )
    study = pc.index_in(parquet.read(["study_id"])["study_id"], studies).fill_null(-1).to_numpy()

    def texts() -> Iterator[str]:
        position = count = 0
        for batch in parquet.iter_batches(REPORTS_AT_ONCE, columns=list(dict.fromkeys(known))):
            wanted = np.flatnonzero(study[position : position + len(batch)] >= 0)
            for index, sections in zip(position + wanted, batch.take(pa.array(wanted)).to_pylist(), strict=True):
                if text := report_text(sections, options):
                    of_study[study[index]] = count
                    count += 1
                    yield text
            position += len(batch)

    return texts(), of_study


def _label_texts(
    config: PretrainingConfig, labels: Path | None, samples: pa.Array, studies: pa.Array, study_of_image: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The distinct label texts, first the empty one, and which one each image has."""
    if labels is None:
        raise InputError("objective unicl needs a label table; give labels (see `radscale extract`)")
    table = read_label_table(labels, only=pc.field("state") == "positive")
    words = config.label_tasks
    if words == "all":
        words = {task: task.replace("_", " ") for task in sorted(pc.unique(table["task"]).to_pylist())}
    tasks = list(words)
    positive = np.zeros((len(samples), len(tasks)), dtype=bool)
    for level, ids, of_image in (("study", studies, study_of_image), ("sample", samples, np.arange(len(samples)))):
        part = table.filter(pc.equal(table["level"], level))
        place = pc.index_in(part["id"], ids).fill_null(-1).to_numpy()
        task = pc.index_in(part["task"], pa.array(tasks, pa.string())).fill_null(-1).to_numpy()
        found = np.zeros((len(ids), len(tasks)), dtype=bool)
        known = (place >= 0) & (task >= 0)
        found[place[known], task[known]] = True
        positive |= found[of_image]
    if not positive.any():
        raise InputError(
            f"objective unicl: none of label_tasks ({', '.join(tasks) or 'all'}) is positive in the {len(samples):,} images of "
            "the subset; name tasks that the label table has, or take a larger subset"
        )
    sets, of_image = np.unique(np.packbits(positive, axis=1), axis=0, return_inverse=True)
    members = np.unpackbits(sets, axis=1, count=len(tasks)).astype(bool)
    texts = [label_text({task for task, there in zip(tasks, row, strict=True) if there}, words) for row in members]
    # The empty set is the smallest of all; where every image has a label it is put in front.
    return (texts, of_image) if not texts[0] else (["", *texts], 1 + of_image)
