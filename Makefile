# zvhost's targets; "make help" lists them. What a target does is in the scripts
# it calls, so that they can be run by hand too.

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
# How long each fuzz target searches, in make fuzz and make robust: FUZZTIME=10m
FUZZTIME ?= 2m
# How often make robust kills the daemon and cuts the power (on each file system),
# and with which seed (0: another one)
ROUNDS  ?= 1000
# How often it kills the daemon under a keeper, where the guest must notice nothing
KILLS   ?= 2000
CUTS    ?= 32
SEED    ?= 0
# What make bench-compare is told: -only, -pairs, -runtime, ... (-help lists them)
COMPARE ?=
# How many times 100 random disks it holds against a model of the specification
DISKS   ?= 50

# The clone may be another user's, as with sudo: git wants to be told that this is meant.
VERSION := $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo unknown)

# systemd reads units from /etc, /usr/local/lib and /usr/lib; sysusers, tmpfiles
# and QEMU's back-end manifests have the same prefixes.
BINDIR     = $(PREFIX)/bin
UNITDIR    = $(PREFIX)/lib/systemd/system
SYSUSERS   = $(PREFIX)/lib/sysusers.d
TMPFILES   = $(PREFIX)/lib/tmpfiles.d
DOCDIR     = $(PREFIX)/share/doc/zvhost
# Only /usr/share and /etc are searched for these (QEMU, vhost-user.json).
MANIFEST   = $(if $(filter /usr,$(PREFIX)),/usr/share,/etc)/qemu/vhost-user
CONFDIR    = /etc/zvhost

INSTALLED = $(BINDIR)/zvhost \
	$(UNITDIR)/zvhost@.service $(UNITDIR)/zvhost@.socket \
	$(SYSUSERS)/zvhost.conf $(TMPFILES)/zvhost.conf $(MANIFEST)/50-zvhost.json \
	$(DOCDIR)/README.md $(DOCDIR)/example.conf $(DOCDIR)/LICENSE

.DEFAULT_GOAL := help
.PHONY: help build demo test lint fuzz race robust vm-test drives bench bench-compare bench-drives install uninstall clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./bin/zvhost, static
	@command -v $(GO) >/dev/null || { echo 'make: $(GO) is not in PATH: install Go (the version in go.mod or newer), or say where it is: make GO=/usr/local/go/bin/go' >&2; exit 1; }
	@[ -e bin/zvhost ] || echo 'building bin/zvhost; the first time Go compiles everything, which takes some 20 s'
	@CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/zvhost ./cmd/zvhost
	@echo 'bin/zvhost $(VERSION)'

demo: build ## show a virtual machine use a zoned disk (fetches what that needs)
	@integration/demo.sh

test: ## everything: lint, Go tests with the race detector, packaging, virtual machines
	@.ci/test.sh

lint: ## gofmt, go vet, staticcheck, shellcheck, the house rules
	@.ci/lint.sh

race: ## the Go tests with the race detector
	@.ci/gotest.sh

fuzz: ## search with every fuzz target for FUZZTIME (2m) each
	@FUZZTIME=$(FUZZTIME) .ci/fuzz.sh

robust: build ## kill the daemon ROUNDS (1000) times under load, KILLS (2000) times under a keeper and as often under a front-end that connects anew, cut the power 2*CUTS (64) times, and 50000 times in a simulation; 5000 random lives of an image against a model; SEED=n takes the same disks, requests and instants; then DISKS (50) times 100 random disks; XFS in a guest; every fuzz target for FUZZTIME (2m)
	$(GO) test ./integration/crash -run '^TestKill$$' -count=1 -timeout 2h -v -args -rounds=$(ROUNDS) -seed=$(SEED)
	$(GO) test ./integration/crash -run '^TestKill(UnderKeeper|AndReconnect)$$' -count=1 -timeout 2h -v -args -kills=$(KILLS) -reconnects=$(KILLS) -seed=$(SEED)
	integration/powercut.sh $(CUTS) $(SEED)
	integration/guests/xfs.sh
	$(GO) test ./backend -run '^TestPowerCuts$$' -count=1 -timeout 2h -v -args -powercuts=50000 -powerseed=$(SEED)
	$(GO) test ./backend -run '^TestAgainstModel$$' -count=1 -timeout 2h -v -args -modelrounds=50
	$(GO) test ./integration/suite -run '^TestRandom$$' -count=1 -timeout 2h -v -args -rounds=$(DISKS)
	FUZZTIME=$(FUZZTIME) .ci/fuzz.sh

vm-test: build ## real guests under QEMU (integration/qemu_test.sh, integration/guests and integration/writeback.sh)
	@integration/qemu_test.sh
	@integration/guests/geometries.sh
	@integration/guests/small.sh
	@integration/guests/vfio.sh
	@integration/guests/faults.sh
	@integration/guests/vduse.sh
	@integration/guests/migrate.sh
	@integration/guests/xfs.sh
	@integration/guests/restart.sh
	@$(GO) run ./integration/guests/frontends
	@integration/guests/systemd.sh
	@integration/writeback.sh

drives: ## zvhost serves null_blk, dm-linear, NVMe and SMR drives and itself, some of which fail, in a guest that plays the host (integration/drives.sh)
	@integration/drives.sh

bench: ## the Go benchmarks, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-compare: build ## zvhost and qemu-storage-daemon in turn, 20 minutes; writes docs/performance.md (COMPARE=-help)
	@$(GO) run ./bench/compare $(COMPARE)

bench-drives: ## appends into a slow zoned drive, beside a build with one lock over it, in a guest (bench/drives.sh)
	@bench/drives.sh

# What was built is installed as it is: root often has no Go in its PATH (sudo).
bin/zvhost:
	@$(MAKE) --no-print-directory build

install: bin/zvhost ## install what "make build" has built into PREFIX (/usr/local), below DESTDIR if given
	install -D -m 755 bin/zvhost $(DESTDIR)$(BINDIR)/zvhost
	install -d -m 755 $(DESTDIR)$(CONFDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(MANIFEST)
	sed 's,/usr/bin/zvhost,$(BINDIR)/zvhost,' packaging/systemd/zvhost@.service >$(DESTDIR)$(UNITDIR)/zvhost@.service
	sed 's,/usr/bin/zvhost,$(BINDIR)/zvhost,' packaging/vhost-user/50-zvhost.json >$(DESTDIR)$(MANIFEST)/50-zvhost.json
	chmod 644 $(DESTDIR)$(UNITDIR)/zvhost@.service $(DESTDIR)$(MANIFEST)/50-zvhost.json
	install -D -m 644 packaging/systemd/zvhost@.socket $(DESTDIR)$(UNITDIR)/zvhost@.socket
	install -D -m 644 packaging/systemd/sysusers.conf $(DESTDIR)$(SYSUSERS)/zvhost.conf
	install -D -m 644 packaging/systemd/tmpfiles.conf $(DESTDIR)$(TMPFILES)/zvhost.conf
	install -D -m 644 packaging/systemd/example.conf $(DESTDIR)$(DOCDIR)/example.conf
	install -D -m 644 packaging/README.md $(DESTDIR)$(DOCDIR)/README.md
	install -D -m 644 LICENSE $(DESTDIR)$(DOCDIR)/LICENSE

uninstall: ## remove what install put there; images and settings stay
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	rmdir --ignore-fail-on-non-empty $(DESTDIR)$(DOCDIR) $(DESTDIR)$(CONFDIR) 2>/dev/null || true

clean: ## remove what was built (the VM cache stays: ~/.cache/zvhost)
	rm -rf bin
