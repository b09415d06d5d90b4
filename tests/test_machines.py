"""The combinations of `make test-machines` are in force where the tests run, and what a machine
lacks is said.
"""

from __future__ import annotations

import locale
import os
import sys
import time

import machines
import pytest
import torch
from threadpoolctl import threadpool_info


@pytest.mark.machines
def test_the_combination_is_in_force():
    asked = os.environ
    assert torch.get_num_threads() == int(asked.get("TINTYPE_TEST_THREADS", "1"))

    if "ATEN_CPU_CAPABILITY" in asked:
        assert torch.backends.cpu.get_cpu_capability().lower() == asked["ATEN_CPU_CAPABILITY"]
    if "OPENBLAS_CORETYPE" in asked:
        kinds = {
            found["architecture"]
            for found in threadpool_info()
            if found["internal_api"] == "openblas"
        }
        assert kinds <= {asked["OPENBLAS_CORETYPE"]}
    if asked.get("TZ") == "Asia/Kathmandu":
        assert time.timezone == -(5 * 60 + 45) * 60

    if "TINTYPE_TEST_THREADS" not in asked:
        return
    point = "," if asked["LC_ALL"].startswith("de") else "."
    assert locale.localeconv()["decimal_point"] == point
    encoding = "ascii" if asked.get("PYTHONUTF8") == "0" else "utf-8"
    assert sys.getfilesystemencoding().startswith(encoding)


def test_what_a_machine_lacks_is_said():
    german = next(c for c in machines.COMBINATIONS if c.name == "german")
    wide = next(c for c in machines.COMBINATIONS if c.name == "avx512")

    assert (
        machines.lacking(german, set(), {"c", "c.utf8"})
        == "the system lacks the locale de_DE.UTF-8"
    )
    assert machines.lacking(german, set(), {"c", "de_de.utf8"}) == ""
    assert machines.lacking(wide, {"avx512f", "avx2"}, {"c.utf8"}).startswith(
        "the processor lacks avx512bw"
    )


def test_an_unknown_combination_is_refused(capsys):
    assert machines.main(["vax"]) == 2
    assert "there are sse, avx2" in capsys.readouterr().err


def test_each_combination_has_a_name_of_its_own():
    names = [c.name for c in machines.COMBINATIONS]
    assert len(set(names)) == len(names)
