"""Every block of commands in the README and docs/ runs, in the order of its page, and every link leads somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import program
from documentation import DOCS, PAGES, README, SOURCE, Block, anchors, blocks, links

SMOLLM2 = "~/.cache/bipo-dist/models/smollm2-135m-instruct"
FULL_PYTHON = "~/.cache/bipo-dist/venv-full/bin/python"

# Blocks that cannot run here, by their first line, each with the reason.
NOT_RUN = {
    "launcher/bundle.sh cpu      # or cuda, on a machine with or without a GPU": "installs and builds; see bundle_test.py",
    "tar -xzf bipo-dist-cpu.tar.gz -C ~": "installs torch; bundle_test.py runs the same",
    "tests/run.sh": "runs all tests, this one among them",
    "tests/run.sh -R tokenizer": "installs and builds; what it runs then, CTest runs anyway",
    "pip install experiments/analysis": "changes the environment of the tests and needs a network",
    f"{FULL_PYTHON} tests/bench/speed.py --model {SMOLLM2}": "measures for 25 minutes",
    "python3 tests/bench/ratios.py --base 'bench --shape smollm2-135m --layer 15' \\": "measures for minutes",
    f"{FULL_PYTHON} tests/bench/generation.py --model {SMOLLM2} \\": "measures for many minutes, a tiny model too",
    'llama-cli -m model.gguf --control-vector-scaled vector.gguf:1.5 -p "Is it worth starting a compost heap?"':
        "needs llama.cpp",
    "experiments/paper/run personas synergy transfer --models smollm2=$HOME/models/SmolLM2-135M-Instruct \\":
        "takes long and needs the authors' data; paper_experiments_test.py runs all experiments",
    "git clone https://github.com/CaoYuanpu/BiPO.git": "needs a network; paper_experiments_test.py runs all experiments",
    "git ls-files -z '*.cpp' '*.hpp' | xargs -0 clang-format --dry-run -Werror":
        "needs the repository itself; tests/run.sh runs the same command there",
}
RUN = ("bash", "python")
FILES = ("dockerfile",)  # what a reader saves and another program reads


def train(checkout) -> None:
    """The vector that a page uses and does not make."""
    checkout.bash("bipo-dist train --model models/SmolLM2-135M-Instruct --train train.csv --test test.csv --layer 15 "
                  "--lr-unit residual --lr 0.02 --epochs 2 --warmup-steps 0 --out run.h5")


def make_results(checkout) -> None:
    """What `inspect` and the analysis read: a vector, a small sweep and an evaluation."""
    train(checkout)
    checkout.bash("bipo-dist sweep --models models/SmolLM2-135M-Instruct --train train.csv --test test.csv "
                  "--layers 5,15 --seeds 1,2 --epochs 1 --out sweep\n"
                  "bipo-dist collect sweep --out sweep.h5\n"
                  "bipo-dist evaluate --model models/SmolLM2-135M-Instruct --vector run.h5 --test test.csv "
                  "--out eval.h5")


def write_published_vectors(checkout) -> None:
    """Vectors in the forms in which the authors of BiPO, repeng and persona_vectors publish theirs."""
    import gguf
    import torch

    train(checkout)
    vector = torch.linspace(-1, 1, 48)
    torch.save(vector, checkout.folder / "vec_ep20_layer15.pt")
    torch.save(torch.stack([row * vector for row in range(31)]), checkout.folder / "evil_response_avg_diff.pt")
    writer = gguf.GGUFWriter(checkout.folder / "repeng.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    for layer in range(1, 30):
        writer.add_tensor(f"direction.{layer}", vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_adapter(checkout) -> None:
    from lora_adapters import make_adapter, matrix_shapes
    from safetensors.torch import load_file

    weights = load_file(checkout.home / "models" / "Llama-3.1-8B-Instruct" / "model.safetensors")
    make_adapter(matrix_shapes(weights)).write(checkout.folder / "lora")


def exchange_gemma(checkout) -> None:
    """The file that the package put together is a real model of 270 M parameters; a tiny one takes its place."""
    path = checkout.folder / "gemma-3-270m.gguf"
    with open(path, "rb") as file:
        assert file.read(4) == b"GGUF"
    path.unlink()
    path.symlink_to(checkout.cache / "models" / "smollm2-135m-instruct.gguf")


def answer_requests(checkout) -> None:
    """What a judge sends back, in the format of OpenAI's batches."""
    requests = (checkout.folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    assert requests
    answer = {"status_code": 200, "body": {"choices": [{"message": {"content": "3. Friendly."}}]}}
    (checkout.folder / "results.jsonl").write_text(
        "".join(json.dumps({"custom_id": json.loads(line)["custom_id"], "response": answer}) + "\n"
                for line in requests), encoding="utf-8")


# Called before a page's first block, and before blocks that contain a text.
BEFORE_PAGE: dict[str, Callable] = {
    "evaluate.md": train, "export.md": write_published_vectors, "files.md": train, "generate.md": train,
    "models.md": write_adapter, "scripts.md": train, "analysis": make_results}
BEFORE_BLOCK: dict[str, Callable] = {"gemma3=gemma-3-270m.gguf": exchange_gemma, "--judge-import": answer_requests}


def page_name(page: Path) -> str:
    return page.name if page.name != "README.md" or page == README else page.parent.name


def first_line(block: Block) -> str:
    return block.text.partition("\n")[0]


@pytest.fixture
def checkout(make_checkout):
    """With the data under the names that the pages use."""
    from tiny_models import write_pairs

    checkout = make_checkout("checkout")
    for folder in (".", "power", "wealth"):
        (checkout.folder / folder).mkdir(exist_ok=True)
        write_pairs(checkout.folder / folder / "train.csv", 6)
        write_pairs(checkout.folder / folder / "test.csv", 3, seed=8)
    (checkout.folder / "questions.csv").write_text('question\nIs it warm?\n"Is it old, too?"\n', encoding="utf-8")
    (checkout.folder / "neutral.txt").write_text("Is it raining?\nWho can help me?\n", encoding="utf-8")
    return checkout


def blocks_to_run(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUN and first_line(block) not in NOT_RUN]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_to_run(page)], ids=page_name)
def test_the_blocks_of_a_page_run_in_their_order(checkout, page):
    if prepare := BEFORE_PAGE.get(page_name(page)):
        prepare(checkout)
    for block in blocks_to_run(page):
        for text, prepare in BEFORE_BLOCK.items():
            if text in block.text:
                prepare(checkout)
        if block.language == "bash":
            checkout.bash(block.text)
        else:
            checkout.run(["python", "-c", block.text])


