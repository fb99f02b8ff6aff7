# `make demo` and `make test` include the set-up; `make help` lists all targets.
#
# Needed: Python 3.10-3.13 (PYTHON=... to choose one), Java 17 or 21 (JAVA_HOME is honoured) and a package registry.

PYTHON ?=
bin := .venv/bin
python := $(bin)/python

# Spark listens on loopback only, and its Python workers run the interpreter of .venv.
export SPARK_LOCAL_IP := 127.0.0.1
export PYSPARK_PYTHON := $(CURDIR)/$(python)

# Settings of the user's own would replace the locked Spark and Python. Without byte code, every
# process of the tests compiles Spark's Python library again, which takes 2 s.
unexport SPARK_HOME SPARK_CONF_DIR SPARK_REMOTE HADOOP_CONF_DIR PYSPARK_SUBMIT_ARGS
unexport PYSPARK_DRIVER_PYTHON PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

.PHONY: setup jar lib wheel demo unit test test-long test-all golden-rewrite attack fuzz peer bank soak check format bench bench-rivals docs proto lock notebooks clean help java

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "make %-14s %s\n", $$1, $$2}'

setup: .venv/.package ## Create .venv from the locks (all other targets include this)

.venv/.stamp: requirements/build.txt requirements/uv.txt requirements/dev.txt requirements/setup.sh
	@PYTHON="$(PYTHON)" sh requirements/setup.sh
	@touch $@

# Runs again when the package's name, scripts or dependencies change; downloads nothing.
.venv/.package: .venv/.stamp pyproject.toml
	@$(python) -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
		--no-build-isolation --editable .
	@touch $@

java:
	@sh requirements/java.sh

jar: java setup ## Build the jar of the Spark source, which the wheel contains
	@$(python) jvm-shim/build.py

wheel: jar ## Build the package with its jar, into dist
	$(python) -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps \
		--no-build-isolation --wheel-dir dist .

demo: java setup ## Replicate a TiDB history and read it with Spark
	@$(python) -m demo

by_file := --dist loadfile --no-loadscope-reorder

# Three processes for two cores, since tests wait; one runs all tests of Spark first (tests/conftest.py).
side_by_side := -n 3 $(by_file)

# Files of unit tests are in memory if it has room: writing each commit to disk takes a third of their CPU time.
# So are those of make fuzz, which writes one for each input.
in_memory = $(if $(shell df -Pk /dev/shm 2>/dev/null | awk 'END {if ($$4 > 2000000) print $$4}'),TMPDIR=/dev/shm)

unit: setup ## Run the unit tests that need neither Java nor other processes
	$(in_memory) $(python) -m pytest -n 2 $(by_file) \
		-m "not slow and not long and not spark and not peer and not processes" \
		-o tmp_path_retention_policy=failed -o tmp_path_retention_count=1 tests/golden tests/unit

test: jar ## Run the tests, except those marked slow or long and those of `make check`
	$(python) -m pytest -m "not slow and not long" $(side_by_side) --ignore=tests/tidy

test-long: jar ## Run the tests marked long, which repeat for more inputs what shorter ones show
	$(python) -m pytest -m "long and not slow" $(side_by_side)

# Delta Lake replaces a session's own catalog, so its tests have a session of their own.
delta_tests = $(wildcard tests/*/test_spark_delta*.py)

test-all: jar ## Run all tests
	$(python) -m pytest $(addprefix --ignore=,$(delta_tests))
	$(python) -m pytest $(delta_tests)

golden-rewrite: setup ## Replace expected by actual output in the golden scripts
	@$(python) -m tests.golden.rewrite

# Number of inputs for each parser: make fuzz N=1000000
N := 100000

# Which attacks, and how long each lasts under load: make attack ATTACK="--only floods --seconds 20"
ATTACK :=

attack: setup ## Attack every listener, measuring other callers, memory and recovery
	$(python) -m tests.attack $(ATTACK)

fuzz: setup ## Feed mutated inputs to every parser
	$(in_memory) $(python) -m tests.fuzz --inputs $(N)

peer: setup ## Build a real TiDB for the tests (needs Go)
	@$(python) -m tests.peer.build

# Duration in minutes: make bank MINUTES=60
MINUTES := 10

bank: peer ## Compare a bank on a real TiDB with a learner of its regions
	$(python) -m tests.bank --minutes $(MINUTES)

# KIND=ddl, follow, histories, latches, queries, reorganize or where; duration and first seed: make soak MINUTES=60
# SEED=7. Only ddl, follow, reorganize and where need a TiDB, only queries needs the jar. FOLLOW_MODE=v6.5 and the like:
# tests/soak/follow.py.
KIND := ddl
SEED :=
soak_needs := $(if $(filter histories latches,$(KIND)),setup,$(if $(filter queries,$(KIND)),jar,jar peer))

soak: $(soak_needs) ## Compare random histories, queries or conditions with independent answers
	$(python) -m tests.soak --kind $(KIND) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lib: setup ## Build the C library into build/lib (needs a C compiler)
	@$(python) -m pyspark_theflash.cli.capi.build build/lib

check: setup ## Check format, lint, types, layers, generated code and tests/tidy, changing nothing
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/mypy
	$(bin)/lint-imports
	$(python) protos/generate.py --check
	$(python) -m pytest -q -p no:cacheprovider tests/tidy

format: setup ## Format the code and apply ruff's automatic fixes
	$(bin)/ruff check --fix
	$(bin)/ruff format

# Which benchmarks, and full sizes: make bench BENCH="spark tpch --full"
BENCH :=

bench: jar .venv/.bench ## Measure speed on this machine
	$(python) -m tests.benchmark $(BENCH)

# Full size: make bench-rivals BENCH=--full
bench-rivals: jar ## Compare with Delta and Iceberg, which are downloaded from Maven Central
	$(python) -m tests.benchmark.spark --beside delta,iceberg $(BENCH)

.venv/.bench: .venv/.stamp requirements/bench.txt
	@$(python) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--only-binary :all: -r requirements/bench.txt
	@touch $@

docs: setup .venv/.docs ## Build the documentation into build/site (Python 3.11 or later)
	@$(bin)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/site

.venv/.docs: .venv/.stamp requirements/docs.txt
	@$(python) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--only-binary :all: -r requirements/docs.txt
	@touch $@

proto: setup ## Generate the Python code of protos/
	$(python) protos/generate.py

# Existing pins are kept; to raise them: make lock UPGRADE=--upgrade
compile_lock := $(bin)/uv pip compile --universal --python-version 3.10 --generate-hashes \
	--system-certs --no-emit-index-url --no-header --no-annotate --quiet $(UPGRADE)

lock: setup ## Resolve the dependencies of pyproject.toml into requirements/*.txt
	$(compile_lock) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	$(compile_lock) --group build --constraints requirements/dev.txt --output-file requirements/build.txt
	$(compile_lock) --group uv --output-file requirements/uv.txt
	$(compile_lock) --group bench --output-file requirements/bench.txt
	$(compile_lock) --group docs --constraints requirements/dev.txt --output-file requirements/docs.txt
	$(compile_lock) --group iceberg --output-file requirements/iceberg.txt

notebooks: java setup ## Run the notebooks and save their output in them
	$(bin)/jupyter-execute --inplace notebooks/*.ipynb

clean: ## Remove everything that make created
	rm -rf .venv build dist artifacts pyspark_theflash/jars target project/target project/project jvm-shim/target
	rm -rf metastore_db spark-warehouse derby.log
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
