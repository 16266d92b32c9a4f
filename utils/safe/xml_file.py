"""XML of other programs, without what can make it dangerous."""

from typing import Any
from xml.etree import ElementTree

Element = ElementTree.Element  # of a parsed file


class _PlainTree(ElementTree.TreeBuilder):
    """A tree that refuses a document type, which can declare entities that expand endlessly."""

    def doctype(self, name: str, public: Any, system: Any) -> None:
        raise ValueError("it has a document type (DTD), which no annotation has")


def parse_xml(data: bytes) -> ElementTree.Element:
    """The root of an XML text; every error in the text is a ValueError."""
    parser = ElementTree.XMLParser(target=_PlainTree())
    try:
        parser.feed(data)
        return parser.close()
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(str(error)) from None
