# kvd: build, run, test. "make help" lists the targets.

GO      ?= go
BIN     := bin
VERSION ?= $(shell cat VERSION)
COMMIT  ?= $(or $(shell git rev-parse --short=12 HEAD 2>/dev/null),unknown)
DIST    ?= dist
ARCHES  ?= amd64 arm64
ARCH    ?= $(shell $(GO) env GOARCH)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
# Version and commit are written above: Go need not ask git, which refuses where
# the tree belongs to somebody else.
BUILD   := $(GO) build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)'

# A member for trying things out, all of it below this directory.
RUN_DIR := run
CLIENT  := http://127.0.0.1:2379
PEER    := http://127.0.0.1:2380

# What "make test" skips where it cannot have Debian's client of etcd 3.4.
ETCDCTL34 := test/.cache/bin/etcdctl-3.4

# etcd's programs as test/oracle keeps them. Where they are built, the unit
# tests that hold ours beside etcd's run, too.
ORACLE  := $(addprefix test/.cache/bin/,etcd-3.7.3 etcdctl-3.7.3 etcdutl-3.7.3)
BESIDE   = $(foreach b,$(shell ls $(abspath $(ORACLE)) 2>/dev/null),KVD_TEST_$(shell echo $(notdir $(b:-3.7.3=)) | tr a-z A-Z)=$(b))

.DEFAULT_GOAL := build

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: build
build: ## build kvd and kvctl into bin/
	CGO_ENABLED=0 GOARCH=$(ARCH) $(BUILD) -o $(BIN)/ ./cmd/...

.PHONY: run
run: build ## run one member on loopback, data under run/
	@printf '\nOne member serves at $(CLIENT). In another terminal:\n\n'
	@printf '  $(BIN)/kvctl put greeting hello\n  $(BIN)/kvctl get greeting\n  $(BIN)/kvctl watch --prefix g\n  curl $(CLIENT)/health\n\n'
	@printf 'Its data is in $(RUN_DIR)/data; Ctrl-C stops it.\n\n'
	@mkdir -p $(RUN_DIR)
	$(BIN)/kvd --config-file= --name=local --data-dir=$(RUN_DIR)/data \
		--listen-client-urls=$(CLIENT) --advertise-client-urls=$(CLIENT) \
		--listen-peer-urls=$(PEER) --initial-advertise-peer-urls=$(PEER)

.PHONY: cluster
cluster: build ## run three members on loopback, data under run/
	@BIN=$(BIN) DIR=$(RUN_DIR) tools/cluster 3

.PHONY: test
test: oracle unit compat ## all tests: ours, then those against etcd

.PHONY: unit
unit: ## unit tests with assertions on
	$(GO) vet ./...
	$(BESIDE) $(GO) test -tags invariants ./...

.PHONY: oracle
oracle: $(ORACLE) ## build etcd 3.7.3 with its tools, which "make unit" then compares with, too

test/.cache/bin/etcd-3.7.3:    PACKAGE := server
test/.cache/bin/etcdctl-3.7.3: PACKAGE := etcdctl
test/.cache/bin/etcdutl-3.7.3: PACKAGE := etcdutl
$(ORACLE):
	@mkdir -p $(@D)
	cd test && $(GO) build -buildvcs=false -o .cache/bin/$(@F).make go.etcd.io/etcd/$(PACKAGE)/v3
	@mv $@.make $@

.PHONY: compat
compat: build etcdctl34 promtool ## differential, interchange and crash tests, with etcd 3.7.3
	cd test && $(GO) vet ./... && KVD_TEST_SKIP_DEBIAN=$$(test -x .cache/bin/etcdctl-3.4 || echo 1) \
		$(GO) test -count=1 -timeout 30m ./...
	$(MAKE) compat-proxy

# What a member says of itself (its pages, metrics, files, peers, TLS) is not
# looked for behind a proxy.
THROUGH := EveryAnswerIsEtcds|EtcdctlSees|KvctlWrites|KvctlTells|EveryCallIs|TokensAreFound|TokensPass|TestClients|^TestNamespaces \
	AMirrorFollows|AMirrorOf|MirrorsAre|OlderAnswer|ClaimsNeed|ElectionAndLock|ALockHolds|AnObserver|AWaiter|WaitersLeave|ExpiredLease|KeepAliveKeeps|Progress \
	SlowWatcher|AWebsocket|QuotaIsHeld|HealthService|WatchOutlives|LargeRevision|ManyKeys|RangeStreamWith|SnapshotStream \
	TheGatewayObeys|OnlyListedHosts|NoCallIs
# Where neither revisions nor leases are counted: a proxy that leases has its own.
LEASED := TestClients KvctlWrites ClaimsNeed ElectionAndLock ALockHolds AWaiter
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)

.PHONY: compat-proxy
compat-proxy: etcdctl34 ## the tests of the API once more, unchanged, with a proxy before each member of kvd
	cd test && KVD_TEST_PROXY=1 KVD_COMPAT_OPS=3000 KVD_TEST_SKIP_DEBIAN=$$(test -x .cache/bin/etcdctl-3.4 || echo 1) \
		$(GO) test -count=1 -timeout 10m ./compat -run '$(subst $(SPACE),|,$(strip $(THROUGH)))'

