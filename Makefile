# make check | format | test | bench      PYTHON: the interpreter that has the package and its "test" extra
PYTHON ?= $(firstword $(wildcard .venv/bin/python) python)
SOURCES = fairseq_plugins tests scripts setup.py

.PHONY: check format test bench

check:  ## style, types, and the rules of docs/design.md
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_house.py tests/test_papers.py

format:  ## what can be put right without thinking: import order and the like
	$(PYTHON) -m ruff check --fix $(SOURCES)

test:  ## SYSTEM=1 adds the tests that train for minutes
	./scripts/test.sh

bench:  ## every question of scripts/benchmarks, one file each; _*.py are their parts
	@set -e; for file in scripts/benchmarks/[!_]*.py; do \
	  [ -e "$$file" ] || { echo "scripts/benchmarks holds no benchmark"; exit 0; }; \
	  echo "$$file"; $(PYTHON) "$$file"; done
