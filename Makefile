# The front door. A fresh Debian or Ubuntu with python3 and apt is enough: `make run`, `make test`.
# SECONDS=60 make run      ends by itself after a minute

UV := .local/uv/bin/uv
STAMP := .venv/.synced
PYTHON := python3
# The certificates this machine trusts, not only those that uv brings: there may be a proxy.
export UV_SYSTEM_CERTS ?= true

.PHONY: help setup lock run test properties check schemas bench fuzz chaos soak ota-trial bill-trial command-trial

help:
	@echo "make run     start everything with simulated devices (SECONDS=60: for a minute)"
	@echo "make test    run the tests, with real servers"
	@echo "make properties  20,000 examples of each property of the stream and the decoders (hours)"
	@echo "make check   style and types"
	@echo "make bench   measure each stage beside its peers, keep it in docs/benchmarks.md"
	@echo "make command-trial  10,000 commands under power cuts and kills: did each run once?"
	@echo "make chaos   200 kills of everything under load, kept in docs/reliability.md (an hour)"
	@echo "make soak    a kill a minute for 8 hours (SECONDS=3600: for one)"
	@echo "make bill-trial  a month of a million readings, 1, 3 and 7 workers: the same bills"
	@echo "make ota-trial 10,000 updates of nodes, damaged or cut off at any byte (SEED=7 CASES=10000)"
	@echo "make schemas write docs/asyncapi.yaml and docs/schemas from schemas/"
	@echo "make setup   the Python environment alone (.venv)"
	@echo "make lock    resolve pyproject.toml into requirements.lock anew"

# Skipped while lock, project file and this file's recipe are those of the last time.
setup: $(UV)
	@wanted="$$(cat requirements.lock pyproject.toml | sha256sum)"; \
	if [ -x .venv/bin/meterstream ] && [ "$$wanted" = "$$(cat $(STAMP) 2>/dev/null)" ]; then exit 0; fi; \
	set -e; \
	[ -x .venv/bin/python ] || $(UV) venv --quiet --python $(PYTHON) .venv; \
	echo "installing the locked packages into .venv"; \
	VIRTUAL_ENV=.venv $(UV) pip sync --quiet --require-hashes requirements.lock; \
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .; \
	echo "$$wanted" > $(STAMP)

# uv from PyPI, in an environment of its own.
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Meterstream needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  as_root=""; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
	  echo "installing python3-venv"; \
	  { $$as_root apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq python3-venv >/dev/null; } || \
	  { echo "python3-venv is missing; run: sudo apt-get install python3-venv" >&2; exit 1; }; }
	@mkdir -p .local
	@$(PYTHON) -m venv --clear .local/uv
	@.local/uv/bin/pip install --quiet --disable-pip-version-check uv

lock: $(UV)
	$(UV) pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --quiet -o requirements.lock

run: setup
	@.venv/bin/meterstream run

test: setup
	@.venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

properties: setup
	@HYPOTHESIS_PROFILE=long .venv/bin/pytest --timeout 0 --numprocesses 2 $$(grep -rl "examples import" tests)

check: setup
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/python -m schemas.generate --check

schemas: setup
	@.venv/bin/python -m schemas.generate

bench: setup
	@.venv/bin/meterstream bench --write

# SEED=1 PAYLOADS=1000000; on a running stack (`meterstream up`) where nobody else speaks.
fuzz: setup
	@.venv/bin/meterstream fuzz --seed $(or $(SEED),1) --payloads $(or $(PAYLOADS),1000000)

command-trial: setup
	@.venv/bin/meterstream trial commands --commands $(or $(COMMANDS),10000) --seed $(or $(SEED),7)

chaos: setup
	@.venv/bin/meterstream chaos --seed 7 --kills 200 --target all --rate 1000 --write docs/reliability.md

soak: setup
	@.venv/bin/meterstream chaos --seed 8 --seconds $(or $(SECONDS),28800) --every-s 60 --target all --rate 1000

# READINGS=1000000 SEED=1
bill-trial: setup
	@.venv/bin/meterstream trial bills --readings $(or $(READINGS),1000000) --seed $(or $(SEED),1)

ota-trial: setup
	@.venv/bin/python -m tests.firmware.ota_trial --seed $(or $(SEED),7) --cases $(or $(CASES),10000)
