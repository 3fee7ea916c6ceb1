"""Functions for the tests of worker processes, importable by them."""

import ctypes
import os
import time

import numpy as np


def do(task: object) -> object:
    """Numbers are squared; the rest does what its name says."""
    match task:
        case "die":
            os._exit(9)
        case "fault":
            ctypes.string_at(0)
        case "hang":
            time.sleep(1000)
        case "allocate":
            try:
                return np.ones(3 << 30, np.uint8).nbytes
            except MemoryError:
                return "no memory"
        case "raise":
            raise ValueError("from the function")
        case bytes():
            return task + task
        case int():
            return task * task
    raise AssertionError(task)
