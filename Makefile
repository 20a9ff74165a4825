# `make help` lists the targets.

SERVERS := 10 12 13 15 17 18 19

# Where the servers live: .postgres, unless the user that runs them could not enter it.
POSTGRES_DIR := $(shell scripts/postgres-dir)
export POSTGRES_DIR

# Most of a test's time is spent in its servers; more than two packages at once only slow each other down.
# `make test ARGS='-v -run Name'` adds to the flags.
TESTFLAGS ?= -count=1 -timeout 40m -p 2 -parallel 4

# -short leaves out what needs servers (pgtest.NeedServers) or minutes; what has not changed is not run again.
UNITFLAGS ?= -short -vet=off

# How long each fuzz target runs.
FUZZTIME ?= 30s

STATICCHECK := go tool -modfile=tools/go.mod staticcheck

.DEFAULT_GOAL := help
.PHONY: help build demo test test-unit race fuzz bench bench-copy bench-large lint fmt clean fetch fetch-bench

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1	\2/p' Makefile | expand -t 20

build: ## bin/pgbaton
	go build -o bin/pgbaton ./cmd/pgbaton

demo: build ## the whole story on throw-away servers: a shop under load moves from 12 to 15, back, and there again
	scripts/fetch-postgres 12 15 pgbouncer
	bin/pgbaton demo

test: fetch ## all tests, on real servers
	go test $(TESTFLAGS) $(ARGS) ./...

test-unit: ## the tests that need no servers, in seconds: for the inner loop
	go test $(UNITFLAGS) $(ARGS) ./...

race: ## the tests that need no servers, under the race detector
	go test $(UNITFLAGS) -race $(ARGS) ./...

fuzz: ## each fuzz target for FUZZTIME (30s)
	@set -e; grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z]+' bench cmd internal | while IFS=: read -r file name; do \
		echo "$${name#func }"; \
		go test -run '^$$' -fuzz "^$${name#func }$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x -parallel 2 "./$${file%/*}"; \
	done

bench: fetch build ## measurements; the results go to bench-out/
	go run ./bench

# `make bench-copy BENCHFLAGS='--scale 0.1 --runs 3 --databases mixed'` is one to try out.
bench-copy: fetch fetch-bench build ## the initial copy beside other tools; takes hours
	go run ./bench $(BENCHFLAGS) copy

bench-large: fetch build ## a transaction of 5 million rows right before a switchover; `BENCHFLAGS='--large-rows 200000'` is one to try out
	go run ./bench $(BENCHFLAGS) large

fetch: ## the servers and PgBouncer that tests need, into POSTGRES_DIR
	scripts/fetch-postgres $(SERVERS) pgbouncer

fetch-bench: ## the tools that bench-copy compares with
	scripts/fetch-postgres pgcopydb

lint: ## gofmt, go vet, staticcheck, imports run downwards only, no test is skipped
	@files=$$(gofmt -l $$(find . -name .postgres -prune -o -name '*.go' -print)); \
	if [ -n "$$files" ]; then echo "not formatted (make fmt):"; echo "$$files"; exit 1; fi
	go vet ./...
	$(STATICCHECK) ./...
	go test ./internal

fmt: ## format all Go files
	gofmt -w $$(find . -name .postgres -prune -o -name '*.go' -print)

clean: ## remove what was built; the servers in POSTGRES_DIR stay
	rm -rf bin bench-out
