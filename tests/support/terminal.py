"""Runs a program on a terminal of its own and carries out what it writes there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence

# In the order in which they are looked for; what is no sequence is one character.
_PARTS = re.compile(r"\x1b\[\d*[A-Za-z]|.", re.DOTALL)


class Terminal:
    """A started program whose standard error, or output too, is a terminal of so many columns and rows."""

    def __init__(self, command: Sequence[object], columns: int = 80, rows: int = 24, stdout: int | None = subprocess.PIPE,
                 environment: dict[str, str] | None = None, **options):
        """`stdout` None: standard output is the terminal too."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=slave, stderr=slave, stdout=slave if stdout is None else stdout,
            env={**kept, "TERM": "xterm", **(environment or {})}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **options)
        os.close(slave)
        self.written = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        os.close(self._master)

    def _read(self, seconds: float) -> bool:
        """Whether there may be more."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return True
        try:
            part = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.written += part.decode(errors="replace").replace("\r\n", "\n")
        return bool(part)

    def wait_for(self, condition: Callable[[str], object], timeout: float = 60) -> None:
        """Until the condition holds of what was written."""
        deadline = time.monotonic() + timeout
        while not condition(self.written):
            assert time.monotonic() < deadline and self._read(0.1), f"it did not come:\n{self.written!r}"

    def finish(self, timeout: float = 120) -> int:
        """The exit code; reads what is written until the end."""
        deadline = time.monotonic() + timeout
        while self._read(0.1):
            assert time.monotonic() < deadline, f"did not end within {timeout} s\n{self.written!r}"
            if self.process.poll() is not None and not select.select([self._master], [], [], 0.2)[0]:
                break
        return self.process.wait(timeout)

    def screen(self) -> list[str]:
        return screen_of(self.written)


def screen_of(written: str) -> list[str]:
    """The lines that a terminal of unlimited height shows; colours leave no trace."""
    lines, row, column = [""], 0, 0
    for part in _PARTS.findall(written):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part == "\b":
            column -= 1
        elif part.startswith("\x1b"):
            if part[-1] == "A":
                row -= int(part[2:-1])
            elif part == "\x1b[J":
                lines = [*lines[:row], lines[row][:column]]
            else:
                assert part[-1] == "m", f"an unknown sequence: {part!r}"
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + 1:]
            column += 1
    return [line.rstrip() for line in lines]
