# make demo, make test: both set up what they need. PYTHON names the interpreter to build on (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo-output

.PHONY: demo test test-flink check docs format lock clean bench

demo: $(VENV)/.installed
	$(BIN)/unfade restore --input samples/pairs.csv --output $(DEMO) --overwrite
	@echo "restored photographs: $(DEMO)/images   metrics: $(DEMO)/metrics   before and after: $(DEMO)/report/index.html"

test: $(VENV)/.installed check
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A Flink cluster on this machine (docs/flink.md). Needs Java 17, and Maven for what a cluster lacks; takes some minutes.
test-flink: export FLINK_HOME := $(abspath .flink)
test-flink: export PYTHON := $(abspath $(BIN)/python)
test-flink: $(VENV)/.installed
	deploy/flink/flink.sh install
	$(BIN)/python -m pytest -m flink tests/test_flink.py

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The docs site, in build/site. mkdocs has an environment of its own: nothing of it is needed to run or test unfade.
DOCS := build/docs-env
docs: $(VENV)/.installed $(DOCS)/.installed
	PYTHONPATH=. $(BIN)/python docs/pages.py build/docs
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict --clean --config-file build/docs/mkdocs.yml
	@echo "docs: build/site/index.html   with search: $(BIN)/python -m http.server --directory build/site"

$(DOCS)/.installed: docs/site.lock
	rm -rf $(DOCS)
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r docs/site.lock
	$(DOCS)/bin/python -m pip check --disable-pip-version-check
	touch $@

# Beside what users would pick instead, which it installs into an environment of its own; two hours, on a quiet machine.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.scale
	benchmarks/peers/.venv/bin/python benchmarks/plot.py

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A new environment whenever the lock or the package's declaration changes. Hashes of every file are checked. The lock is
# complete, so --no-deps: left to resolve, pip looks at newer releases for extras (google-auth[pyopenssl]) and gives up.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
		"unfade needs Python 3.11 to 3.13, $(PYTHON) is %d.%d; name another with make PYTHON=python3.12" % sys.version_info[:2])'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $@

# Needs uv (https://docs.astral.sh/uv/): resolves for every supported Python at once. The image's locks have the same pins,
# without what only development needs, and NVIDIA's libraries apart.
IMAGE_LOCK := uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" -c requirements.lock pyproject.toml

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" pyproject.toml --group dev -o requirements.lock
	$(IMAGE_LOCK) > deploy/worker.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" docs/site.in -o docs/site.lock
	$(IMAGE_LOCK) --extra cuda | awk '/^[^ ]/ { keep = /^(nvidia-|#)/ } keep' > deploy/cuda.lock

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
