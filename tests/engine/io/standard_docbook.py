"""The DICOM standard as ``dicom-validator`` reads it, out of a package that pip can install.

``dicom-validator`` reads docbook files that it downloads from the standard's site. The package
``dicom-standard`` (Innolitics, MIT; what was current in April 2020) holds the same tables of PS3.3,
PS3.4 and PS3.6 as JSON: which modules an IOD has and when, every attribute of a module with its
place in sequences, its type and its description, macros filled in. They are put back here into
docbook, of the IODs that are asked for, and left to the validator's own readers: what it makes of
conditions and enumerated values is its own doing, as with the files from the site.

What the JSON does not tell: numbers of items, and conditions under which a macro is included, of
which ``dicom-validator`` knows "if and only if".
"""

import json
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element, SubElement

EDITION = "2020"
NAMESPACE = "http://docbook.org/ns/docbook"
# In its RT ROI Observations the macro of anatomy lies outside of the sequence that it belongs to
# (PS3.3 C.8.8.8), and the rest of the sequence followed it there.
_FELL_OUT_OF = {"rt-roi-observations": "30060080"}
_ANATOMY = ("00082218", "00082228")
_TAGS = {
    "td": "td", "p": "para", "div": "note", "ul": "itemizedlist", "ol": "orderedlist",
    "li": "listitem", "strong": "emphasis", "abbr": "abbrev", "sub": "subscript",
    "sup": "superscript", "br": "sbr",
}  # fmt: skip


def write_docbook(folder: Path, sop_classes: Iterable[str]) -> None:
    """Parts 3, 4 and 6 of the standard in a folder for ``--standard-path``, with the IODs of these
    SOP classes alone.

    A module is a chapter of its own, named by its id, since two modules may share a section.
    """
    docbook = folder / EDITION / "docbook"
    docbook.mkdir(parents=True, exist_ok=True)
    (folder / "editions.json").write_text(json.dumps([EDITION]))
    classes = [sop for sop in table("sops") if sop["id"] in set(sop_classes)]
    _write(_part03({sop["ciod"] for sop in classes}), docbook / "part03.xml")
    _write(_part04(classes), docbook / "part04.xml")
    _write(_part06(classes), docbook / "part06.xml")


def table(name: str) -> list | dict:
    """One of the JSON files of ``dicom-standard``, which lie beside the environment's ``bin``."""
    files = distribution("dicom-standard").files or ()
    path = next(file for file in files if file.parts[-2:] == ("standard", f"{name}.json"))
    return json.loads(Path(path.locate()).read_text(encoding="utf8"))


def _part03(names: set[str]) -> Element:
    ciods = [ciod for ciod in table("ciods") if ciod["name"] in names]
    uses = {ciod["id"]: [] for ciod in ciods}
    for use in table("ciod_to_modules"):
        if use["ciodId"] in uses:
            uses[use["ciodId"]].append(use)
    modules = {use["moduleId"]: [] for of_ciod in uses.values() for use in of_ciod}
    for attribute in table("module_to_attributes"):
        if attribute["moduleId"] in modules:
            modules[attribute["moduleId"]].append(attribute)
    book = Element("book")
    chapter = SubElement(book, "chapter", label="A")
    _section(chapter, "A.1", "Introduction")
    titles = {module["id"]: module["name"] for module in table("modules")}
    for ciod in ciods:
        _iod(chapter, ciod, uses[ciod["id"]], titles)
    names = {attribute["id"]: attribute["name"] for attribute in table("attributes")}
    for module, attributes in modules.items():
        rows = _rows(SubElement(book, "chapter", label=module))
        for attribute in attributes:
            _attribute(SubElement(rows, "tr"), attribute, names)
    _add_sections(book)
    return book


def _iod(chapter: Element, ciod: dict, uses: list[dict], titles: dict[str, str]) -> None:
    iod = _section(chapter, f"A.{ciod['id']}", f"{ciod['name']} IOD")
    rows = _rows(_section(iod, f"A.{ciod['id']}.1", f"{ciod['name']} IOD Module Table"))
    for use in uses:
        row = SubElement(rows, "tr")
        _cell(row, use["informationEntity"])
        _cell(row, titles[use["moduleId"]])
        SubElement(SubElement(SubElement(row, "td"), "para"), "xref", linkend=_link(use))
        condition = use["conditionalStatement"]
        _cell(row, f"{use['usage']} - {condition}" if condition else use["usage"])


def _link(use: dict) -> str:
    return f"sect_{use['moduleId']}"


