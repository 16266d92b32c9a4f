"""A JSON list that is written item by item, so that it need not fit into memory."""

import json
from types import TracebackType
from typing import Any, TextIO


class JsonList:
    """Context that writes a list to a text stream, an item a line; closes its bracket at the end.

    count: the number of items so far.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.count = 0

    def __enter__(self) -> "JsonList":
        self.stream.write("[")
        return self

    def add(self, item: Any) -> None:
        """Write the next item."""
        text = json.dumps(item, ensure_ascii=False)
        self.stream.write((",\n" if self.count else "\n") + text)
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stream.write("\n]")
