"""A synthetic hospital: 3-D chests, devices, findings, scanners and reports, with the truth beside them.

What a phantom shows is always called so.

Knows no other part of radscale; may import numpy, scipy, OpenCV, pydicom and `radscale.errors`.
"""

from radscale.phantom.archive import PhantomConfig, draw_person, generate_archive, render_views
from radscale.phantom.devices import DEVICES
from radscale.phantom.findings import FINDINGS

__all__ = ["DEVICES", "FINDINGS", "PhantomConfig", "draw_person", "generate_archive", "render_views"]
