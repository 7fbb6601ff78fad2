from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import gc, os, signal
from app.model.bert_graph import build_encoder
from app.model.openvino_model import OpenVinoModel
from app.model.source import open_source
from app.settings import Settings

folder = open_source(Settings(_env_file=None)).folder
models = [OpenVinoModel(build_encoder(folder), "f32") for _ in range(2)]
while models:
    del models[0]  # the first to be made goes first
    gc.collect()
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
os.kill(os.getpid(), signal.SIGINT)
print("signals", len(got))
"""


@pytest.mark.model
def test_a_signal_after_models_have_gone_does_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "signals 1\n"), done.stderr
