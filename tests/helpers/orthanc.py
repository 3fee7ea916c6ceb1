"""A real PACS for tests: Orthanc with its DICOMweb plugin, on loopback (`apt-get install orthanc orthanc-dicomweb`)."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLUGINS = Path("/usr/share/orthanc/plugins")
USER, PASSWORD = "reader", "open sesame"
INSTALLED = shutil.which("Orthanc") is not None and (PLUGINS / "libOrthancDicomWeb.so").exists()


@dataclass(frozen=True)
class Orthanc:
    """A running server."""

    port: int

    @property
    def address(self) -> str:
        """Of its DICOMweb interface."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def ask(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        """One request to its own REST interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data=data, method=method)
        request.add_header("Authorization", "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return bytes(answer.read())

    def shut_down(self) -> None:
        """Until it takes no connection any more: it goes on answering for a while."""
        self.ask("tools/shutdown", b"", "POST")
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                return
            time.sleep(0.02)

    def store(self, files: Iterable[bytes]) -> None:
        for data in files:
            self.ask("instances", data)


@contextmanager
def running_orthanc(folder: Path, port: int | None = None) -> Iterator[Orthanc]:
    """Start it with its database in `folder`, and end it."""
    folder.mkdir(parents=True, exist_ok=True)
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpBindAddresses": ["127.0.0.1"],
        "HttpPort": port,
        "MaximumStorageCacheSize": 0,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    server = Orthanc(port)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                server.ask("system")
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)
