# `make` alone lists the targets.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# With it Python finds no module of the current folder, which is how all of ours are found.
unexport PYTHONSAFEPATH
# Compiled once at installation, so that no later start has to do it.
export UV_COMPILE_BYTECODE := 1

.PHONY: help walkthrough chapters ui tracking-server serve mlserve test test-nightly test-fast benchmark tuning \
	scripts pictures readme check-readme lint format constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

walkthrough: .venv/installed ## run the notebook; the runs and models are kept in mlflow.db and mlruns/
	python -m notebook_tools.run

chapters: .venv/installed ## run the chapters, which go on from there
	python -m notebook_tools.run --chapters

# Each server of ours has its port in a variable: make ui UI_PORT=5050
UI_PORT ?= 5000
TRACKING_PORT ?= 5000
SERVE_PORT ?= 8000
MLSERVE_PORT ?= 8080
MLSERVE_GRPC_PORT ?= 8081
MLSERVE_METRICS_PORT ?= 8082
# What serve and mlserve serve, in a variable too: make serve MODEL_URI=models:/NAME@ALIAS
MODEL_URI ?= models:/CancerModel@champion
# $(call free,NAME): end with one line where the port is in use. MLflow says so in twenty, and ends with exit code 0.
free = @python -c 'import socket, sys; sys.exit(socket.socket().connect_ex(("127.0.0.1", $($(1)))) == 0 and \
	"Port $($(1)) is in use. Choose another one: make $@ $(1)=...")'

ui: .venv/installed ## show the runs and models at http://127.0.0.1:5000
	$(call free,UI_PORT)
	mlflow ui --workers 1 --port $(UI_PORT)

tracking-server: .venv/installed ## share runs and models: export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 elsewhere
	$(call free,TRACKING_PORT)
	mkdir -p tracking
	cd tracking && MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port $(TRACKING_PORT) \
		--workers 1 --backend-store-uri sqlite:///mlflow.db --artifacts-destination mlruns \
		--allowed-hosts 'localhost:*,127.0.0.1:*'

serve: .venv/installed ## serve the champion with our own server at http://127.0.0.1:8000, which follows the alias
	python -m steps.model_server --model-uri '$(MODEL_URI)' --port $(SERVE_PORT)

mlserve: .venv/installed docker/mlserve/.venv/installed ## serve the champion with MLServer at http://127.0.0.1:8080
	$(call free,MLSERVE_PORT)
	$(call free,MLSERVE_GRPC_PORT)
	$(call free,MLSERVE_METRICS_PORT)
	MLFLOW_TRACKING_URI=$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db} MLSERVER_MODEL_URI='$(MODEL_URI)' \
		MLSERVER_HTTP_PORT=$(MLSERVE_PORT) MLSERVER_GRPC_PORT=$(MLSERVE_GRPC_PORT) \
		MLSERVER_METRICS_PORT=$(MLSERVE_METRICS_PORT) OMP_NUM_THREADS=1 \
		docker/mlserve/.venv/bin/mlserver start docker/mlserve

test: .venv/tests ## check and run everything but what is nightly (about ten minutes)
	pytest -m "not nightly" --numprocesses 2 --dist loadgroup

test-nightly: .venv/tests ## the containers, the chapters and what else takes long (about half an hour)
	pytest -m nightly --numprocesses 2 --dist loadgroup

test-fast: .venv/tests ## the tests that take no more than seconds
	pytest -m "not slow and not nightly"

benchmark: .venv/installed ## measure how fast it is, on a quiet machine (about half an hour)
	python -m benchmarks.benchmark
	python -m benchmarks.rows

tuning: .venv/installed ## see whether tuning helps: the steps on 20 splits of the data (about half an hour)
	python -m benchmarks.tuning --out benchmarks/tuning.json

scripts: .venv/installed ## make the scripts from the notebook
	python -m notebook_tools.extract

pictures: .venv/tests ## take the README's pictures of the runs from `make walkthrough`; needs Chromium
	python -m notebook_tools.pictures

readme: .venv/installed ## make README.md, the chapters' pages and their plots from a run in an empty folder
	python -m notebook_tools.readme

check-readme: .venv/installed ## compare the pages with the notebooks, without a run
	python -m notebook_tools.readme --check

lint: .venv/tests ## check the Python files
	ruff check
	ruff format --check
	ruff format --check --line-length 100 modeling.py chapters/*.py

format: .venv/tests ## format the Python files
	ruff check --fix
	ruff format
	ruff format --line-length 100 modeling.py chapters/*.py

# uv writes into each line for which systems it is, those of pyproject.toml: the list is easier to read without.
ALL_SYSTEMS := \(*platform_machine == 'arm64' and sys_platform == 'darwin'\) or \
	\(platform_machine == 'AMD64' and sys_platform == 'win32'\) or sys_platform == 'linux'\)*
constraints: .venv/installed ## look for newer versions of all packages below the requirements.txt files
	grep -v '^-c' requirements.txt | uv pip compile - --group pyproject.toml:test --universal --python-version 3.11 \
		--upgrade --no-header --no-annotate --quiet --output-file constraints.txt
	grep -v '^-c' docker/mlserve/requirements.txt | uv pip compile - --universal --python-version 3.11 \
		--upgrade --no-header --no-annotate --quiet --output-file docker/mlserve/constraints.txt
	sed -E -i.bak "s/ (;|and) $(ALL_SYSTEMS)$$//" constraints.txt docker/mlserve/constraints.txt
	rm constraints.txt.bak docker/mlserve/constraints.txt.bak

clean: ## remove the environments and what tools left; runs, models and notebooks with their outputs stay
	rm -rf .venv docker/mlserve/.venv .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The programs in .venv name its path: where the folder has moved, all is installed anew.
ifneq ($(shell cat .venv/installed 2>/dev/null),$(CURDIR))
.PHONY: .venv/installed
endif
# Python 3.15 waits for MLflow, which wants pyarrow < 26.
.venv/installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 15) else \
		"Python 3.11 to 3.14 is needed, this is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.12 ...")'
	@echo "installing into .venv"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"
	@uv pip install --quiet --python .venv/bin/python --requirements requirements.txt
	@pwd -P >$@

.venv/tests: .venv/installed
	@echo "installing what the tests need into .venv"
	@uv pip install --quiet --python .venv/bin/python --requirements requirements.txt --group test
	@touch $@

docker/mlserve/.venv/installed: docker/mlserve/requirements.txt docker/mlserve/constraints.txt
	@echo "installing into docker/mlserve/.venv"
	@uv venv --quiet --clear --relocatable --python '>=3.11,<3.13' docker/mlserve/.venv || \
		{ echo "MLServer needs Python 3.11 or 3.12: install one of them, or let uv fetch it" >&2; exit 1; }
	@uv pip install --quiet --python docker/mlserve/.venv --requirements docker/mlserve/requirements.txt
	@touch $@
