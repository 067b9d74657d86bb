"""Two hosts and the cable between them: network namespaces joined by a pair of virtual links."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.ranks import Host, run_ranks, started
from tests.training.test_rank_faults import ENDLESS, wait_for_training
from tests.training.test_ranks import SMALL, furthest

pytestmark = pytest.mark.skipif(
    shutil.which("ip") is None or os.geteuid() != 0,
    reason="makes network namespaces, which takes root and iproute2",
)


def ip(*words: str) -> None:
    """Run iproute2.

    Raises:
        subprocess.CalledProcessError: it refuses.
    """
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Network(NamedTuple):
    """Two hosts that only reach each other, by one cable."""

    hosts: tuple[Host, Host]
    cable: str  # the name of its end on either host

    def cut(self) -> None:
        """Pull the cable out of the first host."""
        subprocess.run([*self.hosts[0].enter, "ip", "link", "set", self.cable, "down"], check=True)


@pytest.fixture
def network() -> Iterator[Network]:
    name, cable = f"hmasd{os.getpid()}", "cable0"
    spaces = [f"{name}a", f"{name}b"]
    try:
        ip("netns", "add", spaces[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    hosts = []
    try:
        ip("netns", "add", spaces[1])
        first = ("link", "add", cable, "netns", spaces[0], "type", "veth")
        ip(*first, "peer", "name", cable, "netns", spaces[1])
        for number, space in enumerate(spaces, start=1):
            address = f"10.98.76.{number}"
            ip("-n", space, "address", "add", f"{address}/24", "dev", cable)
            for device in ("lo", cable):
                ip("-n", space, "link", "set", device, "up")
            alone = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
            enter = ("ip", "netns", "exec", space, *alone, "env", f"GLOO_SOCKET_IFNAME={cable}")
            hosts.append(Host(address, enter))
        yield Network((hosts[0], hosts[1]), cable)
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, timeout=20)


def test_two_hosts_learn_what_one_process_does(tmp_path: Path, network: Network) -> None:
    one = run_ranks(dataclasses.replace(SMALL, output_dir=str(tmp_path / "one")), 1)
    config = dataclasses.replace(SMALL, output_dir=str(tmp_path / "two"))
    two = run_ranks(config, 2, hosts=network.hosts, fault="two hosts")
    assert furthest(one, two) < 1e-9


def test_a_cut_cable_ends_both_sides_with_words(tmp_path: Path, network: Network) -> None:
    config = dataclasses.replace(ENDLESS, output_dir=str(tmp_path))
    with started(config, 2, hosts=network.hosts, fault="two hosts") as processes:
        wait_for_training(config, processes)
        network.cut()
        cut = time.monotonic()
        told = [process.communicate(timeout=60.0)[1] for process in processes]
        assert [process.returncode for process in processes] == [1, 1]
        assert time.monotonic() - cut < 4 * config.rank_timeout + 10.0
    assert "rank 1 has given no sign of life" in told[0]
    assert "rank 1 is cut off from the other processes" in told[1]
