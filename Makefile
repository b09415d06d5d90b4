# make demo   a trained classifier, honest figures and a report, on a fresh machine
# make test   set up what the tests need, and pass them; a subset again as two other processors would run it,
#             and those of a wheel where the repository cannot be seen
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip would compile 20,000 files on one core; some cannot be, such as templates, and tests of others nobody imports.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true
# Each process computes on one thread (tests/conftest.py), and tests wait for others a fifth of the time, so there
# are half as many again as cores: on two of them the suite takes 9.5 minutes in place of 13.
# Each takes its part of the files and helps the others at the end, so that what the tests of a file
# share is made once. Plug-ins of packages that are tested against would be imported by each process, and
# their packages' assertions rewritten.
PYTEST := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -p xdist.plugin -p pytest_timeout \
  -n $(shell $(PYTHON) -c "import os; print(min(8, 3 * (os.cpu_count() or 1) // 2))") --dist worksteal
# What is compiled is kept: tests start a hundred processes, and other processors take the same tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-all test-machines test-sse test-avx2 test-lowest wheel bench check format browser image clean

demo: $(VENV)/installed
	$(BIN)/tintype train digits

# Installing waits for the network. What follows the tests takes one core each, for most of its time;
# the longest comes first.
test:
	$(MAKE) --jobs 2 $(VENV)/installed-dev browser
	$(PYTEST)
	$(MAKE) --jobs 2 test-avx2 check test-sse wheel

test-fast: $(VENV)/installed-dev
	$(PYTEST) -m "not slow and not exhaustive"

test-all: $(VENV)/installed-dev check
	$(PYTEST) -m ""

# The tests marked "machines" as other machines would run them: make test-machines [COMBINATIONS="sse ascii"].
test-machines: $(VENV)/installed-dev
	$(BIN)/python tests/machines.py $(COMBINATIONS)

test-sse test-avx2: $(VENV)/installed-dev
	$(BIN)/python tests/machines.py $(@:test-%=%)

# The same tests with the lowest versions that pyproject.toml allows, in an environment of its own (6 GB).
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py export > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --disable-pip-version-check -q -e '.[export]' -c .venv-lowest/lowest.txt \
	  pytest pytest-timeout hypothesis pandas statsmodels scikit-image
	.venv-lowest/bin/python -m pytest -o filterwarnings=default -m machines $$(grep -l pytest.mark.machines tests/test_*.py)

# An sdist and a wheel in dist/, whose smoke tests pass where the repository cannot be seen. DOWNLOAD=--download
# installs what the wheel declares from the index; without it, it is linked from .venv.
wheel: $(VENV)/installed-dev
	$(BIN)/python tests/installed.py $(DOWNLOAD)

# What the README claims, beside peers from PyPI in an environment of their own, in at most 30 minutes:
# make bench DATA=DIR [ROUNDS=3] [MINUTES=30]. Finished cells stay in bench/, and the tables go into the pages.
ROUNDS ?= 3
MINUTES ?= 30
bench: $(VENV)/installed-dev .venv-peers/installed
	$(BIN)/python benchmarks/bench.py --out bench --python .venv-peers/bin/python --rounds $(ROUNDS) \
	  --minutes $(MINUTES) $(if $(DATA),--data-root $(DATA)) --write

# They see the packages of .venv behind their own, so that PyTorch is there once.
.venv-peers/installed: $(VENV)/installed-dev
	$(BIN)/python -m venv .venv-peers
	$(BIN)/python -c 'import pathlib, sysconfig; next(pathlib.Path(".venv-peers").glob("lib/*/site-packages")).joinpath("own.pth").write_text(sysconfig.get_path("purelib") + "\n")'
	.venv-peers/bin/python -m pip install --disable-pip-version-check -q tensorflow-cpu fastai timm ultralytics
	touch $@

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("tintype needs Python 3.11 to 3.14, this is " + sys.version.split()[0] + ". Type: make demo PYTHON=python3.12" if not (3, 11) <= sys.version_info[:2] <= (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e . -c constraints.txt
	$(COMPILE)
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]' -c constraints.txt
	$(COMPILE)
	touch $(VENV)/installed $@

# What tests/test_page.py drives. As root on Debian it is installed; elsewhere, without it, those tests are skipped.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get -q update && apt-get -q install -y --no-install-recommends chromium chromium-driver) >/dev/null \
	  || echo "chromium could not be installed: the tests of the page are skipped"; \
	else echo "no chromium with chromedriver: the tests of the page are skipped"; fi

image:
	docker build -t tintype .

clean:
	rm -rf $(VENV) .venv-lowest build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
