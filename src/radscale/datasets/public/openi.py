"""OpenI, the Indiana University collection (Demner-Fushman et al. 2016): one XML per report, images as PNG or DICOM.

Reports are read from `ecgen-radiology/` or from `NLMCXR_reports.tgz`. A report is a patient's only study. Labels are the MeSH
terms that people gave (`major`): what they do not name was not seen. Views are in the DICOM headers only.
"""

import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from radscale.datasets.public.layout import Layout, Mark, PublicFolder, PublicImage, PublicOptions, task_name
from radscale.errors import InputError

ARCHIVE = "NLMCXR_reports.tgz"
UNPACKED = "ecgen-radiology"
SECTIONS = ("COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION")
NOT_INDEXED = "No Indexing"
NOT_SEEN = frozenset({"normal", "technical quality of image unsatisfactory"})
PLACES = frozenset(
    """abdomen|aorta|aorta, thoracic|blood vessels|bone and bones|breast|cardiac shadow|cervical vertebrae|costophrenic angle
    |diaphragm|heart|heart atria|heart ventricles|humerus|lumbar vertebrae|lung|lymph nodes|mediastinum|pleura|pulmonary artery
    |ribs|shoulder|spine|sulcus|thoracic vertebrae|thorax|trachea|trachea, carina""".replace("\n", "")
    .replace(" |", "|")
    .split("|")
)
"""Terms that say where, not what: they are labels only together with what is said of them."""
SAME = {
    "pulmonary atelectasis": "atelectasis",
    "pulmonary congestion": "vascular_congestion",
    "hernia, hiatal": "hernia",
    "hernia, diaphragmatic": "hernia",
    "subcutaneous emphysema": "subcutaneous_air",
    "lung diseases, interstitial": "interstitial_lung_disease_pattern",
}
QUALIFIED = (
    ("lung", "hyperdistention", "hyperinflation"),
    ("diaphragm", "elevated", "diaphragm_elevation"),
    ("costophrenic angle", "blunted", "costophrenic_angle_blunting"),
    ("pulmonary artery", "enlarged", "enlarged_pulmonary_artery"),
    ("fractures, bone", "ribs", "rib_fracture"),
    ("calcinosis", "aorta", "arterial_calcification"),
    ("calcinosis", "aorta, thoracic", "arterial_calcification"),
    ("calcinosis", "blood vessels", "arterial_calcification"),
)
"""Term, what is said of it, task of the closed list."""


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    reports = [_parse(name, data) for name, data in _files(folder)]
    vocabulary = sorted(set().union(*(tasks for _, _, _, tasks in reports if tasks is not None)))
    images: list[PublicImage] = []
    for number, sections, pictures, tasks in reports:
        # Nobody gave terms to these: not negative, as a report without a mention would be, but unknown.
        states = dict.fromkeys(vocabulary, "uncertain") if tasks is None else dict.fromkeys(sorted(tasks), "positive")
        images += [
            PublicImage(
                row={"image": _image(folder, picture), "patient": number, "study": number, **sections},
                labels={"mesh": states},
            )
            for picture in pictures
        ]
    return images


def _files(folder: PublicFolder) -> Iterator[tuple[str, bytes]]:
    unpacked = sorted((folder.path / UNPACKED).glob("*.xml"))
    if unpacked:
        yield from ((path.name, path.read_bytes()) for path in unpacked)
        return
    try:
        with tarfile.open(folder.path / ARCHIVE) as archive:
            for member in archive:
                data = archive.extractfile(member) if member.name.endswith(".xml") else None
                if data is not None:
                    yield member.name, data.read()
    except FileNotFoundError:
        raise InputError(f"no `{UNPACKED}/*.xml` and no `{ARCHIVE}` in the folder; put the published reports there") from None
    except (tarfile.TarError, EOFError, OSError):
        raise InputError(f"{ARCHIVE}: damaged or no tar archive; fetch it again") from None


def _parse(name: str, data: bytes) -> tuple[str, dict[str, str], list[str], set[str] | None]:
    """Number, sections, names of the images, and tasks (None: not indexed) of a report."""
    try:
        root = ET.fromstring(data)
        number = root.find("uId").attrib["id"]  # type: ignore[union-attr]
    except (ET.ParseError, AttributeError, KeyError):
        raise InputError(f"{name.rpartition('/')[2]}: not a report of OpenI; fetch the reports again") from None
    texts = {text.get("Label", ""): (text.text or "").strip() for text in root.iter("AbstractText")}
    sections = {label.lower(): texts.get(label, "") for label in SECTIONS}
    terms = [(term.text or "").strip() for term in root.findall("MeSH/major")]
    tasks = None if NOT_INDEXED in terms or not terms else set().union(*map(_tasks, terms))
    return number, sections, [image.get("id", "") for image in root.findall("parentImage")], tasks


def _tasks(term: str) -> set[str]:
    """`Lung/hyperdistention/mild` -> {hyperinflation}; `Opacity/lung/base/left` -> {opacity}."""
    head, *rest = (part.strip().lower() for part in term.split("/"))
    tasks = {task for where, what, task in QUALIFIED if where == head and what in rest}
    if head == "normal" or (head not in NOT_SEEN and head not in PLACES):
        tasks.add(SAME.get(head) or task_name(head))
    return tasks


def _image(folder: PublicFolder, picture: str) -> str:
    """`CXR12_IM-3-1001` is that PNG, or the DICOM file `12_IM-3-1001`; two ids repeat the number (CXR1_1_IM-...)."""
    bare = picture.removeprefix("CXR")
    first, _, rest = bare.partition("_")
    names = [picture, bare, rest if rest.startswith(f"{first}_") else bare]
    return next((path for name in names if (path := folder.image(name, ""))), f"{picture}.png")


LAYOUT = Layout("openi", "OpenI", (Mark((f"{UNPACKED}/*.xml", ARCHIVE)),), read, level="study")
