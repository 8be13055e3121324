# forkptyrouter: `make help` says what there is.

SHELL = /bin/sh
.DEFAULT_GOAL = build
MAKEFLAGS += --no-print-directory

# The server to build for; empty: uwsgi on PATH, else one from PyPI.
UWSGI ?=
# The servers to test with: quick or full; and one more: UWSGI_DEV=/path/to/uwsgi.
MATRIX ?= quick
# Where `make install` puts fpty and the documentation.
PREFIX ?= /usr/local
DESTDIR ?=
# The folder of the plugins; empty: the one that the server looks into.
PLUGINDIR ?=
# Arguments for `make bench`: --quick, --unconfined, --rounds N, --only NAME.
BENCH ?=
# Seconds for each fuzzer, and which ones: FUZZ='600 handshake'.
FUZZ ?=
# 1: install over files that belong to a Debian package.
FORCE ?=

export PREFIX DESTDIR PLUGINDIR FORCE
# For what tools/ runs, not for uWSGI's own builds.
unexport MATRIX FUZZ

PRODUCTS = forkptyrouter_plugin.so libforkptyrouter.so libforkptyrouter.so_plugin.so pty_plugin.so fpty

.PHONY: build fpty fpty-static run test bench soak fuzz lint check-make check-build-ways install uninstall clean help

build: ## build the plugins (UWSGI=/path/to/uwsgi: for that server) and fpty
	@tools/setup build
	@server=$$(tools/default-server '$(UWSGI)') && \
	echo "forkptyrouter: building for $$server ($$("$$server" --version))" && \
	tools/build "$$server" . && \
	tools/build-command . && \
	mkdir -p target && printf '%s' "$$server" >target/built-for && \
	echo 'forkptyrouter: forkptyrouter_plugin.so, pty_plugin.so and fpty are ready'

fpty: ## build fpty alone, for a host without uWSGI
	@tools/setup command
	@tools/build-command .
	@echo 'forkptyrouter: fpty is ready'

fpty-static: ## build fpty without any library, where Rust can
	@tools/build-static

run: build ## start a server with the plugin, and a shell in it
	@tools/run "$$(cat target/built-for)"

test: ## run all tests with several servers (MATRIX=full: with more), and the checks below
	@tools/test '$(MATRIX)'

bench: ## measure, side by side with the C plugins
	@tools/setup bench
	@benches/run $(BENCH)

soak: ## the tests that take long, and the fuzzers
	@tools/test '$(MATRIX)' -- --ignored soak
	@tools/fuzz

fuzz: ## the fuzzers, FUZZ=60 seconds each
	@tools/fuzz $(FUZZ)

lint: ## format, clippy, the scripts, and what we depend on (ADVISORY_DB=CLONE)
	@tools/setup lint
	@tools/lint '$(UWSGI)'

check-make: ## what a person types, and is told when something is missing
	@tools/check-make

check-build-ways: ## build by uWSGI's own build system, in all ways
	@tools/setup tests
	@tools/servers '$(MATRIX)'
	@tools/check-build-ways target/servers/*/uwsgi

install: ## plugins and fpty, with man page and completions (DESTDIR, PREFIX, ...)
	@tools/install install '$(UWSGI)'

uninstall: ## take it away again
	@tools/install uninstall '$(UWSGI)'

clean: ## remove what was built, PyPI's servers too
	@rm -rf target $(PRODUCTS)

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 24
