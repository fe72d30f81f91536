# Everything runs in .venv, which is made again whenever requirements.lock changes. The
# lock is complete, so pip resolves nothing (--no-deps): resolving, it looks for the newest
# release of a requirement with extras, and stops, since that has no hash here.
# A bare machine needs Python 3.11, git and make; only PyPI is reached, and by the tests
# Debian's packages, for Chromium and Node.js where they are missing.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LRS := .venv-lrs
SUPPLY := .venv-supply-chain
MUTATION := .venv-mutation
PEERS := .venv-peers
STAMP := $(VENV)/.made-from-the-lock

export LMS_WAREHOUSE ?= $(CURDIR)/data/warehouse.duckdb
export LMS_LANDING ?= $(CURDIR)/data/landing
export DAGSTER_HOME ?= $(CURDIR)/data/dagster
export DO_NOT_TRACK = 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help

.PHONY: help demo dashboard test test-long test-fast test-slow test-lrs programs torture mutation bench bench-full bench-collector bench-api bench-latency bench-pages bench-import bench-peers bench-huge dev pictures architecture check audit sbom lock clean

help:  ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "error: no $(PYTHON); install Python 3.11 with its venv module" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "making $(VENV) from requirements.lock (a minute or two) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)  ## Land a demonstration landing zone, refresh, and print the answers
	@test -d "$$LMS_LANDING" || warehouse demo-data "$$LMS_LANDING"
	@warehouse catalogue "$$LMS_LANDING/catalogue"
	@warehouse land "$$LMS_LANDING/events"
	@warehouse refresh
	@echo; echo "Learners' progress:"
	@warehouse query "select * from progress.v_user_progress order by user_id, class_id limit 12"
	@echo "The leaderboard:"
	@warehouse query "select * from monitoring.v_leaderboard order by rank, user_id limit 10"
	@echo "What happened to every line:"
	@warehouse query "select sum(lines_read) as lines_read, sum(accepted) as accepted, sum(duplicate) as duplicate, sum(conflict) as conflict, sum(rejected) as rejected, sum(erased) as erased, sum(lines_unaccounted) as lines_unaccounted from monitoring.v_load_outcome where kind = 'events'"
	@warehouse query "select reason, field, dead_letter_count from monitoring.v_dead_letter_summary order by all"

dashboard: $(STAMP)  ## Open the dashboard on it (http://127.0.0.1:8501), at the end of the demo's period
	@warehouse dashboard --now "2026-10-23 00:00:00"

pictures: $(STAMP) chromium  ## Take the pictures of the dashboard in docs/ anew
	@LMS_WRITE_PICTURES=1 pytest -q tests/serving/test_dashboard.py -k picture

dev: $(STAMP)  ## Open the Dagster UI on the same warehouse (http://127.0.0.1:3000)
	@umask 027; mkdir -p "$$DAGSTER_HOME"
	@cp orchestration/dagster.yaml "$$DAGSTER_HOME/dagster.yaml"
	umask 027; dg dev --port 3000

# Three workers on two cores: some wait for a process, a browser or a lock.
PYTEST := pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(STAMP) programs  ## Pass the tests (before each commit)
	@$(PYTEST) -m "not long and not slow and not lrs" tests

test-long: $(STAMP) programs  ## Pass the longest: kills, damage, Dagster's runs, edits of the project (CI does, after `make test`)
	@$(PYTEST) -m "long and not slow and not lrs" tests

test-fast: $(STAMP)  ## Pass the tests without dbt, Dagster, a browser and random examples (under a minute)
	@pytest -n 3 --dist worksteal -m "not dbt and not browser and not hypothesis and not long and not slow and not lrs" tests

test-slow: $(STAMP) programs  ## Kill every command at 50 random instants each, and try new random examples (long; before a release)
	@pytest --timeout 7200 --hypothesis-profile random -m "(slow or hypothesis) and not lrs" tests

# A program, and the package of Debian that has it: Chromium, Node.js, what mounts the disk
# that fails on purpose, and what lets a clock jump.
PROGRAMS := chromium=chromium node=nodejs fusermount3=fuse3 faketime=faketime

programs:  ## Install what tests need beside Python, where it is missing
	@missing=; for program in $(PROGRAMS); do \
		command -v $${program%=*} >/dev/null || missing="$$missing $${program#*=}"; \
	done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ]; then \
			echo "installing$$missing from Debian's packages ..."; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
		else \
			echo "error: the tests need$$missing; run: sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; \
		fi; \
	fi

# `make torture PARTS="power log" SEED=7 TIMES=20`: some parts, the same again, for a night.
torture: $(STAMP) programs  ## Try to break the promises: faults, power cuts, damage, random histories (long)
	@python -m tests.support.torture $(PARTS) $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) $(if $(TIMES),--times $(TIMES))

# What changes Python code, in an environment of its own; the tests run in ours.
$(MUTATION)/.made-from-the-lock: tests/requirements-mutation.txt
	@$(PYTHON) -m venv --clear $(MUTATION)
	@$(MUTATION)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

# `make mutation HALVES=sql SEED=1 COUNT=40`: the same again; COUNT=0 is all, for a night.
mutation: $(STAMP) $(MUTATION)/.made-from-the-lock  ## Change one rule at a time and see whether a test fails (two hours; before a release)
	@python -m tests.support.mutation $(HALVES) --cosmic-ray $(MUTATION)/bin/python $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

