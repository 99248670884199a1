"""Damages files: the same seed always does the same damage."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable

LONGEST_RUN = 4096  # bytes
LIMITS = (0, 1, -1, 2**7 - 1, 2**8 - 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, -2**31, 2**32 - 1, 2**53, 2**63 - 1, -2**63,
          2**64 - 1, 10**30)

sys.setrecursionlimit(10_000)  # json and repr recurse through values that were nested again and again

Bytes = Callable[[random.Random, bytearray], None]


def _place(dice: random.Random, content: bytearray) -> tuple[int, int]:
    """A run of bytes that lies in the content, short ones more often than long ones."""
    length = min(len(content), 1 << dice.randrange(LONGEST_RUN.bit_length()))
    start = dice.randrange(len(content) - length + 1)
    return start, start + length


def flip_bits(dice: random.Random, content: bytearray) -> None:
    for _ in range(1 << dice.randrange(4)):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def zero(dice: random.Random, content: bytearray) -> None:
    start, end = _place(dice, content)
    content[start:end] = bytes(end - start)


def noise(dice: random.Random, content: bytearray) -> None:
    start, end = _place(dice, content)
    content[start:end] = dice.randbytes(end - start)


def truncate(dice: random.Random, content: bytearray) -> None:
    del content[dice.randrange(len(content)):]


def append(dice: random.Random, content: bytearray) -> None:
    start, end = _place(dice, content)
    content += content[start:end] if dice.random() < 0.5 else dice.randbytes(end - start)


def insert(dice: random.Random, content: bytearray) -> None:
    start, end = _place(dice, content)
    content[start:start] = dice.randbytes(end - start)


def duplicate(dice: random.Random, content: bytearray) -> None:
    start, end = _place(dice, content)
    content[end:end] = content[start:end]


def remove(dice: random.Random, content: bytearray) -> None:
    start, end = _place(dice, content)
    del content[start:end]


def swap(dice: random.Random, content: bytearray) -> None:
    """Two runs of the same length change places."""
    start, end = _place(dice, content)
    other = dice.randrange(len(content) - (end - start) + 1)
    one, two = content[start:end], content[other:other + end - start]
    content[start:end] = two
    content[other:other + end - start] = one


def write_limit(dice: random.Random, content: bytearray) -> None:
    """An integer of 1, 2, 4 or 8 bytes at a limit of its type, at an aligned place."""
    size = 1 << dice.randrange(4)
    start = dice.randrange(len(content) // size + 1) * size
    value = dice.choice(LIMITS) % (1 << (8 * size))
    content[start:start + size] = value.to_bytes(size, dice.choice(("little", "big")))[:len(content) - start]


# Twice what keeps the file's length: other lengths are the easier to notice.
BYTES: tuple[Bytes, ...] = (*(flip_bits, zero, noise, swap, write_limit) * 2, truncate, append, insert, duplicate, remove)


def mutate_bytes(dice: random.Random, original: bytes) -> bytes:
    """Something other than the original, of which there must be some bytes."""
    while True:
        content = bytearray(original)
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            if content:
                dice.choice(BYTES)(dice, content)
        if content != original:
            return bytes(content)


def mutate_range(dice: random.Random, original: bytes, start: int, end: int) -> bytes:
    """Damages only what lies between two places."""
    return original[:start] + mutate_bytes(dice, original[start:end]) + original[end:]


def _containers(value: object) -> list:
    """All objects and lists in a JSON value that hold anything, from the outermost inwards; it may be very deep."""
    found, left = [], [value]
    while left:
        item = left.pop()
        if isinstance(item, (dict, list)) and item:
            found.append(item)
            left += reversed(list(item.values() if isinstance(item, dict) else item))
    return found


def _strange_value(dice: random.Random, value: object) -> object:
    nested: object = 0
    for _ in range(dice.choice((3, 500))):
        nested = [nested] if dice.random() < 0.5 else {"a": nested}
    return dice.choice((
        None, True, False, "", "x" * 70000, "\ud7ff\u0000\U0010ffff", [], {}, nested, dice.choice(LIMITS), 1.5, -0.0, 1e308, 1e-320,
        float("nan"), float("inf"), str(value), [value], {"a": value}, [value] * 1000))


def mutate_value(dice: random.Random, value: object) -> object:
    """Deletes, retypes, doubles, exchanges or renames entries of a JSON value."""
    containers = _containers(value)
    if not containers or dice.random() < 0.02:
        return _strange_value(dice, value)
    container = dice.choice(containers)
    keys = list(container) if isinstance(container, dict) else range(len(container))
    key, other = dice.choice(keys), dice.choice(keys)
    action = dice.randrange(6)
    if action == 0:
        del container[key]
    elif action == 1:
        container[key], container[other] = container[other], container[key]
    elif action == 2:
        if isinstance(container, dict):
            container[dice.choice((f"{key} ", str(key).upper(), "", str(other)))] = container.pop(key)
        else:
            container.insert(other, container[key])
    else:
        container[key] = _strange_value(dice, container[key])
    return value


def mutate_json(dice: random.Random, original: bytes) -> bytes:
    """Half of the times the bytes, half of the times the values."""
    if dice.random() < 0.5:
        return mutate_bytes(dice, original)
    while True:
        value = json.loads(original)
        for _ in range(dice.choice((1, 1, 2))):
            value = mutate_value(dice, value)
        changed = json.dumps(value, indent=dice.choice((None, 2))).encode()
        if value != json.loads(original) or dice.random() < 0.02:
            return changed


def mutate_json_lines(dice: random.Random, original: bytes) -> bytes:
    """Half of the times the bytes, half of the times the values of one line."""
    if dice.random() < 0.5:
        return mutate_bytes(dice, original)
    while True:
        lines = original.splitlines()
        number = dice.randrange(len(lines))
        lines[number] = json.dumps(mutate_value(dice, json.loads(lines[number]))).encode()
        changed = b"\n".join(lines) + b"\n"
        if changed != original:
            return changed
