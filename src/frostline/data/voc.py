"""Pascal VOC: an XML file of boxes for each image, and lists of images for each split."""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from frostline.data.annotations import Annotated, NamedBox, annotated_source
from frostline.data.detection import DetectionData, folder_of
from frostline.data.examples import Source
from frostline.data.listing import LEFT_OUT, Listing, listing
from frostline.data.table import text_lines
from frostline.errors import DataError
from frostline.nearest import nearest

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAG = re.compile(r"\s+(-1|0|1)$")
"""What the list of a class says behind a name: 1 that it is in the image, -1 that it is not, 0 that it is difficult."""


@dataclass(kw_only=True, eq=False, repr=False)
class Voc(DetectionData):
    """Images and boxes in the layout of Pascal VOC (Everingham et al. 2010).

    Splits are those of `ImageSets/Main/{train,val,test}.txt`, train's that of `trainval.txt` where there is no
    `train.txt`; what lacks is carved from train, and without lists all images are train. Corners are taken as they
    are, as torchvision and most tools that write this format mean them. Objects marked `difficult` are not trained on;
    evaluation forgives what is detected there, as COCO's does in a crowd.

    Attributes:
        root: The folder that holds `JPEGImages` and `Annotations`, or one above it.
    """

    left_out: ClassVar[str] = f"{LEFT_OUT} and stand in the lists of ImageSets/Main, where there are any"

    root: str

    def source(self) -> Source:
        """Return the images of the folder, each proven readable, with their boxes."""
        folder = folder_of(self.root).resolve()
        return _read(self.root, folder, None if self.classes is None else tuple(self.classes))


@lru_cache(maxsize=4)
def _read(root: str, folder: Path, classes: tuple[str, ...] | None) -> Source:
    base = _base(root, folder)
    found = listing(base / "JPEGImages")
    images = _images(root, base / "JPEGImages", found)
    annotations = {f.stem: f for f in sorted((base / "Annotations").glob("*.xml"))}
    lists = _lists(root, base / "ImageSets" / "Main", images)
    if not lists:
        _refuse_unpaired(root, images, annotations)
        lists = {"train": list(annotations)}
    splits = {
        split: [_annotated(root, split, name, images, annotations) for name in names] for split, names in lists.items()
    }
    listed = {name for names in lists.values() for name in names}
    main = Path(root) / base.relative_to(folder) / "ImageSets" / "Main"
    places = {split: f"data.root={main / split}.txt" for split in splits}
    unlisted = (images[name].relative_to(base / "JPEGImages").as_posix() for name in images.keys() - listed)
    ignored = tuple(sorted((*found.ignored, *unlisted)))
    return annotated_source(root, splits, classes=classes, places=places, ignored=ignored)


def _images(root: str, folder: Path, found: Listing) -> dict[str, Path]:
    """Return the images of a folder by their names without suffixes, by which lists and annotations call them."""
    files = [folder / name for name in found.images]
    named = {file.stem: file for file in files}
    if twice := [file for file in files if named[file.stem] != file]:
        both = f"'{twice[0].relative_to(folder)}' and '{named[twice[0].stem].relative_to(folder)}'"
        raise DataError(f"data.root={root}: {both} have one name in JPEGImages/; rename one of them")
    return named


def _base(root: str, folder: Path) -> Path:
    """Return the folder that holds the images' folder, wherever it is inside."""
    found = [path.parent for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{depth}JPEGImages"))]
    if not found:
        raise DataError(f"data.root={root}: there is no JPEGImages/ in it; VOC has JPEGImages/ and Annotations/ there")
    if len(found) > 1:
        several = ", ".join(f"'{path.relative_to(folder)}'" for path in found)
        raise DataError(f"data.root={root}: {several} each hold a JPEGImages/; choose one of them")
    if not (found[0] / "Annotations").is_dir():
        raise DataError(
            f"data.root={root}: there is no Annotations/ beside JPEGImages/; VOC has a .xml per image there"
        )
    return found[0]


def _lists(root: str, folder: Path, images: Container[str]) -> dict[str, list[str]]:
    """Return the images' names of each split that has a list."""
    files = {split: folder / f"{split}.txt" for split in ("train", "val", "test")}
    if not files["train"].is_file():
        files["train"] = folder / "trainval.txt"
    lists = {split: _names(file, images) for split, file in files.items() if file.is_file()}
    if lists and "train" not in lists:
        raise DataError(f"data.root={root}: ImageSets/Main has no train.txt; add it, or remove ImageSets/")
    for split, names in lists.items():
        if not names:
            raise DataError(f"data.root={root}: ImageSets/Main/{files[split].name} is empty; add images, or remove it")
    return lists


def _names(file: Path, images: Container[str]) -> list[str]:
    """Return the names that a list's lines begin with, spaces in them kept; a number may be the end of one."""
    lines = [line.strip() for line in text_lines("data.root", file)]
    return list(dict.fromkeys(line if line in images else _FLAG.sub("", line) for line in lines if line))


def _refuse_unpaired(root: str, images: Mapping[str, Path], annotations: Mapping[str, Path]) -> None:
    if lonely := sorted(images.keys() - annotations.keys()):
        way_out = "add it, without an object if the image is background"
        raise DataError(f"data.root={root}: '{images[lonely[0]].name}' has no Annotations/{lonely[0]}.xml; {way_out}")
    if lonely := sorted(annotations.keys() - images.keys()):
        raise DataError(
            f"data.root={root}: Annotations/{lonely[0]}.xml has no image in JPEGImages/; add it, or remove the file"
        )


def _annotated(
    root: str, split: str, name: str, images: Mapping[str, Path], annotations: Mapping[str, Path]
) -> Annotated:
    for known, what in ((images, "image in JPEGImages/"), (annotations, ".xml in Annotations/")):
        if name not in known:
            meant = nearest(name, known)
            hint = (
                f"did you mean '{meant}'?" if meant else f"add it, or remove the line from ImageSets/Main/{split}.txt"
            )
            raise DataError(f"data.root={root}: {split} lists '{name}', which has no {what}; {hint}")
    return _read_annotation(root, annotations[name], images[name])


def _read_annotation(root: str, file: Path, image: Path) -> Annotated:
    where = f"Annotations/{file.name}"
    try:
        tree = _parsed(file.read_bytes())
        objects = [_object(where, place, each) for place, each in enumerate(tree.findall("object"), start=1)]
        size = (int(tree.findtext("size/width", "0")), int(tree.findtext("size/height", "0")))
    except expat.ExpatError as error:
        raise DataError(f"data.root={root}: {where} is no whole XML ({error}); correct or remove it") from error
    except ValueError as error:
        raise DataError(f"data.root={root}: {where}: {error}; correct or remove it") from error
    # Some tools write a size of 0 where they did not look.
    return Annotated(id=file.stem, file=image, size=size if all(size) else None, objects=objects, where=where)


def _parsed(content: bytes) -> Element:
    """Parse XML without a document type, which alone can define entities that grow or that read other files."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _refuse_doctype(*_: object) -> None:
    raise ValueError("it declares a DOCTYPE, which no annotation needs")


def _object(where: str, place: int, element: Element) -> NamedBox:
    name, called = (element.findtext("name") or "").strip(), f"object {place}"
    if not name:
        raise ValueError(f"{called} has no name")
    texts = [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        raise ValueError(f"{called}, '{name}', has no bndbox of four numbers {', '.join(_CORNERS)}") from None
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return NamedBox(name=name, box=(x1, y1, x2, y2), crowd=difficult, where=f"{where} object {place}")
