# fleetgate: `make run` serves, `make test` checks everything. Both set up what is missing in .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
NODE := .venv/node/.ready

PURE := ingester/ages.py,ingester/codecs/*,ingester/streams/*,ingester/clocks.py,ingester/downsample.py,ingester/sketch.py,ingester/history/columns.py,ingester/history/rules.py,ingester/sqlite/remembered.py,ingester/merge.py,ingester/postgres/rows.py,ingester/batch.py,ingester/batcher.py,ingester/bisection.py,ingester/decode.py,ingester/device_series.py,ingester/histogram.py,ingester/ledger.py,ingester/ratelimit.py,ingester/seen.py,ingester/sqlite/rows.py,ingester/topics.py,fleet/audit/model.py,fleet/audit/checkpoint.py,fleet/audit/export.py,fleet/authority/making.py,fleet/certificates.py,fleet/crl.py,fleet/documents.py,fleet/identity.py,fleet/names.py,fleet/numbers.py,fleet/lifecycle/model.py,fleet/operators/guessing.py,fleet/operators/model.py,fleet/operators/secrets.py,fleet/policy/compiled.py,fleet/policy/condition.py,fleet/policy/document.py,fleet/policy/model.py,fleet/policy/pattern.py,fleet/policy/rights.py,fleet/policy/text.py,fleet/policy/values.py,fleet/presence/model.py,fleet/provisioning/model.py,fleet/provisioning/rows.py,fleet/provisioning/template.py,fleet/quota/model.py,fleet/registry/details.py,fleet/registry/groups.py,fleet/registry/model.py,fleet/registry/types.py,fleet/registry/query/model.py,fleet/registry/query/parser.py,fleet/registry/query/versions.py,fleet/topics.py,fleetgate/addresses.py,fleetgate/effects.py,fleetgate/times.py,broker_plugins/engine/admission.py,broker_plugins/engine/arrivals.py,broker_plugins/engine/errors.py,broker_plugins/engine/flapping.py,broker_plugins/engine/message.py,broker_plugins/engine/packets.py,broker_plugins/engine/properties.py,broker_plugins/engine/reasons.py,broker_plugins/engine/retained.py,broker_plugins/engine/router.py,broker_plugins/engine/schedule.py,broker_plugins/engine/session.py,broker_plugins/engine/topics.py,broker_plugins/engine/trie.py,broker_plugins/engine/wills.py,broker_plugins/engine/wire.py

.DEFAULT_GOAL := run
.PHONY: run demo test lint bench soak config recorded clean

run: $(READY)
	@exec $(BIN)/fleetgate serve

demo: $(READY)
	@exec $(BIN)/fleetgate simulate --serve --devices 20 --rate 20 --duration 31536000

test: lint $(NODE)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term
	@echo "pure logic is covered fully:"
	$(BIN)/coverage report --fail-under=100 --include='$(PURE)'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks

soak: $(READY) $(NODE)
	$(BIN)/python -m pytest tests/faults --long

recorded: $(READY)
	$(BIN)/python -m pytest tests/system/test_examples.py --record
	$(BIN)/python -m pytest tests/fleetgate/test_client.py --record -k generated

config: $(READY)
	$(BIN)/python -c 'from fleetgate.settings import to_toml; print(to_toml(), end="")' > config/fleetgate.toml

clean:
	rm -rf .venv build dist .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# MQTT.js, for a system test; without npm that test skips at a desk, and fails in CI.
$(NODE): tests/clients/package.json $(READY)
	@mkdir -p $(@D) && cp $< $(@D)/package.json
	@if command -v npm >/dev/null; then npm install --silent --no-package-lock --no-audit --no-fund --prefix $(@D); fi
	@touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[analytics,postgres,oidc,notebook,labels,dev]'
	@touch $@
