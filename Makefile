# make train [ARGS="--total-steps 100000"]   virtual environment, install, main job
# make test                                  virtual environment, install, fast tests
# make test-games                            the same for games that need more: JaxMARL, VMAS, ...
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
ARGS ?=

GAMES := $(VENV)/games

.PHONY: train test test-games test-slow lint ruff format-check mypy codespell install
.DEFAULT_GOAL := train

train: install
	$(RUN)/python train_sync_enhanced.py $(ARGS)

test: install
	$(RUN)/python -m pytest -n 2 $(ARGS)

test-games: $(GAMES)/.installed
	$(GAMES)/bin/python -m pytest -n 2 tests/envs/test_jaxmarl_env.py tests/envs/test_vmas_env.py \
		tests/envs/test_environments_of_others.py $(ARGS)

test-slow: install
	$(RUN)/python -m pytest -m slow $(ARGS)

lint: ruff format-check mypy codespell

ruff: install
	$(RUN)/ruff check .

format-check: install
	$(RUN)/ruff format --check .

mypy: install
	$(RUN)/mypy

codespell: install
	$(RUN)/codespell

install: $(VENV)/.installed

# Again only when what is to be installed changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: this needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# JaxMARL wants an older gymnasium than everything else: a second environment holds that and the
# games, and finds the rest (torch, numpy, pytest) in the first one.
$(GAMES)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(GAMES)
	$(RUN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(GAMES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth"
	sed 's/^gymnasium==.*/gymnasium<1.4/' constraints.txt > $(GAMES)/constraints.txt
	$(GAMES)/bin/python -m pip install --quiet -c $(GAMES)/constraints.txt jaxmarl vmas pyglet "pettingzoo[butterfly,sisl]"
	@touch $@
