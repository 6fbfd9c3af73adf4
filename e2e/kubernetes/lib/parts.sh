# shellcheck shell=bash
# The cluster's programs, built from source through the Go module proxy and kept outside of the clone.

readonly kubernetes_version=1.34.4 helm_version=4.3.1

# A digest of the sources of the programs; the same sources are never built twice on a machine.
parts_key() {
  {
    GOTOOLCHAIN=local go env GOVERSION
    echo "$kubernetes_version $helm_version $pause_image"
    cd "$kubernetes_dir" && find kube coredns -type f | sort | xargs sha256sum
  } | sha256sum | cut -c1-12
}

parts_path() { echo "$cache_root/kubernetes/$(parts_key)"; }

# Sets `parts`, the directory with kube, kubectl, coredns, helm and pause.tar; builds it when it is missing.
parts_ensure() {
  parts=$(parts_path)
  [[ -d $parts ]] && return
  mkdir -p "$cache_root/kubernetes"
  (
    flock 8
    [[ -d $parts ]] || step "building Kubernetes $kubernetes_version, CoreDNS and Helm (about 10 minutes, once on this machine)" parts_build
  ) 8>"$cache_root/kubernetes/lock"
}

parts_build() {
  local building="$parts.building" component=k8s.io/component-base/version
  rm -rf "$building"
  mkdir -p "$building"
  export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" GOTOOLCHAIN=local
  step "Kubernetes and etcd" go_build kube . "$building/kube" \
    "-s -w -X $component.gitVersion=v$kubernetes_version -X $component.gitMajor=1 -X $component.gitMinor=34"
  step "CoreDNS" go_build coredns . "$building/coredns" "-s -w"
  step "Helm" env GOBIN="$building" go install -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@v$helm_version"
  go_build kube ./pause "$building/rootfs/pause" "-s -w"
  image_build "$building/rootfs" pause "$pause_image" "docker-archive:$building/pause.tar:$pause_image"
  # shellcheck disable=SC2016 # Expanded when it runs.
  printf '#!/bin/sh\nexec "$(dirname "$0")/kube" kubectl "$@"\n' >"$building/kubectl"
  chmod +x "$building/kubectl"
  mv "$building" "$parts"
  # Other clones may still use an older set of programs; sets this old are unused.
  find "$cache_root/kubernetes" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} +
}

# go_build MODULE PACKAGE OUTPUT LDFLAGS
go_build() { go -C "$kubernetes_dir/$1" build -ldflags "$4" -o "$3" "$2"; }
