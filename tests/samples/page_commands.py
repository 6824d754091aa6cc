"""The commands of hrrsi that pages show, in blocks and in inline code."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`(hrrsi\s[^`]+)`(?!`)")
_PROMPT = re.compile(r"\w*\$ ")
_LAUNCHERS = ("srun", "exec", "time")


class Shown(NamedTuple):
    """A command without the program's name, and whether it is to be one that can be run."""

    words: tuple[str, ...]
    is_whole: bool


def prose(text: str) -> str:
    """The text without its blocks of code."""
    return _FENCED.sub("", text)


def commands_in(text: str) -> Iterator[Shown]:
    """Yield the commands of hrrsi that a document shows, of blocks and of inline code."""
    for _, language, code in _FENCED.findall(text):
        if language not in ("", "bash", "console"):
            continue
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            prompt = _PROMPT.match(line.strip())
            if "hrrsi" in line and (prompt or language != "console"):
                command = line.strip()[prompt.end() :] if prompt else line
                yield from (Shown(tuple(words), True) for words in _calls(command))
    for code in _INLINE.findall(prose(text)):
        yield Shown(tuple(word for word in shlex.split(code)[1:] if word != "..."), False)


def _calls(line: str) -> Iterator[list[str]]:
    """Yield the words behind each `hrrsi` that a shell would start in a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";|&"):
            words.append(word)
            continue
        words = list(takewhile(lambda word: word not in ("<", ">", ">>"), words))
        while words and (words[0] in _LAUNCHERS or "=" in words[0]):
            words.pop(0)
        if "-m" in words:  # python -m hrrsi, torchrun ... -m hrrsi
            words = words[words.index("-m") + 1 :]
        if words[:1] == ["hrrsi"]:
            yield words[1:]
        words = []
