#!/usr/bin/env bash
# Runs the linters, one after the other, and says which found something (make
# lint). Those written in Go are pinned by go.mod's tool lines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

passed=0 failed=0
# try NAME COMMAND...: what the command prints is what it found, but for the
# modules that Go fetches on a machine that has none yet.
try() {
	local name=$1 out status=0
	shift
	out=$("$@" 2>&1) || status=$?
	out=$(sed '/^go: downloading /d' <<<"$out")
	if ((status == 0)) && [[ ! $out ]]; then
		printf 'ok    %s\n' "$name"
		passed=$((passed + 1))
	else
		printf '%s\nFAIL  %s\n' "$out" "$name"
		failed=$((failed + 1))
	fi
}

# Every file that is or will be in the repository, but for those just deleted.
files() {
	git ls-files --cached --others --exclude-standard -- "$@" |
		while read -r f; do if [[ -f $f ]]; then printf '%s\n' "$f"; fi; done
}

unformatted() { files '*.go' | xargs gofmt -l; }

shell_scripts() {
	files | while read -r f; do
		case $f in
		*.sh) echo "$f" ;;
		*) if IFS= read -r first <"$f" 2>/dev/null && [[ $first =~ ^#!.*(bash|/sh) ]]; then echo "$f"; fi ;;
		esac
	done 2>/dev/null
}

check_shell() { shell_scripts | xargs shellcheck; }

# The rules of the house that no other linter knows: what may import what, a
# doc.go in each package, no test that is skipped.
house_rules() { go test -count=1 ./internal/rules >/dev/null || go test -count=1 ./internal/rules; }

if ! command -v shellcheck >/dev/null; then
	echo "installing shellcheck"
	.ci/install.sh shellcheck
fi
# What the checks below need, fetched where a network that is not there for a moment
# is tried again; what is wrong with it they say.
for pause in 0 5 15 30; do
	sleep "$pause"
	if go mod download 2>/dev/null && go tool -n staticcheck >/dev/null 2>&1; then break; fi
done
try gofmt unformatted
try "go mod tidy" go mod tidy -diff
try "go vet" go vet ./...
try staticcheck go tool staticcheck ./...
try shellcheck check_shell
try "house rules (internal/rules)" house_rules
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
