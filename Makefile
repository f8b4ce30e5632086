# Every target sets up what it needs; `make` alone lists them.
VENV := .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
WORKERS := 4
SLOW_WORKERS := 4

.DEFAULT_GOAL := help
.PHONY: help demo demo-troubled demo-page up test test-postgresql test-slow coverage lint docs audit fuzz bench bench-scale torture lock clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(READY)  ## Import the sample file against an Outlook stand-in on this machine
	rm -rf data/demo
	$(RUN) -m sandbox --keep data/demo $(RUN) -m flows.cli import data/samples/mailboxes.csv --tag demo

demo-troubled: $(READY)  ## The same with a mailbox for nearly every reason
	rm -rf data/demo-troubled
	OUTLOOK_IMPORT_PROBE_TIMEOUT=3 $(RUN) -m sandbox --accounts data/samples/troubled-sandbox.csv \
	  --servers data/samples/troubled-servers.csv --keep data/demo-troubled \
	  $(RUN) -m flows.cli import data/samples/troubled.csv

demo-page: $(READY)  ## Click through the page with a mailbox for nearly every reason
	rm -rf data/demo-page
	OUTLOOK_IMPORT_PROBE_TIMEOUT=3 $(RUN) -m sandbox --accounts data/samples/troubled-sandbox.csv \
	  --accounts data/samples/sandbox.csv --servers data/samples/troubled-servers.csv --keep data/demo-page \
	  $(RUN) -m flows.cli import data/samples/troubled.csv
	@echo "One import is there. A file to drop on the page: data/samples/mailboxes.csv"
	OUTLOOK_IMPORT_PROBE_TIMEOUT=3 data/demo-page/outlook-import serve

up: $(READY)  ## Run the page, Prefect's server, the deployments and a worker until Ctrl-C
	$(RUN) -m flows.cli up

test: $(READY)  ## Run the tests
	$(RUN) -m pytest -q -n $(WORKERS) --dist loadgroup --database sqlite

test-postgresql: $(READY)  ## Run all that uses a database on PostgreSQL
	$(RUN) -m pytest -q -n $(WORKERS) --dist loadgroup --database postgresql

test-slow: $(READY)  ## Run the tests that take long: browser, crashes, workers
	$(RUN) -m pytest -n $(SLOW_WORKERS) --dist loadgroup -m slow

coverage: $(READY)  ## Run the tests and show which lines and branches they reach
	$(RUN) -m pytest -q -n $(WORKERS) --dist loadgroup --database sqlite --cov --cov-report=term

lint: $(READY)  ## Check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(READY)  ## Write the generated parts of the documentation
	$(RUN) -m tests.tools.docs

audit: $(READY)  ## Look up known vulnerabilities of the locked packages (needs the network)
	$(RUN) -m tests.tools.audit

fuzz: $(READY)  ## Look for 20 minutes for files, uploads and servers that break it
	$(RUN) -m tests.tools.fuzz --minutes 20

bench: $(READY)  ## Measure speed, as ratios
	$(RUN) -m tests.tools.bench

bench-scale: $(READY)  ## Measure many workers, sizes of groups and a million mailboxes (20 minutes)
	$(RUN) -m tests.tools.bench_scale

torture: $(READY)  ## Import, update and recheck while everything is killed 100 times, on both databases (an hour)
	$(RUN) -m tests.tools.torture --database postgresql
	$(RUN) -m tests.tools.torture --database sqlite

lock:  ## Renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra sandbox --group dev pyproject.toml -o requirements.lock

clean:  ## Remove the environment
	rm -rf $(VENV)

# The lock is complete, so nothing has to be resolved; the mark is newer than the lock once all is installed.
$(READY): requirements.lock pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	touch $@
