"""The documents, and the commands in them."""

import re
import shlex
from collections.abc import Iterator

from .conftest import ROOT

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in DOCUMENTS.items()}


def snippets(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def split(snippet: str) -> Iterator[list[str]]:
    """The words of each command, without variables set for it."""
    for line in snippet.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in {";", "|"}:
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def commands(text: str) -> list[list[str]]:
    return [words for snippet in snippets(text, "sh") for words in split(snippet)]
