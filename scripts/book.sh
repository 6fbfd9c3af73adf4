#!/usr/bin/env bash
# The Markdown pages of the repository as a book with a search, in target/book. The layout is the repository's, so the
# links between pages are the same in both. A link to a file that is not a page leads to the text of that file.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=tools.sh
source "$root/scripts/tools.sh"
cd "$root"

readonly staged=target/book-src
# The pages in the order of the book.
readonly guides="docs/guide/processes.md docs/guide/kubernetes.md docs/guide/operations.md docs/guide/backup.md docs/guide/sidecar.md docs/guide/import.md docs/limits.md docs/sizing.md docs/benchmarks.md"
readonly inside="ARCHITECTURE.md docs/design/product.md docs/design/node.md docs/checklist.md SECURITY.md CONTRIBUTING.md CHANGELOG.md e2e/kubernetes/README.md"

title() { sed -n 's/^# //p;T;q' "$1"; }
entry() { printf '%s- [%s](%s)\n' "${2:-}" "$(title "$1")" "$1"; }
entries() { for page in "$@"; do entry "$page"; done; }

# folder DIRECTORY: its README.md, and its other pages below it.
folder() {
  local index=$1/README.md page
  entry "$index"
  for page in "$1"/*.md; do [[ $page == "$index" ]] || entry "$page" "  "; done
}

summary() {
  printf '# Summary\n\n[HeliosDB](README.md)\n\n# Guides\n\n'
  # shellcheck disable=SC2086 # Word splitting is intended.
  entries $guides
  printf '\n# Reference\n\n'
  entries docs/reference/*.md
  folder docs/runbooks
  printf '\n# Inside\n\n'
  # shellcheck disable=SC2086
  entries $inside
  folder docs/adr
  entries bench/reports/*.md
}

rm -rf "$staged"
mkdir -p "$staged"
git ls-files -z '*.md' docs examples/kubernetes LICENSE | sort -zu | xargs -0 cp --parents --target-directory "$staged"
mv "$staged/docs/book.toml" "$staged/book.toml"
summary >"$staged/SUMMARY.md"
mdbook=$(cargo_tool mdbook 0.5.4 --no-default-features --features search)
"$mdbook" build --dest-dir "$root/target/book" "$staged"
say "target/book/index.html"
