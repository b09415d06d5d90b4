"""What bit-equal depends on is held while a run is made, recorded, and compared when it is resumed."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pretended import pretended

from tintype import api
from tintype.errors import Interrupted, UserError
from tintype.hardware import arithmetic
from tintype.hardware.arithmetic import (
    choose_exact,
    choose_threads,
    computing,
    deterministic_kernels,
    differences,
    fastest_kernels,
    onednn_instructions,
    onednn_version,
)
from tintype.hardware.device import Choice, choose_compile, choose_precision
from tintype.progress import Watcher
from tintype.recipe import build
from tintype.training.prepare import prepare
from tintype.verbs import evaluate

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
# Few steps: threads that wait for each other on cores that others use take most of the time.
SMALL_CNN = {
    "model": "cnn",
    "model_options": {"widths": [16], "hidden": [16]},
    "epochs": None,
    "steps": 6,
    "batch_size": 100,
}


class Halfway(Watcher):
    """Stops the run half-way as Ctrl-C does, and keeps what it says."""

    def __init__(self, *, stops: bool = True) -> None:
        self.stops, self.threads = stops, 0
        self.notes: list[str] = []

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.threads = torch.get_num_threads()
        if self.stops and step >= total_steps // 2:
            signal.raise_signal(signal.SIGTERM)

    def note(self, line: str) -> None:
        self.notes.append(line)


def stopped_run(folder: Path, recipe: Any) -> api.Run:
    with pytest.raises(Interrupted):
        api.train(recipe, out=folder, name="stopped", watcher=Halfway())
    return api.Run(folder / "stopped")


def weights(run: api.Run) -> bytes:
    return (run.path / "model.safetensors").read_bytes()


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


# ---- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_reports")
def test_a_resume_computes_with_the_recorded_threads(tmp_path, tiny):
    here = torch.get_num_threads()
    recipe = tiny(**SMALL_CNN, threads=here + 1)
    whole = api.train(recipe, out=tmp_path, name="whole", watcher=Watcher())
    run = stopped_run(tmp_path, recipe)
    assert torch.get_num_threads() == here
    watcher = Halfway(stops=False)
    resumed = api.train(resume=run.path, watcher=watcher)

    assert watcher.threads == here + 1
    assert torch.get_num_threads() == here
    assert weights(resumed) == weights(whole)
    assert resumed.metrics == whole.metrics
    assert resumed.read("environment.json")["not_bit_equal"] == []
    assert not any(line.startswith("not bit-equal") for line in watcher.notes)


@pytest.mark.usefixtures("short_reports")
def test_evaluating_again_takes_as_many_threads_as_the_training(tmp_path, tiny, monkeypatch):
    here = torch.get_num_threads()
    run = api.train(
        tiny(**SMALL_CNN, threads=here + 1), out=tmp_path, name="run", watcher=Watcher()
    )
    threads: list[int] = []
    usual = evaluate.load_task

    def load_task(*arguments: Any) -> Any:
        threads.append(torch.get_num_threads())
        return usual(*arguments)

    monkeypatch.setattr(evaluate, "load_task", load_task)
    figures = run.evaluate()
    assert threads == [here + 1]
    assert torch.get_num_threads() == here
    assert figures["loss"] == run.read("evaluation.json")["splits"]["test"]["loss"]


@pytest.mark.usefixtures("short_reports")
def test_automatic_threads_are_recorded_in_the_recipe(tmp_path, tiny):
    run = api.train(tiny(epochs=1), out=tmp_path, name="run", watcher=Watcher())
    here = torch.get_num_threads()
    assert yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))["threads"] == here
    assert run.read("environment.json")["arithmetic"]["threads"] == here


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("recipe_says", ["nothing", "auto"])
def test_a_run_that_is_older_than_the_field_goes_on_with_its_recorded_threads(
    tmp_path, tiny, recipe_says
):
    recipe = tiny(**SMALL_CNN, threads=torch.get_num_threads() + 1)
    whole = api.train(recipe, out=tmp_path, name="whole", watcher=Watcher())
    run = stopped_run(tmp_path, recipe)
    fields = yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))
    del fields["threads"], fields["exact"]
    fields |= {"threads": "auto"} if recipe_says == "auto" else {}
    (run.path / "recipe.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    edit(
        run.path / "environment.json",
        lambda content: [content.pop(key) for key in ("arithmetic", "not_bit_equal")],
    )

    resumed = api.train(resume=run.path, watcher=Watcher())
    assert weights(resumed) == weights(whole)
    assert resumed.read("environment.json")["not_bit_equal"] == []


@pytest.mark.slow
def test_neither_variable_nor_machine_changes_what_a_resume_computes(tmp_path):
    """Begun where OMP_NUM_THREADS is not set, gone on with where it is."""
    fields = {
        "data": "digits", **SMALL_CNN, "lr": 0.01, "precision": "fp32", "device": "cpu", "threads": 2
    }  # fmt: skip
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_arithmetic as here, pathlib;"
        "from tintype import api; from tintype.progress import Watcher; from tintype.recipe import build;"
        "from tintype.training import run; run.write_report = lambda path: path;"
        "recipe, out = build(json.loads(sys.argv[3]), where=''), pathlib.Path(sys.argv[2]);"
        "api.train(recipe, out=out, name='whole', watcher=Watcher());"
        "here.stopped_run(out, recipe)"
    )
    unset = {
        key: value
        for key, value in os.environ.items()
        if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    begin = [
        sys.executable,
        "-c",
        script,
        str(Path(__file__).parent),
        str(tmp_path),
        json.dumps(fields),
    ]
    subprocess.run(begin, env={**unset, "TINTYPE_CHECKPOINT_SECONDS": "0"}, check=True)
    resume = [sys.executable, "-m", "tintype", "train", "--resume", str(tmp_path / "stopped")]
    subprocess.run(resume, env={**unset, "OMP_NUM_THREADS": "3"}, check=True, capture_output=True)

    whole, resumed = api.Run(tmp_path / "whole"), api.Run(tmp_path / "stopped")
    assert weights(resumed) == weights(whole)
    assert (resumed.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()
    assert resumed.metrics == whole.metrics


def test_threads_that_cannot_be_are_refused():
    for threads in (0, -1, 100_000):
        with pytest.raises(
            UserError, match=r"threads: must be a number from 1 to 1024, or auto \(got"
        ):
            build({"threads": threads}, where="")
    with pytest.raises(UserError, match="threads"):
        build({"threads": "many"}, where="")
    number, choice = choose_threads(arithmetic.num_cores() + 1)
    assert number == arithmetic.num_cores() + 1
    assert f"only {arithmetic.num_cores()} core" in choice.reason


def test_the_block_leaves_the_process_as_it_was_even_after_an_error():
    before = torch.get_num_threads()

    def fail() -> None:
        with computing(before + 1, "cpu", exact=True):
            assert torch.get_num_threads() == before + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


# ---- instruction set, torch, kernels ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_reports")
def test_a_resume_says_once_where_its_arithmetic_differs_and_why(tmp_path, tiny):
    run = stopped_run(tmp_path, tiny(epochs=4))
    step = run.status["step"]
    here = torch.backends.cpu.get_cpu_capability()
    edit(
        run.path / "environment.json",
        lambda e: e["arithmetic"].update(instructions="ELSEWHERE", onednn="1.2.3"),
    )
    watcher = Halfway()
    with pytest.raises(Interrupted):
        api.train(resume=run.path, watcher=watcher)
    [line] = [note for note in watcher.notes if note.startswith("not bit-equal from here: ")]
    assert f"the instruction set is {here} and was ELSEWHERE" in line
    assert f"oneDNN is {onednn_version()} and was 1.2.3" in line

    again = Halfway(stops=False)
    # a second resume on the same machine has nothing to add
    api.train(resume=run.path, watcher=again)
    assert not any(note.startswith("not bit-equal") for note in again.notes)
    [departure] = run.read("environment.json")["not_bit_equal"]
    assert departure["step"] == step
    assert "was ELSEWHERE" in departure["why"]


def test_the_report_repeats_that_a_run_is_not_bit_equal(copied_run):
    def depart(environment: dict[str, Any]) -> None:
        environment["not_bit_equal"] = [{"step": 1234, "why": "torch is 2 and was <1>"}]

    before = (copied_run.path / "report.html").read_text(encoding="utf-8")
    assert "Not bit-equal" not in before
    edit(copied_run.path / "environment.json", depart)
    page = copied_run.report().read_text(encoding="utf-8")
    assert "Not bit-equal from step 1,234 on: torch is 2 and was &lt;1&gt;." in page
    assert f"oneDNN {onednn_version()}" in page


@pytest.mark.usefixtures("short_reports")
def test_a_run_without_the_promise_says_nothing_of_a_difference(tmp_path, tiny):
    run = stopped_run(tmp_path, tiny(exact=False))
    edit(run.path / "environment.json", lambda e: e["arithmetic"].update(torch="1.0"))
    watcher = Halfway(stops=False)
    done = api.train(resume=run.path, watcher=watcher)
    assert not any(note.startswith("not bit-equal") for note in watcher.notes)
    assert {"name": "exact", "choice": "no", "reason": "as asked"} in done.read("environment.json")[
        "choices"
    ]


def test_records_are_compared_in_what_both_hold():
    now = {
        "threads": 2,
        "torch": "2.15.0",
        "precision": "fp32",
        "device": "cpu",
        "exact": True,
        "onednn": "3.1",
    }
    assert differences({}, now) == ""
    assert (
        differences(arithmetic.recorded({"threads": 2, "torch": "2.15.0", "device": "cpu"}), now)
        == ""
    )
    assert differences({"threads": 1, "exact": False}, now) == (
        "the number of threads is 2 and was 1; exact is on and was off"
    )
    assert arithmetic.recorded({"device": "cuda:1", "cpu": "A", "arithmetic": {"threads": 3}, "threads": 2}) == {
        "device": "cuda", "processor": "A", "threads": 3
    }  # fmt: skip


def test_the_instruction_set_of_onednn_is_what_the_processor_has_within_what_is_allowed(
    monkeypatch,
):
    flags = frozenset({"sse4_1", "avx", "avx2", "avx512bw", "avx512_vnni", "avx512_bf16"})
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: flags)
    for allowed, used in {
        None: "AVX512_CORE_BF16", "AVX2": "AVX2", "avx512_core": "AVX512_CORE", "AVX10_1_512_AMX": "AVX512_CORE_BF16",
        "ALL": "AVX512_CORE_BF16", "AVX2_VNNI": "AVX2",
    }.items():  # fmt: skip
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        if allowed:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
        assert onednn_instructions() == used, allowed
    monkeypatch.setattr(arithmetic, "cpu_flags", frozenset)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert onednn_instructions() == "default"


def test_exact_says_whether_the_promise_can_be_kept_and_why(monkeypatch):
    monkeypatch.setattr(arithmetic, "_fixed_before_cuda", False)
    monkeypatch.delenv(arithmetic.WORKSPACE, raising=False)
    assert choose_exact(True, CPU, compile=True).choice == "yes"
    assert choose_exact(False, CPU, compile=False).choice == "no"
    for device, compiled, word in (
        (MPS, False, "mps"),
        (CUDA, True, "torch.compile"),
        (CUDA, False, arithmetic.WORKSPACE),
    ):
        choice = choose_exact(True, device, compile=compiled)
        assert (choice.choice, word in choice.reason) == ("no", True)
    monkeypatch.setenv(arithmetic.WORKSPACE, ":16:8")
    assert choose_exact(True, CUDA, compile=False).choice == "yes"


@pytest.mark.parametrize(
    ("exact", "why", "printed"), [(True, "yes", False), (True, "no", True), (False, "no", False)]
)
def test_a_promise_that_cannot_be_kept_is_printed_unasked(tiny, exact, why, printed):
    prepared = api.plan(tiny(exact=exact), watcher=Watcher())
    others = [choice for choice in prepared.choices if choice.name != "exact"]
    prepared.choices = [*others, Choice("exact", why, "as this machine is")]
    assert any(line.startswith("exact: ") for line in prepared.lines()) == printed
    assert any(line.startswith("exact: ") for line in prepared.lines(verbose=True))
    assert f"{torch.get_num_threads()} thread" in prepared.lines()[-1]


def test_a_network_is_not_compiled_unasked_where_the_run_is_to_be_exact():
    assert choose_compile("auto", CUDA, 10_000, exact=False)[0]
    assert not choose_compile("auto", CUDA, 10_000, exact=True)[0]
    assert choose_compile("on", CUDA, 10_000, exact=True)[0]


def settings() -> tuple[Any, ...]:
    return (
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, os.environ.get(arithmetic.WORKSPACE),
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory, warnings.showwarning,  # pyright: ignore
    )  # fmt: skip


def test_deterministic_kernels_are_asked_for_within_the_block_only(monkeypatch):
    monkeypatch.setattr(arithmetic, "_fixed_before_cuda", False)
    monkeypatch.delenv(arithmetic.WORKSPACE, raising=False)
    shown: list[str] = []
    monkeypatch.setattr(
        warnings, "showwarning", lambda message, *_, **__: shown.append(str(message))
    )
    before, without = settings(), []
    with warnings.catch_warnings(), deterministic_kernels(without):
        warnings.filterwarnings("always", message="of another kind")
        assert settings()[:5] == (False, True, ":4096:8", True, True)
        # the order of writing is not fixed
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        warnings.warn("of another kind", UserWarning, stacklevel=1)
    assert settings() == before
    assert without == ["put_"]
    assert shown == ["of another kind"]
    # set before CUDA began, so it holds from now on
    assert choose_exact(True, CUDA, compile=False).choice == "yes"

    with fastest_kernels():
        assert torch.backends.cudnn.benchmark
    assert settings() == before


def test_a_users_own_settings_come_back(monkeypatch):
    monkeypatch.setenv(arithmetic.WORKSPACE, ":0:0")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        before = settings()
        with deterministic_kernels([]):
            assert settings()[:5] == (False, True, ":4096:8", True, True)
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)


STAND_IN = """
import sys
with open(sys.argv[0]) as f:
    code = f.read()
