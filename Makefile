# kvd: build, run, test. `make help` lists the targets.

GO      ?= go
BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

# A member for trying things out, all of it below this directory.
RUN_DIR := run
CLIENT  := http://127.0.0.1:2379
PEER    := http://127.0.0.1:2380

.DEFAULT_GOAL := build

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: build
build: ## build kvd and kvctl into bin/
	$(BUILD) -o $(BIN)/ ./cmd/...

.PHONY: run
run: build ## run one member on loopback, data under run/
	@printf '\nOne member serves at $(CLIENT). In another terminal:\n\n'
	@printf '  $(BIN)/kvctl put greeting hello\n  $(BIN)/kvctl get greeting\n  $(BIN)/kvctl watch --prefix g\n  curl $(CLIENT)/health\n\n'
	@printf 'Its data is in $(RUN_DIR)/data; Ctrl-C stops it.\n\n'
	@mkdir -p $(RUN_DIR)
	$(BIN)/kvd --config-file= --name=local --data-dir=$(RUN_DIR)/data \
		--listen-client-urls=$(CLIENT) --advertise-client-urls=$(CLIENT) \
		--listen-peer-urls=$(PEER) --initial-advertise-peer-urls=$(PEER)

.PHONY: test
test: ## unit tests with assertions on, then the tests against etcd
	$(GO) vet ./...
	$(GO) test -tags invariants ./...
	$(MAKE) compat

.PHONY: compat
compat: build ## differential and interchange tests against etcd 3.7.3
	cd test && $(GO) vet ./... && $(GO) test -count=1 -timeout 20m ./...

.PHONY: race
race: ## unit tests under the race detector
	$(GO) test -race ./...

.PHONY: stress
stress: ## PKG=./internal/x: its tests a hundred times under the race detector
	$(GO) test -race -count=100 -failfast $(PKG)

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(or $(FUZZTIME),10s) $$pkg || exit 1; \
		done; \
	done

.PHONY: lint
lint: ## golangci-lint, as CI runs it
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

.PHONY: generate
generate: ## write the files that come from code: sample configuration, reference
	$(GO) generate ./...

.PHONY: bench
bench: build ## measure kvd and etcd side by side; see test/bench
	cd test && $(GO) run ./bench -kvd ../$(BIN)/kvd $(BENCHFLAGS)

.PHONY: check
check: ## all that CI requires
	.ci/run

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) dist
