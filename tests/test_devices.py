"""Several devices: two processes train one model, on CPUs here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from test_training import dynamics_trainer, weights
folder = Path(sys.argv[1])
trainer, _ = dynamics_trainer(folder, "loop.steps=3", "loop.decay=0")
trainer.run()
assert trainer.accelerator.num_processes == int(sys.argv[3])
tensors = {name: value.contiguous() for name, value in weights(trainer).items()}
save_file(tensors, folder / f"rank{trainer.accelerator.process_index}.safetensors")
"""


def train(folder: Path, processes: int) -> None:
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0", "--standalone"]
    done = subprocess.run(
        [*launch, str(script), str(folder), str(Path(__file__).parent), str(processes)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:-1500] + done.stdout[-500:]


def test_two_processes_keep_one_model_and_learn_from_both_halves(tmp_path: Path) -> None:
    train(tmp_path / "two", 2)
    first, second = (load_file(tmp_path / "two" / f"rank{rank}.safetensors") for rank in range(2))
    assert all((first[name] == second[name]).all() for name in first if not name.startswith("ema."))
    train(tmp_path / "one", 1)
    alone = load_file(tmp_path / "one" / "rank0.safetensors")
    assert any((first[name] != alone[name]).any() for name in first)
    assert (tmp_path / "two" / "state" / "model.safetensors").exists()