bench-collector: $(STAMP)  ## Load on the collector: at least 5,000 events/s, p99 under 100 ms
	@python -m benchmarks.load_collector --at-least 5000 --p99-ms 100

bench-api: $(STAMP)  ## Load on the read API: at least 1,000 requests/s, p99 under 50 ms
	@python -m benchmarks.load_api --at-least 1000 --p99-ms 50

bench-pages: $(STAMP)  ## Open the dashboard's pages on 50 million events (makes the history first, which takes long and is kept)
	@python -m benchmarks.load_pages --events 50M

bench-latency: $(STAMP)  ## From a POST until a reader sees it: median 15 s, p95 30 s; under 3 % of a core at rest (45 minutes)
	@python -m benchmarks.latency --median-sec 15 --p95-sec 30 --idle-percent 3

# A learning record store, in an environment of its own: dbt and it want other versions
# of click.
$(LRS)/.made-from-the-lock: tests/requirements-lrs.txt
	@$(PYTHON) -m venv --clear $(LRS)
	@$(LRS)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

test-lrs: $(STAMP) $(LRS)/.made-from-the-lock  ## Publish to a real learning record store
	@LMS_TEST_LRS="$$PWD/$(LRS)/bin" pytest -m lrs tests

bench-import: $(STAMP)  ## Time moving in: a dump of 100,000 events, imported and compared
	@python benchmarks/import_lms.py

bench: $(STAMP)  ## Measure with 1 and 10 million events against hand-written floors (minutes)
	@python -m benchmarks.bench --sizes 1M,10M

bench-full: $(STAMP)  ## The same with 50 million, too, into docs/performance.md (up to 40 minutes)
	@python -m benchmarks.bench --sizes 1M,10M,50M --docs docs

bench-huge: $(STAMP)  ## A refresh on 10, 50 and 200 million events, into docs/performance.md (long; before a release)
	@python -m benchmarks.bench --sizes 1M,10M,50M,200M --repeat-large 1 --only rebuild,delta,sql,shell --results data/bench/huge.json --docs docs --page growth

# What others use for the same, in an environment of its own; Spark needs Java, too.
$(PEERS)/.made-from-the-lock: benchmarks/requirements-peers.txt
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

bench-peers: $(STAMP) $(PEERS)/.made-from-the-lock  ## The same lines with pandas, Polars, DuckDB alone, dlt and Spark; dbt's look-back beside ours
	@python -m benchmarks.peers --python $(PEERS)/bin/python

architecture: $(STAMP)  ## Draw the picture of docs/architecture.md from the code
	@python -m tests.support.architecture

check: $(STAMP)  ## Lint, types, dbt without deprecations, and advisories where they can be had
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports
	@sqlfluff lint dbt_project/models dbt_project/tests
	@dbt --quiet --log-level-file none parse --no-partial-parse --project-dir dbt_project --profiles-dir dbt_project
	@$(MAKE) --no-print-directory audit

# What looks at the lock, in an environment of its own.
$(SUPPLY)/.made-from-the-lock: tests/requirements-supply-chain.txt
	@$(PYTHON) -m venv --clear $(SUPPLY)
	@$(SUPPLY)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

audit: $(STAMP) $(SUPPLY)/.made-from-the-lock  ## Compare the lock with published advisories, where they can be had
	@python -m tests.support.supply_chain $(SUPPLY)/bin/pip-audit

sbom: $(SUPPLY)/.made-from-the-lock  ## List every package of the lock with its hashes: sbom.cdx.json (CycloneDX)
	@$(SUPPLY)/bin/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible --of JSON --output-file sbom.cdx.json requirements.lock
	@echo sbom.cdx.json

lock: $(STAMP)  ## Resolve the dependencies again into the two lock files
	@uv pip compile --quiet --upgrade --strip-extras --no-header --no-emit-index-url --generate-hashes --group dev --output-file requirements.lock pyproject.toml
	@uv pip compile --quiet --upgrade --strip-extras --no-header --no-emit-index-url --generate-hashes --output-file tests/requirements-lrs.txt tests/requirements-lrs.in
	@uv pip compile --quiet --upgrade --strip-extras --no-header --no-emit-index-url --generate-hashes --output-file tests/requirements-supply-chain.txt tests/requirements-supply-chain.in
	@uv pip compile --quiet --upgrade --strip-extras --no-header --no-emit-index-url --generate-hashes --output-file tests/requirements-mutation.txt tests/requirements-mutation.in
	@uv pip compile --quiet --upgrade --strip-extras --no-header --no-emit-index-url --generate-hashes --output-file benchmarks/requirements-peers.txt benchmarks/requirements-peers.in
	@uv pip compile --quiet --no-header --no-emit-index-url --generate-hashes --output-file tests/requirements-oldest-reader.txt tests/requirements-oldest-reader.in

clean:  ## Remove the environment and what was built; keeps data/
	@rm -rf $(VENV) $(LRS) $(SUPPLY) $(MUTATION) $(PEERS) sbom.cdx.json .oldest-reader .pytest_cache .ruff_cache .mypy_cache .hypothesis dbt_project/target
