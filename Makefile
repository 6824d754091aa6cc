PYTHON ?= python3
# Else each of the tests' programs compiles torch anew: uv leaves that to the first import.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
# Editable, so that an edit needs no new install; only these two files ask for one.
INSTALLED_FROM := pyproject.toml constraints.txt
# A process a core, which takes tests from another one once it has none left.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test quick docs plugin types tests clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## map a real scene with the packaged weights
	$(BIN)/hrrsi predict examples/dubai_tile1.tif --out demo/ --preview demo/dubai_tile1.png --overwrite
	@echo
	@echo "Look at demo/dubai_tile1.png: scene, map and legend side by side."
	@echo "The map itself is demo/dubai_tile1_classes.tif: open it in QGIS."

test: $(VENV)/installed-test ## lint, types and every test except the slow ones and those for a GPU
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) --no-print-directory --jobs=2 types tests

docs: $(VENV)/installed ## build the site into site/, which opens from the disk too
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]' || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Open site/index.html."

plugin: ## build the QGIS plugin into dist/, to install it from its zip
	$(require_python)
	@$(PYTHON) tools/plugin_zip.py dist

quick: $(VENV)/installed-test ## lint, and tests in under 90 s: none that trains, opens a browser or takes over half a second
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(PYTEST) -m "not long and not slow and not gpu"

types:
	$(BIN)/mypy
	cd qgis && ../$(BIN)/mypy --python-version 3.11 --cache-dir ../.mypy_cache/qgis hrrsi/program.py hrrsi/commands.py

tests:
	$(PYTEST)

clean: ## remove the environment, the demo's outputs and caches
	rm -rf $(VENV) demo site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: $(INSTALLED_FROM)
	$(call install,.,what maps and scores on a processor$(comma) 0.6 GB; under a minute on a fast line)

$(VENV)/installed-test: $(INSTALLED_FROM)
	$(call install,.[test],all extras$(comma) 8 GB$(comma) most of it torch; minutes on a fast line)
	@touch $(VENV)/installed

comma := ,

define require_python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; name another one: make PYTHON=python3.12"; exit 1; }
endef

# uv takes a quarter of pip's time, but reads no settings of pip's (mirrors, certificates): where it
# fails, pip installs.
define install
	$(require_python)
	@echo "Installing into $(VENV): $(2)."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '$(1)' || \
		$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '$(1)'
	@touch $@
endef
