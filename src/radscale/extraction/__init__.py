"""Labels from radiology reports: sections, findings, lines and tubes with side, tip and placement.

Pure functions of text, and one run over a dataset's reports. May import the datasets and everything below them, never another
stage. Definitions and closed lists are in `ontology.py`; sentence context (negation, hedging, resolution) in `context.py`.
"""

from radscale.extraction.agreement import agreement
from radscale.extraction.extract import run_extraction
from radscale.extraction.findings import extract_findings
from radscale.extraction.lines_and_tubes import extract_lines_and_tubes
from radscale.extraction.ontology import FINDING_NAMES, FINDINGS, TUBE_NAMES, TUBES
from radscale.extraction.sections import split_sections

__all__ = [
    "FINDINGS",
    "FINDING_NAMES",
    "TUBES",
    "TUBE_NAMES",
    "agreement",
    "extract_findings",
    "extract_lines_and_tubes",
    "run_extraction",
    "split_sections",
]