import torch

class CifarNet(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

def print_training_details(variables, is_final_entry):
    raise RuntimeError("it was to be noted")

def main(run, model):
    data = torch.load("cifar10/train.pt", map_location=torch.device("cuda"))
    assert data["images"].shape[1:] == (32, 32, 3) and model.weight.is_cuda
    time_seconds = 0.5
    print_training_details(locals(), is_final_entry=True)
    return 0.9
"""


def gpu_benchmark(monkeypatch: pytest.MonkeyPatch, out: Path, *options: object) -> dict[str, Any]:
    """Run benchmarks/gpu.py in this process and return the figures of its parts."""
    script = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
    given = ["--quick", "--here", "--out", out, *options]
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, given)])
    runpy.run_path(str(script), run_name="__main__")
    return json.loads(out.read_text(encoding="utf-8"))["parts"]


@pytest.mark.parametrize(
    "parts",
    [
        ("machine", "classify", "generate", "airbench94_muon"),
        pytest.param(
            (
                "regress", "upscale", "fine-tuned", "head by steps", "exact head", "cifar10-fast",
                "precision", "predict", "ingest",
            ),
            marks=pytest.mark.exhaustive,
        ),
    ],
)  # fmt: skip
def test_the_benchmark_of_gpus_runs_on_one_that_is_pretended(tmp_path, monkeypatch, capsys, parts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    (tmp_path / "airbench94_muon.py").write_text(STAND_IN, encoding="utf-8")
    options = ["--device", "cuda", "--airbench", tmp_path, "--only", *parts]
    with pretended():
        found = gpu_benchmark(monkeypatch, tmp_path / "gpu.json", *options)
    assert list(found) == list(parts)

    for rows in found.values():
        if "stopped at" in rows:
            assert rows["resumed"] == "bit-equal"
            assert rows["promised"] == "yes"
            stopped, _, total = rows["stopped at"].partition(" of ")
            assert 0 < int(stopped) < int(total)  # otherwise nothing was resumed
    assert "failed" not in capsys.readouterr().out


def test_a_part_of_the_benchmark_of_gpus_that_fails_leaves_the_others(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "airbench94_muon.py").write_text("raise ValueError('torn')", encoding="utf-8")
    options = ["--device", "cpu", "--airbench", tmp_path, "--only", "airbench94_muon", "machine"]
    kept = gpu_benchmark(monkeypatch, tmp_path / "gpu.json", *options)
    assert list(kept) == ["machine"]
    assert "failed ValueError: torn" in capsys.readouterr().out

    options += ["--minutes", "0.001"]  # what is finished stays, and the rest is skipped
    assert gpu_benchmark(monkeypatch, tmp_path / "gpu.json", *options) == kept
    output = capsys.readouterr().out
    assert "(kept)" in output
    assert "skipped: 15 s are needed" in output


@pytest.mark.parametrize(
    ("vendor", "flags", "any_units", "expected"),
    [
        ("AuthenticAMD", {"avx512_bf16"}, False, torch.bfloat16),
        ("GenuineIntel", {"avx512_bf16"}, False, torch.float32),
        ("GenuineIntel", {"avx512_bf16", "amx_bf16"}, False, torch.bfloat16),
        ("GenuineIntel", {"avx512_bf16"}, True, torch.bfloat16),  # a run of an earlier version
        ("AuthenticAMD", {"avx2"}, True, torch.float32),
    ],
)
def test_bf16_is_chosen_where_it_is_faster(vendor, flags, any_units, expected, monkeypatch):
    monkeypatch.setattr("tintype.hardware.device.cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr("tintype.hardware.device._cpu_line", {"vendor_id": vendor}.__getitem__)
    dtype, _ = choose_precision("auto", torch.device("cpu"), any_units=any_units)
    assert dtype == expected


def test_a_run_goes_on_in_the_precision_in_which_an_earlier_version_began_it(tiny, monkeypatch):
    monkeypatch.setattr("tintype.hardware.device.cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(
        "tintype.hardware.device._cpu_line", {"vendor_id": "GenuineIntel"}.__getitem__
    )
    begun = [prepare(tiny(precision="auto", rules=rules), Watcher()) for rules in (1, 2, 3)]
    assert [each.model["precision"] for each in begun] == ["bf16", "bf16", "fp32"]
