"""Datasets by several processes that torchrun starts, one of which is killed, and by one whose memory stays small."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import memory
from photograph_folder import attribute, content, write_photographs
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_sgcampp import LayerGradCamPlusPlus, attribute_dataset, open_maps
from captum_sgcampp.dataset.images import name_images
from captum_sgcampp.dataset.shards import Record, RunFolder

SCRIPT = Path(__file__).with_name("photograph_folder.py")
SECONDS = 300
"""After which the processes are ended."""


def torchrun(n_processes: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", *options]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def run(command: list[str], *arguments: object, **variables: str) -> str:
    outcome = subprocess.run(
        [*command, SCRIPT, *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stderr


@pytest.mark.slow
def test_one_two_or_three_processes_write_the_same_bytes(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", 22)
    attribute(tmp_path / "photographs", tmp_path / "0")
    for n_processes in (1, 2, 3):
        lines = run(torchrun(n_processes), tmp_path / "photographs", tmp_path / f"{n_processes}", "--workers=1")
        assert content(tmp_path / f"{n_processes}") == content(tmp_path / "0")
        assert sum("Images: 22 of 22" in line for line in lines.splitlines()) == 1  # one process shows the whole run


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_torchrun_restarts_what_was_killed(tmp_path: Path, rank: str) -> None:
    write_photographs(tmp_path / "photographs", 22)
    attribute(tmp_path / "photographs", tmp_path / "wanted")
    variables = {"DIE_AT": "4", "DIE_RANK": rank}
    lines = run(torchrun(2, "--max-restarts=1"), tmp_path / "photographs", tmp_path / "maps", **variables)
    assert "SIGKILL" in lines or "exitcode: -9" in lines or "exitcode  : -9" in lines
    assert content(tmp_path / "maps") == content(tmp_path / "wanted")


@pytest.mark.slow
def test_a_thousand_images_of_which_a_process_is_killed_on_the_way(tmp_path: Path) -> None:
    """One of two processes is killed from outside when a third of the shards are there."""
    n_photographs, shard_size = 1000, 16
    write_photographs(tmp_path / "photographs", n_photographs)
    command = [*torchrun(2, "--max-restarts=1"), SCRIPT, tmp_path / "photographs", tmp_path / "maps"]
    with subprocess.Popen(
        [*map(str, command), f"--shard-size={shard_size}"], env=environment(), stderr=subprocess.PIPE, text=True
    ) as agent:
        wait_until(lambda: len(list((tmp_path / "maps").glob("maps-*.csv"))) >= 20)
        victim = workers_of(agent.pid)[1]
        os.kill(victim, signal.SIGKILL)
        _, lines = agent.communicate(timeout=SECONDS)
    assert agent.returncode == 0, lines
    assert str(victim) in lines  # torchrun has noticed
    run([sys.executable], tmp_path / "photographs", tmp_path / "wanted", f"--shard-size={shard_size}")
    assert content(tmp_path / "maps") == content(tmp_path / "wanted")
    maps = open_maps(tmp_path / "maps")
    assert len(list(maps)) == len(set(maps)) == n_photographs
    assert not maps.errors


def wait_until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers_of(agent: int) -> list[int]:
    """The processes that torchrun has started."""
    return [int(pid) for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


# --- memory ----------------------------------------------------------------------------------------------------------

reads_memory = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux"
)


class Memory:
    """The memory of this process at its peak, beyond what is there at the start."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.start = memory("VmRSS")

    def peak(self) -> float:
        """In MiB."""
        return (memory("VmHWM") - self.start) / 2**10


class Numbers(Dataset[Tensor]):
    """Small images that are made when they are asked for."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(index))


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.layer(inputs).tanh().mean(dim=(2, 3))
        return scores


@pytest.mark.slow
@reads_memory
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """The maps of an image have 32 KiB, those of all images 63 MiB."""
    method = LayerGradCamPlusPlus(Averaged(), "layer")

    def peak(n_images: int) -> float:
        used = Memory()
        attribute_dataset(method, Numbers(n_images), tmp_path / f"{n_images}", filters=range(8))
        return used.peak()

    peak(200)
    few, many = peak(201), peak(2000)
    assert many < few + 8


class Million(Dataset[Tensor]):
    """A million files, as torchvision's ImageFolder lists them."""

    root = "/datasets/ILSVRC2012"

    def __init__(self) -> None:
        self.samples = [
            (f"{self.root}/n{index % 1000:08}/train_{index:08}.JPEG", index % 1000) for index in range(10**6)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        raise FileNotFoundError(self.samples[index][0])


@pytest.mark.slow
@reads_memory
def test_the_list_of_a_million_names_takes_some_hundred_megabytes(tmp_path: Path) -> None:
    """To name, sort, write and compare them takes seconds too."""
    dataset = Million()
    used, start = Memory(), time.monotonic()
    images = name_images(dataset, None)
    folder = RunFolder(tmp_path)
    for _ in range(2):  # writes, and compares
        folder.start(Record({}, 64, images.names))
    maps = open_maps(tmp_path)
    with pytest.raises(KeyError, match="it has not been reached yet"):
        maps[images.names[-1]]
    assert maps.names == images.names and images.names[1000] == "n00000001/train_00000001.JPEG"
    assert used.peak() < 500
    assert time.monotonic() - start < 60
