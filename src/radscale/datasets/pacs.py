"""The images of a PACS over DICOMweb: QIDO-RS lists them, WADO-RS gives their bytes (PS3.18, 10.6 and 10.4).

What a server answers is hostile or broken until shown otherwise: pages that repeat, ids that are none, bodies without end. What
it says is never shown, since addresses and answers name patients' images.
"""

import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from radscale.datasets.archive_files import ArchiveFile
from radscale.datasets.exclusions import Excluded
from radscale.datasets.ingest_config import Progress
from radscale.datasets.report_matching import connect
from radscale.errors import InputError

T = TypeVar("T")
USER, PASSWORD, TOKEN = "RADSCALE_PACS_USER", "RADSCALE_PACS_PASSWORD", "RADSCALE_PACS_TOKEN"
"""Environment variables with the credentials; else those of the user's .netrc are taken."""
STORED_FILE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""The file as it is stored: a server that need not transcode is quicker, and its pixels are the archive's."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)
TIMEOUT_SECONDS = 60.0
"""Without a byte of the server."""
PAGE_ROWS = 1000
LISTING_THREADS = 8
BLOCK_BYTES = 1 << 20
UID = re.compile(r"[0-9.]{1,64}")
MODALITY, MODALITIES, STUDY, SERIES, INSTANCE = "00080060", "00080061", "0020000D", "0020000E", "00080018"


