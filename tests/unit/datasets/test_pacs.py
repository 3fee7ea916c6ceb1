"""DICOMweb against servers that no PACS would be, and that some are."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from radscale.datasets.archive_files import ArchiveFile
from radscale.datasets.exclusions import Excluded
from radscale.datasets.pacs import Pacs, single_part
from radscale.errors import InputError

pytest.importorskip("dicomweb_client")
Answer = tuple[int, dict[str, str], bytes]
ENTRY = ArchiveFile("1.2/3.4/5.6.dcm")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Start a server that answers with a function of (path, query)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(answer: Callable[[str, dict[str, str]], Answer]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, headers, body = answer(parts.path, {**query, "authorization": self.headers.get("Authorization", "")})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/base"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def found(*rows: dict[str, str]) -> Answer:
    items = [{tag: {"vr": "UI", "Value": [value]} for tag, value in row.items()} for row in rows]
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps(items).encode()


def study(number: int) -> dict[str, str]:
    return {"0020000D": f"1.{number}"}


def image(number: int, instance: str, modality: str = "DX") -> dict[str, str]:
    return {"0020000E": f"1.{number}.2", "00080018": instance, "00080060": modality}


@pytest.mark.parametrize("server", ["most pages", "no offsets", "no modalities", "filters end early"])
def test_all_images_are_listed_whatever_the_server_makes_of_pages_and_filters(
    serve: Callable[..., str], tmp_path: Path, server: str
) -> None:
    def answer(path: str, query: dict[str, str]) -> Answer:
        start = 0 if server == "no offsets" else int(query.get("offset", 0))
        most = 3 if server == "most pages" else 1000
        if path == "/base/studies":
            if server == "filters end early" and start and "ModalitiesInStudy" in query:  # as Orthanc 1.10 does
                return 204, {}, b""
            held = {} if server == "no modalities" else {"00080061": "DX"}
            rows = [study(number) | held for number in range(7)]
            if held:
                rows[3:3] = [study(100 + number) | {"00080061": "MR"} for number in range(5)]
            return found(*rows[start : start + most])
        number = int(path.split("/")[3].split(".")[1])
        images = [image(number, f"1.{number}.2.{n}") for n in (10, 9)] + [image(number, "8.8", "CT")]
        return found(*images[start : start + most])

    entries = list(Pacs(serve(answer), retry_seconds=1).listing(tmp_path, None))
    assert [entry.path for entry in entries] == [f"1.{s}/1.{s}.2/1.{s}.2.{n}.dcm" for s in range(7) for n in (10, 9)]


def test_a_server_that_gives_its_first_page_again_and_again_is_not_believed(serve: Callable[..., str], tmp_path: Path) -> None:
    """It knows no offsets and stops at the limit: what follows would be lost, and nobody would see it."""

    def answer(path: str, query: dict[str, str]) -> Answer:
        return found(*map(study, range(int(query["limit"])))) if path == "/base/studies" else found()

    with pytest.raises(InputError, match=r"gives its first 1,000 studies again and again.*filters"):
        list(Pacs(serve(answer), retry_seconds=1).listing(tmp_path, None))


def test_ids_that_are_none_become_inputs_that_are_excluded_and_never_addresses(
    serve: Callable[..., str], tmp_path: Path
) -> None:
    asked: list[str] = []

    def answer(path: str, query: dict[str, str]) -> Answer:
        asked.append(path)
        if int(query.get("offset", 0)) or query.get("ModalitiesInStudy") == "CR":
            return found()
        if path == "/base/studies":
            return found({"0020000D": "../../system"}, {}, study(3))
        return found(image(3, "7.7"), image(3, "7/../../secret"))

    pacs = Pacs(serve(answer), retry_seconds=1)
    entries = list(pacs.listing(tmp_path, None))
    assert [bool(entry.excluded) for entry in entries] == [True, False, True]
    before = len(asked)
    for entry in (entries[0], entries[2]):
        with pytest.raises(Excluded, match="is no UID"):  # and no request is made
            pacs.read(entry)
    assert len(asked) == before
    assert set(asked) == {"/base/studies", "/base/studies/1.3/instances"}


def test_a_fault_that_passes_is_waited_for(serve: Callable[..., str]) -> None:
    answers = [503, 500, 200]
    asked = []

    def answer(path: str, query: dict[str, str]) -> Answer:
        asked.append(query["authorization"])
        return answers[len(asked) - 1], {"Content-Type": "application/dicom"}, b"DICM"

    assert Pacs(serve(answer), retry_seconds=20).read(ENTRY) == b"DICM"
    assert len(asked) == 3


def test_a_token_of_the_environment_is_sent(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSCALE_PACS_TOKEN", "abc.def")
    pacs = Pacs(serve(lambda _, query: (200, {"Content-Type": "application/dicom"}, query["authorization"].encode())))
    assert pacs.read(ENTRY) == b"Bearer abc.def"


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (404, {}, b"no such patient ROSSI", "unreadable"),
        (500, {}, b"", "unreadable"),
        (200, {"Content-Type": "application/dicom"}, bytes(4 << 20), "too_large"),
        (200, {"Content-Type": "multipart/related; boundary=xyz"}, b"nothing", "unreadable"),
        (200, {"Content-Type": "multipart/related"}, b"--\r\n\r\nbody\r\n----", "unreadable"),
    ],
)
def test_one_image_that_is_not_given_is_an_exclusion(
    serve: Callable[..., str], status: int, headers: dict[str, str], body: bytes, reason: str
) -> None:
    def answer(path: str, query: dict[str, str]) -> Answer:
        return found(study(1)) if path == "/base/studies" else (status, headers, body)

    with pytest.raises(Excluded) as caught:
        Pacs(serve(answer), retry_seconds=0.1, max_bytes=1 << 20).read(ENTRY)
    assert caught.value.reason == reason
    assert not any(word in str(caught.value) for word in ("ROSSI", "1.2", "127.0.0.1"))


def test_a_server_that_answers_nothing_any_more_ends_the_run(serve: Callable[..., str], tmp_path: Path) -> None:
    for status, advice in ((503, "wait for the server"), (401, "correct the credentials")):
        pacs = Pacs(serve(lambda *_, status=status: (status, {}, b"")), retry_seconds=0.1)
        with pytest.raises(InputError, match=advice):
            pacs.read(ENTRY)
    with pytest.raises(InputError, match="not DICOMweb"):
        list(Pacs(serve(lambda *_: (200, {"Content-Type": "text/html"}, b"<html>"))).listing(tmp_path, None))
    with pytest.raises(InputError, match="cannot be reached"):
        Pacs("http://127.0.0.1:9/x", retry_seconds=0.1).read(ENTRY)


def test_addresses_are_checked_and_credentials_in_them_are_not_shown() -> None:
    with pytest.raises(InputError, match="holds a user or password") as caught:
        Pacs("https://me:hunter2@pacs.example/dicom-web")
    assert "hunter2" not in str(caught.value)
    for address in ("https://", "https://pacs.example/studies?StudyDate=2020"):
        with pytest.raises(InputError, match="not the base of a DICOMweb server"):
            Pacs(address)


def test_the_part_of_an_answer_is_the_file_even_where_pixels_look_like_its_end() -> None:
    for boundary in ("abc", '"a b;c"'):
        mark = boundary.strip('"').encode()
        data = b"DICM\r\n--" + mark + b"\r\n\r\npixels\r\n"
        body = b"\r\n--" + mark + b"\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--" + mark + b"--\r\n"
        assert single_part(f'multipart/related; type="application/dicom"; boundary={boundary}', body) == data


def test_a_study_whose_images_are_not_listed_is_one_exclusion(serve: Callable[..., str], tmp_path: Path) -> None:
    def answer(path: str, query: dict[str, str]) -> Answer:
        if int(query.get("offset", 0)) or query.get("ModalitiesInStudy", "DX") == "CR":
            return found()
        if path == "/base/studies":
            return found(study(1), study(2))
        return (404, {}, b"") if "1.1" in path else found(image(2, "9"))

    entries = list(Pacs(serve(answer), retry_seconds=0.1).listing(tmp_path, None))
    assert [(entry.path, entry.excluded[:21]) for entry in entries] == [
        ("1.1//.dcm", "the PACS does not lis"),
        ("1.2/1.2.2/9.dcm", ""),
    ]
