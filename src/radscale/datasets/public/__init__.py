"""Published data sets as they come: one module per layout, each handing over `PublicImage`s for `ingest`.

What each set is, who may use it, and which files are needed: docs/public_datasets.md.
"""

from radscale.datasets.public import chexpert, mimic, nih, openi, padchest, ranzcr, siim, vindr
from radscale.datasets.public.layout import (
    Layout,
    PublicFolder,
    PublicImage,
    PublicOptions,
    ReadersRule,
    detect_layout,
    layout_hint,
)

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        *vindr.LAYOUTS,
        *(module.LAYOUT for module in (ranzcr, nih, chexpert, mimic, padchest, openi, siim)),
    )
}

__all__ = ["LAYOUTS", "Layout", "PublicFolder", "PublicImage", "PublicOptions", "ReadersRule", "detect_layout", "layout_hint"]
