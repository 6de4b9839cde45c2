"""The files below a folder, or inside an archive that is read into memory and never written to disk."""

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torchvision.datasets.folder import IMG_EXTENSIONS

from frostline.errors import DataError
from frostline.nearest import nearest

IMAGE_SUFFIXES = tuple(IMG_EXTENSIONS)

LEFT_OUT = f"file(s) are left out, as images end in {', '.join(IMAGE_SUFFIXES)}"
"""What there is to say of a listing's `ignored`, after their number."""

_LITTER = ("__macosx", "thumbs.db", "desktop.ini")
"""What systems leave beside files without being asked, in lower case, where its name does not begin with a dot."""

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """What a folder or an archive holds, hidden files and folders left out.

    Attributes:
        images: Image files by their path inside, with `/` between names; as paths, or as bytes where they came packed.
        folders: Every folder inside, also the empty ones.
        ignored: Files that are no images by their suffix, by their path inside; not what systems leave there.
    """

    images: Mapping[str, bytes | Path]
    folders: frozenset[str]
    ignored: tuple[str, ...]


def listing(root: Path) -> Listing:
    """List a folder, or a `.tar`, `.tar.gz` or `.zip` archive.

    Raises:
        DataError: Nothing is there, or a file that is no archive, or a damaged one.
    """
    if root.is_dir():
        return _collected(_walk(root))
    if not root.exists():
        raise DataError(f"data.root={root}: no such file or folder{_nearest(root)}")
    try:
        return _collected(_unpack(root))
    except _DAMAGE as error:
        raise DataError(f"data.root={root}: the archive is damaged ({error}); get it again") from error
    except RuntimeError as error:  # zipfile's, for an archive with a password
        raise DataError(f"data.root={root}: the archive cannot be read ({error}); unpack it first") from error


def _collected(files: Iterator[tuple[str, bytes | Path | None]]) -> Listing:
    images: dict[str, bytes | Path] = {}
    folders: set[str] = set()
    ignored: list[str] = []
    for name, file in files:
        path = PurePosixPath(name)
        if any(part.startswith(".") or part.lower() in _LITTER for part in path.parts):
            continue
        folders.update(map(str, path.parents))
        if file is None:
            folders.add(str(path))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images[str(path)] = file
        else:
            ignored.append(str(path))
    kept, left = dict(sorted(images.items())), tuple(sorted(ignored))
    return Listing(images=kept, folders=frozenset(folders - {"."}), ignored=left)


def _walk(root: Path) -> Iterator[tuple[str, Path | None]]:
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_refuse_closed):
        if _leads_back(Path(folder), root):
            folders.clear()
            continue
        for name in folders:
            yield (Path(folder) / name).relative_to(root).as_posix(), None
        for name in files:
            path = Path(folder) / name
            yield path.relative_to(root).as_posix(), path


def _refuse_closed(error: OSError) -> None:
    """Refuse a folder that cannot be listed, over which `os.walk` would pass in silence."""
    problem = (error.strerror or str(error)).lower()
    raise DataError(f"data.root: cannot list '{error.filename}' ({problem}); make it readable, or move it away")


def _leads_back(folder: Path, root: Path) -> bool:
    """Tell whether a link has led to a folder that holds it; following it would never end."""
    above = folder.relative_to(root).parents
    return any((root / parent).resolve() == folder.resolve() for parent in above if folder != root)


def _unpack(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    if zipfile.is_zipfile(archive):
        yield from _unzip(archive)
    elif tarfile.is_tarfile(archive):
        yield from _untar(archive)
    else:
        raise DataError(f"data.root={archive}: the file is no archive; give a folder, a .tar, a .tar.gz or a .zip")


def _untar(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    # Not as a stream, `r|*`: that takes a compressed archive cut short between two files for a whole one.
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir():
                yield member.name, None
            elif (content := tar.extractfile(member) if member.isfile() else None) is not None:
                yield member.name, content.read()


def _unzip(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            yield name, None if name.endswith("/") else packed.read(name)


def _nearest(root: Path) -> str:
    missing = root
    while not missing.parent.exists():
        missing = missing.parent
    siblings = [path.name for path in missing.parent.iterdir()]
    meant = nearest(missing.name, siblings)
    return f"; did you mean '{missing.parent / meant}'?" if meant else f"; '{missing.parent}' has no '{missing.name}'"