.PHONY: compat-proxy-kept
compat-proxy-kept: oracle build ## the same with proxies that keep answers, and with those that keep keys
	cd test && KVD_TEST_PROXY=1 KVD_TEST_PROXY_ARGS=--proxy-cache-bytes=16MiB KVD_COMPAT_OPS=3000 KVD_TEST_SKIP_DEBIAN=1 \
		$(GO) test -count=1 -timeout 10m ./compat -run '$(subst $(SPACE),|,$(strip $(THROUGH)))'
	cd test && KVD_TEST_PROXY=1 KVD_TEST_PROXY_ARGS=--proxy-leasing-prefix=leased-below/ KVD_TEST_SKIP_DEBIAN=1 \
		$(GO) test -count=1 -timeout 10m ./compat -run '$(subst $(SPACE),|,$(strip $(LEASED)))'

# The client that Debian 12 packages, taken out of its package; nothing is installed.
.PHONY: etcdctl34
etcdctl34:
	@test -x $(ETCDCTL34) || test/etcdctl34 $(ETCDCTL34) 2>/dev/null || \
		echo 'etcd 3.4'"'"'s client cannot be had here; the session with it is skipped'

# The checker of Prometheus, in the same way.
.PHONY: promtool
promtool:
	@test -x test/.cache/bin/promtool || test/promtool test/.cache/bin/promtool 2>/dev/null || \
		echo 'promtool cannot be had here; the shipped alerts are not checked'

.PHONY: race
race: ## unit tests under the race detector
	$(GO) test -race ./...

.PHONY: stress
stress: ## PKG=./internal/x: its tests a hundred times under the race detector
	$(GO) test -race -count=100 -failfast $(PKG)

# A run owns all randomness of its process, so more of them take more processes.
.PHONY: sim
sim: ## SEEDS=n (200) simulated clusters, from SEED (0) on
	@seeds=$(or $(SEEDS),200); from=$(or $(SEED),0); half=$$(( (seeds + 1) / 2 )); \
	$(GO) test -c -o $(BIN)/sim.test ./internal/sim && status=0; cd internal/sim; \
	../../$(BIN)/sim.test -test.run EveryRun -test.v -sim.seeds $$half -sim.seed $$from & first=$$!; \
	[ $$seeds -eq $$half ] || ../../$(BIN)/sim.test -test.run EveryRun -test.v -sim.seeds $$((seeds - half)) -sim.seed $$((from + half)) || status=1; \
	wait $$first || status=1; exit $$status

# Counted, not timed: go test may call a run that reaches its time in mid-input a
# failure ("context deadline exceeded").
.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (5000x) inputs, those that open files for FUZZFILES (300x)
	@for pkg in $$($(GO) list ./...); do \
		case $$pkg in */offline) count=$(or $(FUZZFILES),300x);; *) count=$(or $(FUZZTIME),5000x);; esac; \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $$count $$pkg || exit 1; \
		done; \
	done

.PHONY: soak
soak: ## faults at random on a cluster of five for SOAK (10m), judged every minute; needs root
	cd test && KVD_ROBUST_SOAK=$(or $(SOAK),10m) $(GO) test -count=1 -timeout 24h -v -run '^TestSoak$$' ./robust

.PHONY: lint
lint: ## golangci-lint, as CI runs it, in both modules
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...
	cd test && $(GO) tool -modfile=../tools/go.mod golangci-lint run ./...

.PHONY: generate
generate: ## write the files that come from code: sample configuration, reference
	$(GO) generate ./...

.PHONY: package
package: export VERSION := $(VERSION)
package: export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
package: HOST := $(shell $(GO) env GOHOSTARCH)
package: ## deb and rpm of each of ARCHES (amd64 arm64) into DIST (dist); VERSION=x.y.z for another version
	@mkdir -p $(DIST) && rm -f $(DIST)/kvd[_-]*.deb $(DIST)/kvd[_-]*.rpm
	@set -e; for arch in $(sort $(ARCHES) $(HOST)); do \
		(set -x; CGO_ENABLED=0 GOARCH=$$arch $(BUILD) -buildmode=pie -o $(DIST)/$$arch/ ./cmd/...); \
	done
	packaging/assemble $(DIST)/$(HOST) $(DIST)/made
	@set -e; for arch in $(ARCHES); do for kind in deb rpm; do \
		ARCH=$$arch DIST=$(DIST) $(GO) tool -modfile=tools/nfpm/go.mod nfpm package --config $(DIST)/made/nfpm.yaml --packager $$kind --target $(DIST)/; \
	done; done

.PHONY: package-again
package-again: export VERSION := $(VERSION)
package-again: export COMMIT := $(COMMIT)
package-again: export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
package-again: export ARCHES := $(ARCHES)
package-again: ## build what "make package" has built once more, elsewhere: the same bytes
	packaging/again $(DIST)

.PHONY: test-system
test-system: ## install the packages on booted Debians and use them there; needs root, debootstrap, systemd-nspawn
	$(MAKE) package ARCHES=$(ARCH) DIST=$(DIST)/previous VERSION=0.0.1
	$(MAKE) package ARCHES=$(ARCH) DIST=$(DIST)/system
	cd test && KVD_TEST_PACKAGES=$(abspath $(DIST)) $(GO) test -count=1 -timeout 20m ./system

.PHONY: test-packages
test-packages: package ## what the packages' scripts do, interrupted ones too; needs root
	cd test && KVD_TEST_PACKAGES=$(abspath $(DIST)) $(GO) test -count=1 -timeout 30m ./packages

.PHONY: bench
bench: build ## measure kvd and etcd side by side; see test/bench
	cd test && $(GO) build -o .cache/bin/etcd-for-bench go.etcd.io/etcd/server/v3 && \
		$(GO) run ./bench -etcd .cache/bin/etcd-for-bench -kvd ../$(BIN)/kvd -out .cache/results.json $(BENCHFLAGS)

.PHONY: check
check: ## all that CI requires
	bash .ci/run

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) $(DIST)