MPIRUN_LINES = sorted({line for page in PAGES for block in blocks_to_run(page)
                       for line in re.findall(r"^mpirun (?:.*\\\n)*.*$", block.text, re.MULTILINE)})


@pytest.mark.parametrize("line", MPIRUN_LINES, ids=lambda line: line.split()[4])
def test_the_lines_of_mpirun_run_with_open_mpi_5(checkout, line):
    newer = Path(program.from_environment("BIPO_MPIEXEC_5")).parent
    environment = {**checkout.environment, "PATH": f"{newer}:{checkout.environment['PATH']}",
                   "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    replace(checkout, environment=environment).bash(line)


def test_every_block_is_run_or_has_a_reason():
    found = [block for page in PAGES for block in blocks(page)]
    # Blocks in another language, or hidden from blocks(), could be commands that no test sees.
    assert {block.language for block in found} <= {*RUN, *FILES, ""}
    for page in PAGES:
        assert len(re.findall(r"```|~~~", page.read_text(encoding="utf-8"))) == 2 * len(blocks(page)), page
    for block in found:
        is_command = block.text.startswith(("bipo-dist ", "build/", "mpirun ", "python ", "tests/", "launcher/quick"))
        assert block.language or not is_command, f"commands without a language\n{block}"
    assert set(NOT_RUN) == {first_line(block) for block in found if first_line(block) in NOT_RUN}, "unused reasons"


@pytest.mark.parametrize("page", [*PAGES, SOURCE / "slurm" / "README.md",
                                  SOURCE / "datasets" / "sample" / "README.md"],
                         ids=lambda page: str(page.relative_to(SOURCE)))
def test_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(SOURCE), f"{page}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}"


def test_readme_is_short_and_names_every_page():
    assert README.stat().st_size <= 9000
    targets = {(SOURCE / link.partition("#")[0]).resolve() for link in links(README)}
    assert [page.name for page in DOCS if page.resolve() not in targets] == []
