"""Downloads: verified, resumed, in place only when whole."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from schemas.problems import Problem
from streams.stack import downloads
from streams.stack.jarlock import Jar

BODY = bytes(range(256)) * 2_000


class Repository(BaseHTTPRequestHandler):
    """A file at every path; `breaks` answers end in the middle."""

    protocol_version = "HTTP/1.1"
    ranges = True
    missing = False
    breaks = 0
    requests: list[str | None] = []  # noqa: RUF012 - replaced for each test

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).requests.append(wanted)
        if self.missing:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        if type(self).breaks:
            type(self).breaks -= 1
            self.wfile.write(BODY[start : start + 100_000])
            self.close_connection = True
            return
        self.wfile.write(BODY[start:])

    def log_message(self, *args: object) -> None:
        del args


@pytest.fixture
def repository(monkeypatch) -> Iterator[type[Repository]]:
    handler = type("Handler", (Repository,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}/maven2"  # type: ignore[attr-defined]
    monkeypatch.setattr(downloads, "FIRST_PAUSE_S", 0.001)
    yield handler
    server.shutdown()
    server.server_close()


def jar(name: str = "a", body: bytes = BODY) -> Jar:
    digest = hashlib.sha256(body).hexdigest()
    return Jar("kafka", "org.example", name, "1", "", f"{name}-1.jar", digest, len(body))


class Counter(downloads.Silent):
    def __init__(self) -> None:
        self.total = self.seen = 0
        self.lock = threading.Lock()

    def start(self, files: int, size: int) -> None:
        assert files
        self.total = size

    def advance(self, size: int) -> None:
        with self.lock:
            self.seen += size


def fetch(repository, into, *jars):
    progress = Counter()
    downloads.fetch_all(jars, into, repository.url, threads=3, progress=progress)
    return progress


def test_files_arrive_under_their_coordinates(repository, tmp_path):
    progress = fetch(repository, tmp_path, jar("a"), jar("b"))
    assert (tmp_path / "org/example/a/1/a-1.jar").read_bytes() == BODY
    assert (tmp_path / "org/example/b/1/b-1.jar").exists()
    assert progress.seen == progress.total == 2 * len(BODY)


def test_what_is_there_is_not_fetched_again(repository, tmp_path):
    fetch(repository, tmp_path, jar())
    repository.requests.clear()
    fetch(repository, tmp_path, jar())
    assert repository.requests == []


def test_a_broken_download_goes_on_where_it_ended(repository, tmp_path):
    repository.breaks = 1
    progress = fetch(repository, tmp_path, jar())
    assert repository.requests == [None, "bytes=100000-"]
    assert (tmp_path / jar().path).read_bytes() == BODY
    assert progress.seen == len(BODY)


def test_an_earlier_run_is_continued(repository, tmp_path):
    part = tmp_path / (jar().path + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:5_000])
    fetch(repository, tmp_path, jar())
    assert repository.requests == ["bytes=5000-"]
    assert not part.exists()


def test_a_server_without_ranges_is_read_from_the_start(repository, tmp_path):
    repository.ranges = False
    repository.breaks = 1
    fetch(repository, tmp_path, jar())
    assert (tmp_path / jar().path).read_bytes() == BODY


def test_another_file_than_the_locks_is_refused_and_not_kept(repository, tmp_path):
    wrong = jar(body=bytes(reversed(BODY)))
    with pytest.raises(Problem) as caught:
        fetch(repository, tmp_path, wrong)
    assert caught.value.code == "download_mismatch"
    assert not list(tmp_path.rglob("*.jar"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_beginning_is_thrown_away(repository, tmp_path):
    part = tmp_path / (jar().path + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5_000)
    fetch(repository, tmp_path, jar())
    assert (tmp_path / jar().path).read_bytes() == BODY


def test_a_missing_file_is_named_at_once(repository, tmp_path):
    repository.missing = True
    with pytest.raises(Problem) as caught:
        fetch(repository, tmp_path, jar())
    assert caught.value.code == "download_failed"
    assert jar().path in caught.value.cause
    assert len(repository.requests) == 1


def test_no_network_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "FIRST_PAUSE_S", 0.001)
    with pytest.raises(Problem) as caught:
        downloads.fetch_all([jar()], tmp_path, "http://127.0.0.1:9", threads=1, progress=downloads.Silent())
    assert caught.value.code == "download_failed"
    assert "SYNCLINE_MAVEN_URL" in caught.value.next_step


def test_progress_as_lines_is_short():
    lines: list[str] = []
    shown = downloads.Lines(lines.append)
    shown.start(3, 1_000)
    for _ in range(1_000):
        shown.advance(1)
    shown.finish()
    assert len(lines) == 11