class _NoAnswerError(Exception):
    """The server refuses one request, or does not answer it.

    Args:
        text: why, for a person; never the server's words.
        status: HTTP status, 0 if there was none.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def is_address(source: object) -> bool:
    """Whether it is the address of a PACS and not a path."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Pacs:
    """A server of DICOMweb.

    Args:
        address: base URL, below which `/studies` lies.
        modalities: of the series that are wanted.
        dates: of the studies, YYYYMMDD-YYYYMMDD with either end left out; None: all.
        retry_seconds: for how long a request is repeated that is answered with a fault of the server's, or not at all.
        max_bytes: a larger file is not read to its end.

    Raises:
        InputError: the address holds credentials or is none, or `dicomweb-client` is not installed.
    """

    address: str
    modalities: tuple[str, ...] = ("CR", "DX")
    dates: str | None = None
    retry_seconds: float = 120.0
    max_bytes: int = 1 << 30
    credentials: tuple[str | None, str | None, str | None] = field(default=(None, None, None), init=False, repr=False)
    """Token, user and password as they are found when it is made: workers may have been started with another environment."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.username is not None or parts.password is not None:
            raise InputError(
                f"the address of the PACS holds a user or password, which others can read on this machine; give them as {USER} "
                f"and {PASSWORD} in the environment, or in ~/.netrc"
            )
        if not parts.hostname or parts.query or parts.fragment:
            raise InputError(
                f"{self.address}: not the base of a DICOMweb server, such as https://pacs.example/dicom-web; filters are "
                "settings (--modalities, --dates)"
            )
        try:
            import dicomweb_client.web  # noqa: F401
        except ImportError:
            raise InputError(
                "a PACS is read through dicomweb-client, which is not installed; pip install 'radscale[dicomweb]'"
            ) from None
        object.__setattr__(self, "credentials", _credentials(self.address))
        # Their log lines and warnings hold addresses of patients' images.
        for name in ("dicomweb_client", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    @property
    def patience_seconds(self) -> float:
        """The longest that `read` may take before the server has given up on its last request."""
        return 2 * (self.retry_seconds + TIMEOUT_SECONDS)

    def listing(self, work: Path, progress: Progress | None) -> "PacsListing":
        """All images on the server, by UID; `work` holds what does not fit into memory."""
        return PacsListing(self, work, progress)

    def read(self, entry: ArchiveFile) -> bytes:
        """The bytes of one input as they are stored.

        Raises:
            Excluded: the server does not give it.
            InputError: the server does not answer at all any more; what follows would be in vain.
        """
        if entry.excluded:
            raise Excluded("unreadable", entry.excluded)
        study, series, instance = entry.path.removesuffix(".dcm").split("/")
        try:
            return self._repeated(lambda: self._get(f"studies/{study}/series/{series}/instances/{instance}"))
        except _NoAnswerError as error:
            self.check()
            raise Excluded("unreadable", f"the PACS does not give it: {error}") from None

    def check(self) -> None:
        """Ask the server for a study that is on none: what it has lost or damaged does not enter the answer.

        Raises:
            InputError: it does not answer, or refuses.
        """
        try:
            self.search("studies", limit=1, search_filters={"StudyInstanceUID": "0"})
        except _NoAnswerError as error:
            known = "correct the credentials" if error.status in (401, 403) else "correct the address or wait for the server"
            raise InputError(f"{self.address}: {error}; {known}, then repeat the command, which goes on from here") from None

    def search(self, what: str, study: str = "", **query: Any) -> list[dict[str, Any]]:
        """One page of a QIDO-RS search for `studies`, or for the `instances` of a study."""
        client, _ = _connect(self.address, threading.get_ident(), *self.credentials)
        ask = client.search_for_studies if what == "studies" else partial(client.search_for_instances, study)
        answer = self._repeated(lambda: ask(**query))
        return [item for item in answer if isinstance(item, dict)]

    def _repeated(self, ask: Callable[[], T]) -> T:
        """Ask again after 1, 2, 4, ... seconds while the fault is the server's or the network's."""
        import requests

        end, wait = time.monotonic() + self.retry_seconds, 1.0
        while True:
            try:
                return ask()
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                failure = _NoAnswerError(f"the server answers with HTTP status {status}", status)
                again = status in AGAIN
            except requests.exceptions.SSLError:
                failure, again = (
                    _NoAnswerError("the server's certificate is not trusted (REQUESTS_CA_BUNDLE names your own)"),
                    False,
                )
            except (requests.Timeout, requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                failure, again = _NoAnswerError(f"the server cannot be reached ({type(error).__name__})"), True
            except (requests.RequestException, ValueError, TypeError, AttributeError) as error:
                failure, again = _NoAnswerError(f"the answer is not DICOMweb ({type(error).__name__})"), False
            if not again or time.monotonic() + wait > end:
                raise failure from None
            time.sleep(wait)
            wait *= 2

    def _get(self, path: str) -> bytes:
        """As `retrieve_instance` of dicomweb-client, which would parse the file and know no limit."""
        _, session = _connect(self.address, threading.get_ident(), *self.credentials)
        url = f"{self.address.rstrip('/')}/{path}"
        with session.get(url, headers={"Accept": STORED_FILE}, stream=True, timeout=TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            body = bytearray()
            for block in response.iter_content(BLOCK_BYTES):
                body += block
                if len(body) > self.max_bytes + BLOCK_BYTES:  # its envelope is small
                    raise Excluded("too_large", f"more than {self.max_bytes:,} bytes come from the PACS")
            return single_part(response.headers.get("Content-Type", ""), body)


def single_part(content_type: str, body: bytes | bytearray) -> bytes:
    """The file in a multipart answer of one part (RFC 2387), or in one that a server sends bare.

    Raises:
        Excluded: it is neither.
    """
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_maintype() != "multipart":
        return bytes(body)
    mark = b"--" + (message.get_boundary() or "").encode("latin-1", errors="replace")
    head = body.find(mark)
    start = body.find(b"\r\n\r\n", head)
    end = body.rfind(b"\r\n" + mark)  # the last: pixels may hold anything
    if len(mark) == 2 or head < 0 or start < 0 or end < start + 4:
        raise Excluded("unreadable", "the answer of the PACS is damaged")
    return bytes(memoryview(body)[start + 4 : end])


def _credentials(address: str) -> tuple[str | None, str | None, str | None]:
    """Token, user, password: of the environment, else of the user's .netrc."""
    import requests

    token, user, password = map(os.environ.get, (TOKEN, USER, PASSWORD))
    if not token and not user:
        user, password = requests.utils.get_netrc_auth(address) or (None, None)
    return token, user, password


@cache
def _connect(address: str, thread: int, token: str | None, user: str | None, password: str | None) -> tuple[Any, Any]:
    """A client for searches and its session. Connections are not shared by threads; `thread` keeps them apart."""
    import requests
    from dicomweb_client.web import DICOMwebClient

    class Bearer(requests.auth.AuthBase):
        """A header of the session would give way to a .netrc."""

        def __call__(self, request: Any) -> Any:
            request.headers["Authorization"] = f"Bearer {token}"
            return request

    session = requests.Session()
    if token:
        session.auth = Bearer()
    elif user:
        session.auth = (user, password or "")
    client = DICOMwebClient(address.rstrip("/"), session=session, timeout=TIMEOUT_SECONDS)
    client.set_http_retry_params(retry=False)  # ours waits for lost connections too, and has an end
    return client, session