def _attribute(row: Element, attribute: dict, names: dict[str, str]) -> None:
    *outer, own = place(attribute)
    _cell(row, ">" * len(outer) + names[own])
    _cell(row, attribute["tag"])
    _cell(row, attribute["type"])
    links = (link["sourceUrl"] for link in attribute["externalReferences"])
    row.append(_docbook(ET.fromstring(attribute["description"]), links))


def place(attribute: dict) -> list[str]:
    """The sequences that an attribute lies in, from the outermost on, and itself."""
    module, first, *inner = attribute["path"].split(":")
    around = _FELL_OUT_OF.get(module, first)
    if around == first:
        return [first, *inner]
    is_of_macro = first in _ANATOMY and (not inner or inner[0].startswith("0008"))
    return [around, first, *inner] if is_of_macro else [around, *inner]


def _docbook(html: Element, links: Iterator[str]) -> Element:
    """HTML as the docbook that it came from. References lose their text, which docbook leaves to
    the program that shows it."""
    if html.tag == "div" and html.find("dl") is not None:
        for _ in html.iterfind(".//span[@href='']"):
            next(links)  # of a meaning, in which no reference is followed
        return _variable_list(html)
    made = Element(_TAGS.get(html.tag, "phrase"))
    if html.tag == "span" and html.get("href") == "":
        made = Element("xref", linkend=next(links).partition("#")[2])
    elif html.tag == "a":
        made = Element("olink")
    else:
        made.text = _spaced(html.text)
        made.extend(_docbook(child, links) for child in html if child.tag != "h3")
    made.tail = _spaced(html.tail)
    return made


def _variable_list(html: Element) -> Element:
    made = Element("variablelist")
    title = html.find("p/strong")
    if title is not None:
        SubElement(made, "title").text = (title.text or "").strip()
        made[0].extend(Element("xref") for _ in title)
    for term, meaning in zip(html.findall("dl/dt"), html.findall("dl/dd")):
        entry = SubElement(made, "varlistentry")
        SubElement(entry, "term").text = "".join(term.itertext()).strip()
        said = " ".join("".join(meaning.itertext()).split())
        SubElement(SubElement(entry, "listitem"), "para").text = said
    return made


def _add_sections(book: Element) -> None:
    """Sections that attributes refer to, for the enumerated values in them."""
    wanted = {xref.get("linkend") for xref in book.iter("xref")}
    for url, html in table("references").items():
        name = url.partition("#")[2]
        if name not in wanted or not name.startswith("sect_"):
            continue
        section = SubElement(book, "section", label=name.removeprefix("sect_"))
        lists = (child for child in ET.fromstring(html) if child.find("dl") is not None)
        section.extend(_variable_list(child) for child in lists)


def _part04(classes: list[dict]) -> Element:
    ids = {ciod["name"]: ciod["id"] for ciod in table("ciods")}
    book = Element("book")
    rows = _rows(_section(SubElement(book, "chapter", label="B"), "B.5", "Standard SOP Classes"))
    for sop in classes:
        row = SubElement(rows, "tr")
        _cell(row, sop["name"])
        _cell(row, sop["id"])
        para = SubElement(SubElement(row, "td"), "para")
        SubElement(para, "olink", targetptr=f"sect_A.{ids[sop['ciod']]}")
    return book


def _part06(classes: list[dict]) -> Element:
    book = Element("book")
    rows = _rows(SubElement(book, "chapter", label="6"))
    for element in table("attributes"):
        row = SubElement(rows, "tr")
        for key in ("tag", "name", "keyword", "valueRepresentation", "valueMultiplicity"):
            _cell(row, element[key])
        _cell(row, "RET" if element["retired"] == "Y" else "")
    rows = _rows(SubElement(book, "chapter", label="A"))
    for sop in classes:
        row = SubElement(rows, "tr")
        for text in (sop["id"], sop["name"], "", "SOP Class", "PS3.4"):
            _cell(row, text)
    return book


def _section(parent: Element, label: str, title: str) -> Element:
    made = SubElement(parent, "section", label=label)
    SubElement(made, "title").text = title
    return made


def _rows(parent: Element) -> Element:
    return SubElement(SubElement(parent, "table"), "tbody")


def _cell(row: Element, text: str) -> None:
    SubElement(SubElement(row, "td"), "para").text = text


def _spaced(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "")


def _write(book: Element, path: Path) -> None:
    book.set("xmlns", NAMESPACE)
    ET.ElementTree(book).write(path, encoding="utf-8")
