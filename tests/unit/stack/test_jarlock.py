"""The committed lock: complete, of the pinned versions, without clashes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from streams.stack import jarlock, versions


@pytest.fixture(scope="module")
def jars():
    return jarlock.read()


def test_every_file_has_a_hash_and_a_size(jars):
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in jars)
    assert {jar.folder for jar in jars} == set(jarlock.FOLDERS)


@pytest.mark.parametrize(
    ("group", "version"),
    [
        ("org.apache.kafka", versions.KAFKA),
        ("io.debezium", versions.DEBEZIUM),
        ("org.apache.logging.log4j", versions.LOG4J),
    ],
)
def test_a_family_has_one_version(jars, group, version):
    assert {jar.version for jar in jars if jar.group == group} == {version}


def test_no_folder_has_an_artifact_twice(jars):
    names = [(jar.folder, jar.group, jar.artifact) for jar in jars]
    assert len(set(names)) == len(names)


def test_the_plugin_brings_nothing_the_worker_has(jars):
    ours = {(jar.group, jar.artifact) for jar in jars if jar.folder == "kafka"}
    assert not [jar for jar in jars if jar.folder == "connect" and (jar.group, jar.artifact) in ours]


def test_the_lock_is_written_as_it_is_read(jars, tmp_path):
    jarlock.write(reversed(jars), tmp_path / "lock.json")
    assert (tmp_path / "lock.json").read_text() == jarlock.LOCK_FILE.read_text()
    assert jarlock.read(tmp_path / "lock.json") == jars


def test_another_hash_is_another_folder(jars):
    changed = (replace(jars[0], sha256="0" * 64), *jars[1:])
    assert jarlock.fingerprint(changed) != jarlock.fingerprint(jars)
    assert jarlock.fingerprint(reversed(jars)) == jarlock.fingerprint(jars)


def test_the_path_is_mavens():
    jar = jarlock.Jar("kafka", "org.example.sub", "thing", "1.2", "all", "thing-1.2-all.tar.gz", "", 1)
    assert jar.path == "org/example/sub/thing/1.2/thing-1.2-all.tar.gz"
