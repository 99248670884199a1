"""The completion of shells, driven in real ones on a terminal; the manual page, formatted; what loads with help."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import program

COMMANDS = ["train", "sweep", "collect", "generate", "evaluate", "extract", "data", "inspect", "watch", "export", "import",
            "bench", "plan", "report", "help", "completion", "man"]
# Takes the place of the program: prints its arguments, a line for each.
ECHO = 'bipo-dist() { printf "<%s>\\n" "$@"; }'


def printed(*arguments: str) -> str:
    return program.run_successfully(arguments).stdout


class Shell:
    """A shell that reads keys from a terminal of its own."""

    def __init__(self, command: list[str], folder: Path):
        self.output = ""
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, {**os.environ, "TERM": "dumb", "HOME": str(folder), "HISTFILE": "/dev/null",
                                             "PS1": "", "COLUMNS": "500", "LC_ALL": "C.UTF-8"})
        self.pid = pid

    def send(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def read_until(self, mark: str, timeout: float = 20) -> str:
        """Returns what came since the last call, up to the mark."""
        deadline = time.monotonic() + timeout
        while mark not in self.output:
            ready, _, _ = select.select([self.terminal], [], [], 0.1)
            if ready:
                self.output += os.read(self.terminal, 1 << 16).decode(errors="replace")
            assert time.monotonic() < deadline, f"no {mark!r} in {self.output!r}"
        text, _, self.output = self.output.partition(mark)
        return text

    def run(self, line: str) -> None:
        """Runs a line, and waits for its end."""
        self.send(f"{line}; echo en''d\n")
        self.read_until("end\r\n")

    def arguments(self, keys: str) -> list[str]:
        """Types the keys and a line break, and returns the arguments of the command."""
        self.send(f"{keys}\n")
        self.send("echo en''d\n")
        return re.findall(r"<(.*?)>\r?\n", self.read_until("end\r\n"))

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pairs one.csv").write_text("")
    (tmp_path / "plain.jsonl").write_text("")
    (tmp_path / "cache").mkdir()
    return tmp_path


@pytest.fixture
def bash(folder):
    (folder / "completion.bash").write_text(printed("completion", "bash"))
    shell = Shell(["bash", "--norc", "--noprofile", "-i"], folder)
    for line in ("bind 'set enable-bracketed-paste off'", "bind 'set bell-style none'", "stty -echo",
                 "source ./completion.bash", ECHO):
        shell.run(line)
    yield shell
    shell.close()


ALL = "\x1b*"  # inserts all completions at once
TAB = "\t"


def test_bash_completes_commands(bash):
    assert sorted(bash.arguments(f"bipo-dist {ALL}")) == sorted([*COMMANDS, "--help", "--version"])
    assert bash.arguments(f"bipo-dist tr{TAB}") == ["train"]
    assert sorted(bash.arguments(f"bipo-dist help {ALL}")) == sorted(["help", *COMMANDS])
    assert sorted(bash.arguments(f"bipo-dist completion {ALL}")) == ["bash", "completion", "zsh"]


def options_of(command: str) -> list[str]:
    """Those that the page of a command lists."""
    return re.findall(r"^  (--[a-z-]+)", printed(command, "--help"), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_the_options_of_a_command(bash, command):
    words = bash.arguments(f"bipo-dist {command} -{ALL}")
    assert sorted(words[1:]) == sorted(options_of(command)) and words[0] == command


def enumerated() -> list[tuple[str, str, list[str]]]:
    """Command, option and values where a page lists the values as a|b|c."""
    found = []
    for command in COMMANDS:
        for option, names in re.findall(r"^  (--[a-z-]+) ([a-z0-9]+(?:\|[a-z0-9]+)+)\s", printed(command, "--help"),
                                        re.MULTILINE):
            found.append((command, option, names.split("|")))
    return found


def test_bash_completes_values(bash):
    cases = enumerated()
    assert ("train", "--dtype", ["auto", "fp32", "bf16"]) in cases and len(cases) > 30
    for command, option, names in cases:
        assert sorted(bash.arguments(f"bipo-dist {command} {option} {ALL}")[2:]) == sorted(names), (command, option)
    assert bash.arguments(f"bipo-dist train --dtype f{TAB}") == ["train", "--dtype", "fp32"]
    assert bash.arguments(f"bipo-dist train --dtype=b{TAB}") == ["train", "--dtype=bf16"]
    assert sorted(bash.arguments(f"bipo-dist plan --machine h{ALL}")[2:]) == ["h100", "h200"]
    assert bash.arguments(f"bipo-dist export run.h5 --format lm{TAB}") == ["export", "run.h5", "--format", "lm-eval"]
    assert bash.arguments(f"bipo-dist sweep --sign pl{TAB}") == ["sweep", "--sign", "plus"]


def test_bash_completes_files(bash):
    assert bash.arguments(f"bipo-dist train --train pa{TAB}") == ["train", "--train", "pairs one.csv"]
    assert bash.arguments(f"bipo-dist data pl{TAB}") == ["data", "plain.jsonl"]
    assert bash.arguments(f"bipo-dist train --cache-dir {TAB}") == ["train", "--cache-dir", "cache/"]
    # One of the formats begins with these letters, too.
    assert sorted(bash.arguments(f"bipo-dist train --chat-template pl{ALL}")[2:]) == ["plain", "plain.jsonl"]
    # A number is neither.
    assert bash.arguments(f"bipo-dist train --epochs {TAB}") == ["train", "--epochs"]


@pytest.fixture
def zsh(folder):
    assert shutil.which("zsh"), "zsh is missing: tests/run.sh installs it"
    (folder / "_bipo-dist").write_text(printed("completion", "zsh"))
    shell = Shell(["zsh", "-f", "-i"], folder)
    for line in ("PROMPT= PROMPT2= RPROMPT= PROMPT_EOL_MARK=", "unsetopt zle_bracketed_paste; unset zle_bracketed_paste",
                 f"fpath=({folder} $fpath)", "autoload -U compinit && compinit -u -D", "unsetopt list_beep; LISTMAX=10000", ECHO):
        shell.run(line)
    yield shell
    shell.close()


def test_zsh_takes_the_script_without_a_complaint(folder):
    assert shutil.which("zsh"), "zsh is missing: tests/run.sh installs it"
    (folder / "completion.zsh").write_text(printed("completion", "zsh"))
    checked = subprocess.run(["zsh", "-n", "completion.zsh"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, ""), checked
    sourced = subprocess.run(["zsh", "-f", "-c", "autoload -U compinit && compinit -u -D && source ./completion.zsh && "
                                                 "echo ${_comps[bipo-dist]}"],
                             cwd=folder, capture_output=True, text=True, timeout=60)
    assert (sourced.stdout, sourced.stderr) == ("_bipo_dist\n", ""), sourced


def test_zsh_completes(zsh):
    for keys, expected in [
            (f"tr{TAB}", ["train"]),
            (f"help insp{TAB}", ["help", "inspect"]),
            (f"completion z{TAB}", ["completion", "zsh"]),
            (f"train --dty{TAB}f{TAB}", ["train", "--dtype=fp32"]),
            (f"train --dtype b{TAB}", ["train", "--dtype", "bf16"]),
            (f"train --deterministic --check-w{TAB}", ["train", "--deterministic", "--check-weights"]),
            (f"evaluate --positions an{TAB}", ["evaluate", "--positions", "answer"]),
            (f"export run.h5 --format lm{TAB}", ["export", "run.h5", "--format", "lm-eval"]),
            (f"train --train pa{TAB}", ["train", "--train", "pairs one.csv"]),
            (f"data pl{TAB}", ["data", "plain.jsonl"]),
            (f"train --cache-dir c{TAB}", ["train", "--cache-dir", "cache"]),
            (f"train --chat-template ra{TAB}", ["train", "--chat-template", "raw"]),
            (f"train --chat-template plain.{TAB}", ["train", "--chat-template", "plain.jsonl"]),
            (f"plan --shape phi{TAB}", ["plan", "--shape", "phi-2"])]:
        assert zsh.arguments(f"bipo-dist {keys}") == expected


def test_the_manual_page_is_formatted_without_a_complaint(tmp_path):
    page = tmp_path / "bipo-dist.1"
    page.write_text(printed("man"))
    formatted = subprocess.run(["groff", "-man", "-ww", "-b", "-Tutf8", "-P-cbou", "-rLL=200n", str(page)],
                               capture_output=True, text=True, timeout=60, env={**os.environ, "GROFF_NO_SGR": "1"})
    assert (formatted.returncode, formatted.stderr) == (0, ""), formatted.stderr
    text = formatted.stdout
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS"):
        assert re.search(f"^{section}$", text, re.MULTILINE), section
    for command in COMMANDS:
        for option in options_of(command):
            assert re.search(rf"^ +{option}( |$)", text, re.MULTILINE), (command, option)
    assert "\\\n" in text, "the examples keep their line ends"


def test_the_build_made_what_the_installation_puts_in_place(tmp_path):
    build = program.from_environment("BIPO_BUILD_DIR")
    subprocess.run(["cmake", "--install", build, "--prefix", str(tmp_path)], check=True, capture_output=True, timeout=120)
    for path, arguments in {"share/man/man1/bipo-dist.1": ["man"],
                            "share/bash-completion/completions/bipo-dist": ["completion", "bash"],
                            "share/zsh/site-functions/_bipo-dist": ["completion", "zsh"]}.items():
        assert (tmp_path / path).read_text() == printed(*arguments), path


def test_help_loads_neither_libtorch_nor_mpi():
    """They take longer to load than the commands that do without them."""
    libraries = subprocess.run(["ldd", program.from_environment("BIPO_DIST")], check=True, capture_output=True,
                               text=True, timeout=60).stdout
    assert "libhdf5" in libraries
    assert re.findall(r"lib(?:torch|c10|mpi|open-rte|arrow|parquet)\S*", libraries) == []


def test_light_commands_need_no_second_program(tmp_path, job):
    """They work where bipo-dist-compute is missing; the others say so."""
    program.run_successfully(job.arguments())
    alone = shutil.copy(program.from_environment("BIPO_DIST"), tmp_path / "bipo-dist")
    for arguments in (["--help"], ["help", "train"], ["train", "--help"], ["--version"], ["man"],
                      ["completion", "bash"], ["inspect", job.out], ["inspect", "--json", job.out]):
        words = [str(word) for word in arguments]
        ended = subprocess.run([alone, *words], capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (program.DONE, ""), ended
        assert ended.stdout == printed(*words)
    started = subprocess.run([alone, "report", "run.h5", "--python", "/bin/echo"], capture_output=True, text=True, timeout=60)
    assert started.stdout.endswith("report --out report.html -- run.h5\n"), started
    refused = subprocess.run([alone, "train"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == program.FAILED and "bipo-dist-compute" in refused.stderr


def test_version_names_the_libraries():
    import torch

    text = printed("--version", "--verbose")
    assert text.startswith(printed("--version"))
    values = dict(re.match(r"(.{20})(.*)", line).groups() for line in text.splitlines()[1:])
    values = {name.strip(): value for name, value in values.items()}
    assert values["libtorch"].split("+")[0] == torch.__version__.split("+")[0]
    mpi = subprocess.run([program.from_environment("BIPO_MPIEXEC"), "--version"], capture_output=True, text=True,
                         timeout=60).stdout
    assert values["MPI"] == "Open MPI v" + re.search(r"\d+\.\d+\.\d+", mpi).group()
    header = subprocess.run(["pkg-config", "--modversion", "hdf5-serial"], capture_output=True, text=True, timeout=60)
    if header.returncode == 0:
        assert values["HDF5"] == header.stdout.strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+", values["HDF5"])
    assert values["NCCL"] == "not built in" or re.fullmatch(r"\d+\.\d+\.\d+", values["NCCL"])
    assert values["Arrow"] == "not built in" or re.fullmatch(r"\d+\.\d+\.\d+\S*", values["Arrow"])
    flags = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if flags:
        wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.group(1).split()]
        assert values["instructions"] == (" ".join(wide) or "no wide ones of x86")
    assert values["libtorch's kernels"] == torch.backends.cpu.get_cpu_capability()
    assert re.fullmatch(r"float32 (own tiles|libtorch's), bfloat16 (own tiles|libtorch's)", values["products"])


def test_one_configuration_file_serves_several_commands(job):
    """train and plan read their own sections; a misspelled key in one's own section is found."""
    config = job.folder / "all.ini"
    config.write_text(f"model = {job.settings['model']}\n"
                      f"[train]\ntrain = {job.settings['train']}\nlayer = 1\nepochs = 1\nout = {job.folder / 'a.h5'}\n"
                      "[plan]\nlayer = 1\nmachine = h100\n[evaluate]\nbehavior = x\n")
    program.run_successfully(["train", "--config", config, "--threads", "1"])
    assert json.loads(printed("plan", "--config", str(config), "--json"))["machine"] == "h100"
    refused = program.run(["evaluate", "--config", config])
    assert refused.code == program.BAD_INPUT and "nearest is behaviour" in refused.stderr, refused
