# Two commands for a start: `make bench` measures, `make test` proves. Both make the environment they need.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready

.PHONY: bench test check format reference readme wheelhouse clean

# The table in minutes. Options go in ARGS: make bench ARGS='--dataset cifar10 --rounds 5'
bench: $(READY)
	$(VENV)/bin/loadstone run quick $(ARGS)

test: $(READY)
	$(VENV)/bin/python -m pytest -n auto --dist loadfile $(ARGS)

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The committed run; about an hour on two cores. Say where the complete data is by LOADSTONE_DATA.
reference: $(READY)
	rm -rf results/reference
	$(VENV)/bin/loadstone run thesis-cpu --out results/reference $(ARGS)
	$(MAKE) readme

# Put the committed run's table into the README, as the program made it.
readme: $(READY)
	$(VENV)/bin/python docs/readme.py

# Wheels for a machine without a network that has PyTorch: make wheelhouse FOR=3.12; docs/gpu.md has the steps there.
wheelhouse: $(READY)
	$(VENV)/bin/python docs/wheelhouse.py --to wheelhouse $(if $(FOR),--python $(FOR)) $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Again only when what it is made from has changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Loadstone needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	@echo "Making the environment in $(VENV); torch is large, so this takes some minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
