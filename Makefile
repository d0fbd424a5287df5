# Everything here needs only Python 3.11 to 3.13 and make: the first target that needs it makes the environment in .venv.
# PYTHON= chooses the interpreter, VENV= the environment, SKIP_INSTALL=1 takes the environment as it is.
VENV ?= .venv
PY = $(VENV)/bin/python
LESSON ?= alexnet_small
PROFILE ?= quick
export PYTHON SKIP_INSTALL

.DEFAULT_GOAL := help
.PHONY: help course test docs readme lab app prepare check outputs reproduce dist benchmarks clean env-course env-dev env-app

help: ## say what each command does
	@echo "make course      set up, run the lessons on the embedded data, end with one table (minutes)"
	@echo "make test        set up, run every check: notebooks, export, README, docs, tests, the site in a browser"
	@echo "make docs        build the site into docs/ (open docs/index.html)"
	@echo "make readme      write README.md from nbs/index.ipynb"
	@echo "make lab         JupyterLab on the notebooks"
	@echo "make app [FOLDER=pictures]"
	@echo "                 a form in the browser: teach a network a class from a few pictures of yours"
	@echo "make check NB=02     one notebook: clean, export, lint, run it, its tests (under a minute for a foundation)"
	@echo "make outputs NB=02   run one notebook and save its outputs"
	@echo "make prepare     before a commit: clean, export, run the notebooks, README, docs"
	@echo "make reproduce LESSON=alexnet_small [PROFILE=quick] [STAGE=train] [RESULTS=nbs/results]"
	@echo "                     run an experiment, or one stage, again; compare with its record; RESULTS= keeps the new one"
	@echo "make benchmarks  run every benchmark of tests/benchmarks (quiet machine, please)"
	@echo "make dist        wheel and sdist into dist/"
	@echo "make clean       remove what these commands made, the environment too"

env-course:
	@sh tools/setup_env.sh $(VENV) course

env-dev:
	@sh tools/setup_env.sh $(VENV) dev

env-app:
	@sh tools/setup_env.sh $(VENV) app

course: env-course
	@$(PY) tools/course.py

test: env-dev
	@$(PY) tools/test.py

docs: env-dev
	@$(PY) tools/build_docs.py

readme: env-dev
	@$(PY) tools/write_readme.py

lab: env-course
	@$(VENV)/bin/jupyter lab --notebook-dir=nbs

app: env-app
	@$(PY) -m hierlearn.new_class_app $(if $(FOLDER),--folder "$(FOLDER)")

prepare: env-dev
	@$(PY) tools/test.py --write

check: env-dev
	@$(PY) tools/test.py --notebook $(NB)

outputs: env-dev
	@[ -n "$(NB)" ] || { echo "say which notebook: make outputs NB=02"; exit 1; }
	@$(PY) tools/run_notebooks.py --save $(NB)

reproduce: env-dev
	@$(PY) tools/reproduce.py $(LESSON) --profile $(PROFILE)

benchmarks: env-dev
	@for f in tests/benchmarks/bench_*.py; do echo "== $$f"; $(PY) $$f || exit 1; done

dist: env-dev
	@rm -rf dist build
	@$(PY) -m build --outdir dist .

clean:
	rm -rf .venv build dist _proc *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
