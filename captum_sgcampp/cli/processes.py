"""The processes of the command: those that torchrun starts, and those that read photographs."""

import multiprocessing
import os

import torch


def is_first_process() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def default_device() -> str:
    """The graphics card of this process, or the CPU if there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def forks() -> bool:
    """Whether processes are forked. Others must import what they need, and a user's network may not be importable."""
    start = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return start == "fork"
