"""Ports: chosen apart, checked with the holder's name."""

from __future__ import annotations

import os
import socket

import pytest

from schemas.problems import Problem
from streams.stack import ports


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        yield server.getsockname()[1]


def test_each_name_has_a_port_of_its_own():
    chosen = ports.choose(["one", "two", "three"], {})
    assert len(set(chosen.values())) == 3
    assert all(port in ports.RANGE for port in chosen.values())


def test_the_preferred_port_is_taken_when_it_is_free(taken):
    free = ports.choose(["probe"], {})["probe"]
    assert ports.choose(["gateway"], {"gateway": free}) == {"gateway": free}
    assert ports.choose(["gateway"], {"gateway": taken})["gateway"] != taken


def test_a_taken_port_names_component_port_and_process(taken):
    with pytest.raises(Problem) as caught:
        ports.check("kafka", [taken], "/home/stack.json")
    assert caught.value.code == "port_taken"
    assert "kafka" in caught.value.cause
    assert str(taken) in caught.value.cause
    assert f"pid {os.getpid()}" in caught.value.cause
    assert "/home/stack.json" in caught.value.next_step


def test_a_free_port_passes():
    ports.check("kafka", [ports.choose(["probe"], {})["probe"]], "/home/stack.json")
