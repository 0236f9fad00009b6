"""Damage to recipes: other values, and YAML that is broken, misleading or too much."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from tests.fuzz.mutations import ODD

TEXTS = [
    *("null", "~", "yes", "-1", "0", "1", "3", "1e-4", "0.5", ".nan", ".inf", "-.inf", "1e400", "0x1F", "010", "1_000"),
    *("2024-13-45", "2001-01-01", "12:30:45", "[]", "{}", "[1, a, null]", "{a: 1}", "*nothing", "&a [*a]", "!!int foo"),
    *(
        "!!python/object/apply:os.system [id]",
        "!!binary x",
        "!!binary aGk=",
        "!!set {a, b}",
        "!!timestamp x",
        "!!float a",
    ),
    *(
        "!unknown x",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "|\n  text\n  more",
        ">-\n  folded",
        "'",
        '"',
        '"a\\0b"',
        '"\\e[31m"',
    ),
    *('"\\ud800"', "9" * 5000, "-" + "9" * 30, "[" * 2000, "[" * 400 + "]" * 400, "{a: " * 300 + "1" + "}" * 300),
    *(
        "<<: *a",
        "@x",
        "`x`",
        "%x",
        "? x",
        "- a",
        "a: b: c",
        "lora",
        "dora",
        "attn",
        "full",
        "cpu",
        "cuda",
        "bf16",
        "pocket",
    ),
    *(
        "([a-z]+)+!",
        "(",
        "/dev/zero",
        "/",
        "../..",
        "x" * 3000,
        "'{token} {class} {x}'",
        "'{token'",
        "\N{ROBOT FACE}",
        "\u202e",
    ),
]
"""Values as they may stand behind a key."""


def mutated(recipe: str, keys: list[str], random: Random) -> bytes:
    """A recipe with one to four damages; `keys` are all settings that there are."""
    lines = recipe.splitlines()
    for _ in range(random.randint(1, 4)):
        random.choice(_LINES)(lines, keys, random)
    content = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    return random.choice(_WHOLE)(content, random) if random.random() < 0.15 else content


def _value(random: Random) -> str:
    return random.choice(TEXTS) if random.random() < 0.7 else json.dumps(random.choice(ODD))


def _other_value(lines: list[str], keys: list[str], random: Random) -> None:
    index = random.randrange(len(lines))
    lines[index] = f"{lines[index].partition(':')[0]}: {_value(random)}"


def _more(lines: list[str], keys: list[str], random: Random) -> None:
    """A setting that is not there yet, since YAML that sets one twice is refused at once."""
    there = {line.partition(":")[0] for line in lines}
    lines.insert(random.randint(0, len(lines)), f"{random.choice([*(set(keys) - there), 'x'])}: {_value(random)}")


def _other_key(lines: list[str], keys: list[str], random: Random) -> None:
    key = random.choice(
        [*keys, "", "learning_rate", "x" * 2000, "\x1b[2J", "1", "null", "[a]", "{a: b}", "é", '"a\\0"']
    )
    index = random.randrange(len(lines))
    lines[index] = f"{key}:{lines[index].partition(':')[2]}"


def _misspell(lines: list[str], keys: list[str], random: Random) -> None:
    index = random.randrange(len(lines))
    line = lines[index] or "x"
    place = random.randrange(len(line))
    lines[index] = (
        line[:place]
        + random.choice(["", line[place] * 2, chr(random.randrange(1, 300)), "\t", ":", "'"])
        + line[place + 1 :]
    )


def _twice(lines: list[str], keys: list[str], random: Random) -> None:
    lines.insert(random.randint(0, len(lines)), random.choice(lines))


def _without(lines: list[str], keys: list[str], random: Random) -> None:
    if len(lines) > 1:
        del lines[random.randrange(len(lines))]


def _indented(lines: list[str], keys: list[str], random: Random) -> None:
    index = random.randrange(len(lines))
    lines[index] = random.choice(["  ", "\t", "- ", "# ", "--- ", "? "]) + lines[index]


def _bomb(lines: list[str], keys: list[str], random: Random) -> None:
    """Lists of lists of lists, of which each stands nine times in the next."""
    levels = random.randint(1, 9)
    lines.append("a0: &a0 [x,x,x,x,x,x,x,x,x]")
    lines.extend(f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 9)}]" for n in range(levels))
    lines.append(f"{random.choice(keys)}: *a{levels}")


_LINES: list[Callable[[list[str], list[str], Random], None]] = [
    *(
        _other_value,
        _other_value,
        _other_value,
        _more,
        _more,
        _other_key,
        _misspell,
        _twice,
        _without,
        _indented,
        _bomb,
    ),
]


def _flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


_WHOLE: list[Callable[[bytes, Random], bytes]] = [
    _flip,
    lambda b, r: b[: r.randrange(len(b))],
    lambda b, r: b"\xef\xbb\xbf" + b,
    lambda b, r: b.decode("utf-8", "replace").encode("utf-16"),
    lambda b, r: b.replace(b"\n", b"\r\n"),
    lambda b, r: b.replace(b"\n", b"\x00", 1),
    lambda b, r: b + b"---\n" + b,
    lambda b, r: b.replace(b": ", b":", r.randint(1, 5)),
    lambda b, r: r.randbytes(r.randint(0, 200)),
    lambda b, r: b + b"# " + b"x" * (1 << 20),
    lambda b, r: b"",
]
