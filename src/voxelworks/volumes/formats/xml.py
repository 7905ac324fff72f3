"""XML in the files of strangers."""

from __future__ import annotations

from xml.etree import ElementTree

from voxelworks.errors import UnsupportedFormat


class _Builder(ElementTree.TreeBuilder):
    """Stops at a document type: without one there are no entities, and nothing that a parser could be tricked with."""

    def doctype(self, _name: str, _public_id: str | None, _system: str | None) -> None:
        raise _DocumentType


class _DocumentType(Exception):
    pass


def parse_xml(content: str | bytes, file_name: str, what: str) -> ElementTree.Element:
    """Parse XML without a document type, in whatever encoding it states.

    Parameters
    ----------
    content
    file_name, what
        Where it stands, and what it is, such as `OME-XML`, for messages.

    Raises
    ------
    UnsupportedFormat
    """
    try:
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))  # noqa: S314
    except _DocumentType as error:
        raise UnsupportedFormat(f"{file_name} has {what} with a document type; save it anew") from error
    # An encoding that is none is a LookupError, one that expat does not read a ValueError.
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UnsupportedFormat(f"{file_name} has damaged {what} ({error}); save it anew") from error
