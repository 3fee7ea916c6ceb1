"""Croissant metadata of a dataset: JSON-LD that catalogues and loaders read (Croissant 1.0, MLCommons)."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radscale.datasets.card import Card

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "equivalentProperty": "cr:equivalentProperty",
    "samplingRate": "cr:samplingRate",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
PARQUET = "application/x-parquet"


def croissant(path: Path, card: Card) -> dict[str, Any]:
    """Metadata of the dataset in a folder: its tables with their columns, and its shards.

    Args:
        path: folder of the dataset.
        card: of it.
    """
    tables = [name for name in sorted(card.tables) if (path / name).exists()]
    schemas = {name: pq.read_schema(path / name) for name in tables}
    images = dict(card.totals)["images"]
    facts: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": card.name,
        "description": f"De-identified chest X-rays, {images} images, with splits by patient and nested subsets.",
        "version": "1.0.0",
        "distribution": [
            *(
                {
                    "@type": "cr:FileObject",
                    "@id": name,
                    "name": name,
                    "contentUrl": name,
                    "encodingFormat": PARQUET,
                    "sha256": card.tables[name],
                }
                for name in tables
            ),
            {
                "@type": "cr:FileSet",
                "@id": "shards",
                "name": "shards",
                "description": "WebDataset shards with members <sample_id>.png.",
                "encodingFormat": "application/x-tar",
                "includes": "shards/*.tar",
            },
        ],
        "recordSet": [_record_set(name, schemas[name]) for name in tables],
    }
    if card.licence:
        facts["license"] = card.licence
    return facts


def _record_set(name: str, schema: pa.Schema) -> dict[str, Any]:
    stem = Path(name).stem
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{stem}/{field.name}",
            "name": field.name,
            "dataType": kind,
            "source": {"fileObject": {"@id": name}, "extract": {"column": field.name}},
        }
        for field in schema
        if (kind := _data_type(field.type)) is not None
    ]
    return {"@type": "cr:RecordSet", "@id": stem, "name": stem, "field": fields}


def _data_type(kind: pa.DataType) -> str | None:
    """The schema.org type; None for nested and binary columns, which Croissant 1.0 has no simple one for."""
    if pa.types.is_string(kind):
        return "sc:Text"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else None
