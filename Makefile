.DEFAULT_GOAL := help
.PHONY: help docs setup demo test test-slow lint check bench bench-layers bench-speed bench-personalization bench-pairs bench-anywhere bench-foretold bench-quality bench-claims pocket pocket-eval clean
PYTHON ?= python3
BIN := .venv/bin
# Processes that share the tests, of one thread each: two threads for one tiny model mostly wait for each other.
WORKERS ?= 2
SHARED = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Nothing here asks a model hub: what is not on this machine is an error.
export HF_HUB_OFFLINE := 1
# transformers says at each import that torchvision is not there; nothing here needs it.
export TRANSFORMERS_VERBOSITY := error

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-23s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/ready  ## install dreamtune and the tools of a contributor into .venv

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

demo: setup  ## teach the embedded base a sample subject and draw it in new places, into demo/
	GOMP_SPINCOUNT=$${GOMP_SPINCOUNT:-20000} $(BIN)/python examples/first_subject.py

test: setup  ## quick tests: offline, on the CPU; WORKERS=2 processes share them
	$(SHARED)

test-slow: setup  ## tests that train, build or open a browser
	$(SHARED) -m "slow and not alone"
	$(BIN)/python -m pytest -m "alone or browser"

lint: setup  ## ruff: style, docstrings, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint  ## lint, then types
	$(BIN)/pyright

bench: bench-layers bench-speed bench-personalization bench-quality bench-claims bench-anywhere bench-pairs bench-foretold  ## all of the benchmarks below (many hours on a CPU)

bench-layers: setup  ## time and memory of every method on SD 1.5's attention layers, beside PEFT and LyCORIS
	$(BIN)/python -m benchmarks.layers

bench-speed: setup  ## steps and time to a subject beside PEFT, using adapters, regions, the analyzer, the command line
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.costs
	$(BIN)/python -m benchmarks.time_to_subject
	$(BIN)/python -m benchmarks.use
	$(BIN)/python -m benchmarks.regions
	$(BIN)/python -m benchmarks.analyzer --methods lora loha lokr dora full

bench-personalization: setup  ## how well adapters learn subjects the base has never seen
	$(BIN)/python -m benchmarks.personalization

bench-quality: setup  ## every method beside PEFT on unseen subjects at equal budgets; resumable; QUICK=1: minutes
	$(BIN)/python -m benchmarks.quality $(if $(QUICK),--quick)

bench-claims: setup  ## what the papers claim, measured; resumable
	$(BIN)/python -m benchmarks.claims

bench-anywhere: setup  ## whether an adapter answers to its word wherever it stands in the prompt; resumable
	$(BIN)/python -m benchmarks.anywhere

bench-foretold: setup  ## what an analysis tells of adapters before they are drawn together; resumable
	$(BIN)/python -m benchmarks.foretold

bench-pairs: setup  ## two and three subjects in one picture by eleven ways, on the embedded base; resumable (two hours)
	$(BIN)/python -m benchmarks.pairs

pocket: setup  ## make the embedded base from nothing, in pocket-work/ (hours on a CPU; resumable)
	$(BIN)/python -m dreamtune.pocket.pretrain --work pocket-work --export

pocket-eval: setup  ## measure the embedded base
	$(BIN)/python -m dreamtune.pocket.evaluate

docs: setup  ## write the recipes, the tables of the documentation and docs/results.md anew
	$(BIN)/python docs/generate.py
	$(BIN)/python -m docs.results

clean:  ## remove what the other targets made, except pocket-work/, quality-work/, pairs-work/ and your runs
	rm -rf .venv build demo dist *.egg-info .hypothesis .pytest_cache .ruff_cache
