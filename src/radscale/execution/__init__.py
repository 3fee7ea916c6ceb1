"""Machinery that turns plain functions into artifacts on disk: identity, provenance, and a runner that resumes.

Nothing here knows about radiology or torch; it may import only the standard library, rich and `radscale.errors`.
"""

from radscale.execution.artifact import ArtifactStore, Record, Step, StepContext, StepState
from radscale.execution.fingerprint import describe_changes, external_identity, fingerprint
from radscale.execution.provenance import collect_provenance
from radscale.execution.runner import RunSummary, run_steps

__all__ = [
    "ArtifactStore",
    "Record",
    "RunSummary",
    "Step",
    "StepContext",
    "StepState",
    "collect_provenance",
    "describe_changes",
    "external_identity",
    "fingerprint",
    "run_steps",
]