class _Found(NamedTuple):
    """UIDs of an image, or what became of a study in its place."""

    study: str
    series: str = ""
    instance: str = ""
    problem: str = ""


class PacsListing:
    """Inputs named STUDY/SERIES/INSTANCE.dcm by their UIDs, in the order in which a folder with these files would be read."""

    def __init__(self, pacs: Pacs, work: Path, progress: Progress | None) -> None:
        self.pacs, self.work, self.progress = pacs, work, progress
        self.not_read: Counter[str] = Counter()
        """Of an archive's folder: files that are no images. A PACS has none."""

    def __iter__(self) -> Iterator[ArchiveFile]:
        try:
            with connect(self.work) as database:
                database.execute("CREATE TABLE found (study VARCHAR, series VARCHAR, instance VARCHAR, problem VARCHAR)")
                instances = self._instances()
                count = 0
                while batch := list(islice(instances, PAGE_ROWS)):
                    count += len(batch)
                    if self.progress is not None:
                        self.progress(count, 0, "images found")
                    database.register("batch", pa.table(dict(zip(_Found._fields, zip(*batch, strict=True), strict=True))))
                    database.execute("INSERT INTO found SELECT * FROM batch")
                answer = database.execute("SELECT DISTINCT * FROM found ORDER BY study, series, instance, problem")
                while rows := answer.fetchmany(65_536):
                    for *uids, problem in rows:
                        if not problem and not all(map(UID.fullmatch, uids)):
                            problem = "what the PACS names it by is no UID"
                        yield ArchiveFile("/".join(uids) + ".dcm", excluded=problem)
        except _NoAnswerError as error:
            raise InputError(
                f"{self.pacs.address}: {error}, so its images cannot be listed; correct the address, the credentials or the "
                "filters"
            ) from None

    def _instances(self) -> Iterator["_Found"]:
        """Of all studies that may hold a wanted modality, as each study says (PS3.18, Table 10.6.3-3).

        The server is not asked to choose by modality: one that does so wrongly loses studies, and nobody would see it. Orthanc
        1.10 gives the first page of such a search and calls the second one empty.
        """
        filters = {} if self.pacs.dates is None else {"StudyDate": self.pacs.dates}
        with ThreadPoolExecutor(LISTING_THREADS) as threads:
            for page in self._pages("studies", search_filters=filters, fields=[MODALITIES]):
                wanted = (item for item in page if self._may_hold(item))
                studies = [uid for item in wanted if (uid := _value(item, STUDY))]
                yield from chain.from_iterable(threads.map(self._instances_of, studies))

    def _may_hold(self, study: dict[str, Any]) -> bool:
        held = _values(study, MODALITIES)
        return not held or any(modality in held for modality in self.pacs.modalities)

    def _instances_of(self, study: str) -> list["_Found"]:
        if not UID.fullmatch(study):
            return [_Found(study, problem="what the PACS names a study by is no UID")]
        try:
            # Not every server filters instances by modality: it is done here.
            return [
                _Found(study, _value(item, SERIES), _value(item, INSTANCE))
                for page in self._pages("instances", study, fields=[MODALITY])
                for item in page
                if _value(item, MODALITY) in ("", *self.pacs.modalities)
            ]
        except _NoAnswerError as error:  # one file that a server has lost may be enough for that
            self.pacs.check()
            return [_Found(study, problem=f"the PACS does not list the images of a study: {error}")]

    def _pages(self, what: str, study: str = "", **query: Any) -> Iterator[list[dict[str, Any]]]:
        """Until an empty one: a server may send fewer rows than it was asked for, and more may follow."""
        offset, before = 0, None
        while page := self.pacs.search(what, study, limit=PAGE_ROWS, offset=offset, **query):
            if page == before:  # it knows no offsets
                if len(page) != PAGE_ROWS:
                    return  # and has sent all
                raise _NoAnswerError(f"the server gives its first {PAGE_ROWS:,} {what} again and again, and none that follow")
            yield page
            offset, before = offset + len(page), page


def _value(item: dict[str, Any], tag: str) -> str:
    """First value of an element in the DICOM JSON model (PS3.18, F.2), or empty."""
    values = _values(item, tag)
    return values[0] if values else ""


def _values(item: dict[str, Any], tag: str) -> list[str]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [str(value) for value in values if value is not None] if isinstance(values, list) else []
