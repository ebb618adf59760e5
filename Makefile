# Two commands for a new checkout: `make demo` and `make test`. Both install what is missing, build, and go.
PRESET ?= cpu-release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

.PHONY: help setup build demo test cuda-check unit-test oracle-test integration-test deploy-test image-test lint tidy format sanitize fuzz bench eval clean
.DEFAULT_GOAL := help

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: ## Install Debian packages, libtorch and the demo model (the last two into .cache/)
	@tools/setup.sh

build: setup ## Build server, client, tests and tools (PRESET=cpu-release)
	@tools/build.sh $(PRESET) $(JOBS)

demo: build ## One long prompt with the full cache and with KVCrush at 25 %, side by side
	@KVCRUSH_BUILD_DIR=$(BUILD) tools/demo.sh

test: ## Set up, build, lint and run every test
	@tools/setup.sh --with-tests
	@tools/build.sh $(PRESET) $(JOBS)
	@$(MAKE) --no-print-directory lint cuda-check unit-test oracle-test integration-test deploy-test

unit-test: ## C++ tests (CTest + GoogleTest)
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --timeout 900 --parallel $(JOBS)

oracle-test: ## Tokenizer, loader, chat templates and KVCrush against independent Python; eval and bench scripts; the Python client
	@KVCRUSH_BUILD_DIR=$(BUILD) .cache/venv/bin/python -m pytest -q tests/oracle tests/eval tests/bench/peers tests/unit/client

integration-test: ## The real server with the real model over real gRPC
	@KVCRUSH_BUILD_DIR=$(BUILD) .cache/venv/bin/python -m pytest -q tests/integration

deploy-test: ## Kubernetes and Compose files: valid, confined, in step with the server; versions; the API only grows
	@KVCRUSH_BUILD_DIR=$(BUILD) .cache/venv/bin/python -m pytest -q tests/deploy

image-test: ## Build the container image, run it locked down and as a pod (podman; compiles everything)
	@tests/deploy/image.sh
	@tests/deploy/pod.sh

lint: ## Formatting, link rules, Dockerfile
	@tools/lint.sh

cuda-check: ## CUDA kernels for every architecture: they compile, spill nothing, and take no more registers than recorded (wants nvcc)
	@tools/check_cuda.py --jobs $(JOBS)

tidy: build ## clang-tidy over the whole project (takes a while)
	@tools/tidy.sh $(BUILD)

format: ## Rewrite C++ sources with clang-format
	@git ls-files -co --exclude-standard '*.h' '*.cpp' '*.inc' '*.cu' '*.cuh' | xargs clang-format -i

sanitize: ## Unit and integration tests under ASan+UBSan, then TSan
	@tools/sanitize.sh asan-ubsan
	@tools/sanitize.sh tsan

FUZZ_SECONDS ?= 600
fuzz: setup ## Fuzz whatever reads files or requests (FUZZ_SECONDS per target, default 600; TARGETS="gguf text ...")
	@tests/fuzz/run.sh $(FUZZ_SECONDS) $(TARGETS)

bench: build ## Micro-benchmarks
	@for program in $(BUILD)/tests/bench/*_bench; do echo "== $$program"; "$$program"; done

eval: ## Accuracy on a running server: make eval DATA=DIR [SERVER=host:port] [EVAL="--tasks ... --variants ..."]
	@tools/setup.sh --with-tests
	@[ -n "$(DATA)" ] || { echo "usage: make eval DATA=DIR   (what DIR holds: tests/eval/README.md)" >&2; exit 2; }
	@.cache/venv/bin/python tests/eval/run.py all --data "$(DATA)" --server "$(or $(SERVER),127.0.0.1:50051)" $(EVAL)

clean: ## Remove build folders (the cache of downloads stays)
	rm -rf build
