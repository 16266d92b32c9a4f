"""Tables that a script writes into a page, between two marks."""

from pathlib import Path

from utils.safe.errors import InputError
from utils.safe.files import replacing


def held(page: Path, name: str) -> str:
    """What stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    return _parts(page, name)[1]


def fill(page: Path, name: str, text: str) -> None:
    """Replace that; nothing else of the page is touched."""
    before, _, after = _parts(page, name)
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{text.strip()}\n{after}", encoding="utf-8")


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """Up to the first mark, between both, from the last one on. Raises InputError without them."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(begin)
    if content.count(begin) != 1 or rest.count(end) != 1:
        raise InputError(
            f"{page}: expected one line {begin.strip()} and after it one {end.strip()}"
        )
    text, _, after = rest.partition(end)
    return before + begin, text, end + after
