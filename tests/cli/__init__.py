"""Runs `interp` as a user does: a process of its own, seen through its exit code, its two streams and its files.

Importing torch costs seconds, so one server process imports the library once and forks a fresh child for each command.
"""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

SERVER = """
import json, os, signal, sys, traceback
import torch
torch.set_num_threads(1)
import interp.analyses.logit_lens, interp.cli.app, interp.reports.page, interp.studies.catalogue, interp.studies.recipe

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        os.chdir(request["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["interp", *request["arguments"]]
        code = 0
        try:
            interp.cli.app.run(request["arguments"])
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Finished(NamedTuple):
    code: int
    out: str
    err: str


@cache
def _server():
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS", "COLUMNS")}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(process.communicate)
    return process


def interp(*arguments, cwd, logs):
    """Run a command in `cwd`; its streams are kept in `logs`, which must lie outside."""
    server, streams = _server(), {name: str(Path(logs) / f"{name}.txt") for name in ("out", "err")}
    assert server.stdin is not None
    assert server.stdout is not None
    request = {"arguments": [str(a) for a in arguments], "cwd": str(cwd), **streams}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    code = int(server.stdout.readline())
    return Finished(code, *(Path(path).read_text(encoding="utf-8") for path in streams.values()))


def tree(folder):
    """Every file below a folder with its content, to see what a command changed."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


WORDS = ["<unk>", "<eos>", "the", "a", "cat", "dog", "sat", "ran", "on", "to", "mat", "house"]


def text_model(folder, *, words=True, vocabulary=WORDS, seed=0):
    """A tiny GPT-2 with a context of eight words, as any foreign model might come."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    if words:
        inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>")
        made.save_pretrained(folder)
    return folder
