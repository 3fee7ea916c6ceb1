"""Our speed beside peers, in one run (`radscale bench PART`): a file per part, `measure` the clock, `registry` the list.

May import everything below `experiment`; nothing but the command line imports it.
"""

from radscale.benchmarks import tables
from radscale.benchmarks.measure import Case, Contestant, Options, Result
from radscale.benchmarks.registry import PARTS, run_part

__all__ = ["PARTS", "Case", "Contestant", "Options", "Result", "run_part", "tables"]
