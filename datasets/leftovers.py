"""Files that are not data: leftovers of other programs, and files that can't be read."""

import re
from collections.abc import Sequence
from pathlib import Path

from datasets.ids import IMAGE_SUFFIXES
from utils.safe.errors import warn
from utils.safe.file_kinds import image_format, remedy_for
from utils.safe.files import UNFINISHED

# Folders and files that a system, a server or an editor creates by itself. Names starting with a
# dot: .ipynb_checkpoints, .DS_Store, ._x (macOS), .Trash-1000, .thumbnails, .git, .snapshot, .nfs*.
_LEFTOVER = re.compile(
    r"\..*|__MACOSX|Icon\r|Network Trash Folder|Temporary Items"  # hidden; macOS
    r"|Thumbs\.db|ehthumbs.*\.db|desktop\.ini|\$RECYCLE\.BIN|RECYCLE[RD]|FOUND\.\d+"  # Windows
    r"|System Volume Information|TheVolumeSettingsFolder|LOST\.DIR|_vti_cnf|(?-i:CVS)"
    r"|@eaDir|@tmp|@sharebin|#recycle|#snapshot|.*@Syno(EA)?(Stream|Resource)"  # Synology
    r"|@Recycle|@Recently-Snapshot|lost\+found|_gsdata_"  # QNAP, Linux, GoodSync
    r"|__pycache__|node_modules|ZbThumbnail\.info|Picasa\.ini|pspbrwse\.jbf"
    r"|~\$.*|~snapshot|#.*#|.*~|.*\.sw[op]",  # editors, Office, NetApp
    re.IGNORECASE | re.DOTALL,
)
# Conflicting copies: Syncthing, Nextcloud, Dropbox.
_CONFLICT = re.compile(r"\.sync-conflict-\d|\([^()]*([Cc]onflicted [Cc]opy|[Cc]ase [Cc]onflict)")
# Images, videos and arrays that this code doesn't read, by their ending.
_OTHER = re.compile(
    r".*\.(gif|jfif|jpe|jif|jp2|j2k|jpx|jpf|jxl|jxr|heic|heif|hif|avif|bpg|qoi|tga|pbm|pgm|ppm|pnm"
    r"|pam|pfm|exr|hdr|dds|psd|xcf|svg|dng|cr2|cr3|nef|arw|raf|orf|rw2|pef|srw|dcm|nii|nii\.gz|npy"
    r"|mpo|j2c|ico|eps|pcx|sgi|apng|jps|rwl|insp"
    r"|npz|mat|h5|hdf5|mp4|m4v|mov|avi|mkv|webm|mpg|mpeg|mts|m2ts|wmv|flv|3gp|ts|vob|ogv|mxf|y4m)",
    re.IGNORECASE | re.DOTALL,
)
_ANNOTATIONS = frozenset((".json", ".xml", ".txt"))  # normal beside images
_HEAD = 4096  # bytes that tell what a file is
_TRIED = 20  # files without an ending that are looked into


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a leftover of another program."""
    return bool(_LEFTOVER.fullmatch(name) or UNFINISHED.search(name) or _CONFLICT.search(name))


def looks_like_image(name: str) -> bool:
    """Whether a file of this name may be an image, a mask or a video, of any format."""
    return _suffix(name) in IMAGE_SUFFIXES or bool(_OTHER.fullmatch(name))


def warn_unread(folder: Path | str, names: list[str], endings: Sequence[str], found: bool) -> None:
    """Warn, in one line, of files that look like images or masks and aren't read.

    names: paths below `folder` that have none of `endings`. found: whether other files have one; if
    not, annotations in other formats are reported too.
    """
    looks = sorted(filter(looks_like_image, names))
    bare = sorted(name for name in names if "." not in name.rpartition("/")[2])
    images = [n for n in bare[:_TRIED] if image_format(_head(Path(folder, n)))]
    looks += images
    kind = _kind(Path(folder, looks[0])) if looks else ""
    if not (found or looks):
        looks = sorted(name for name in names if _suffix(name) in _ANNOTATIONS)
        looks = looks if len(looks) > 1 else []
    if looks:
        are = "file that is" if len(looks) == 1 else "files that are"
        number = f"{len(looks)}{' or more' if images and len(bare) > _TRIED else ''}"
        shown = ", ".join([*looks[:2], *(["..."] if len(looks) > 2 else [])])
        text = f"{folder} has {number} {are} not read ({shown}); expected {' '.join(endings)}"
        warn(f"{text}. {looks[0]} is {kind}" if kind else text, folder)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _kind(path: Path) -> str:
    """What the file is and what to do about it; empty where it is unknown or in a zip."""
    head = _head(path)
    if not path.suffix and (name := image_format(head)):
        return f"a {name} image without an ending; give each its own (.png, .jpg)"
    return remedy_for(str(path), head) if head else ""


def _head(path: Path) -> bytes:
    """The first bytes of a file; none where it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
