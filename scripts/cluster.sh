# shellcheck shell=bash
# Selects the cluster that a script works on: the one that KUBECONFIG names, or else the local one. Source it after lib.sh.

readonly local_cluster="$root/e2e/kubernetes/cluster.sh"

# Sets KUBECONFIG, and PATH so that kubectl and helm are found; starts the local cluster if it is the one to use.
use_cluster() {
  if cluster_is_foreign; then
    local program
    for program in kubectl helm redis-cli buildah; do
      command -v "$program" >/dev/null || die "working on the cluster of KUBECONFIG needs $program; unset KUBECONFIG to use a local cluster that brings its own"
    done
    kubectl version &>/dev/null || die "the cluster of KUBECONFIG=$KUBECONFIG does not answer; unset KUBECONFIG to use a local one"
    "$root/e2e/kubernetes/images.sh" --check
    say "using the cluster of KUBECONFIG=$KUBECONFIG"
  else
    "$local_cluster" up
    PATH="$("$local_cluster" path):$PATH"
    export PATH KUBECONFIG="$local_kubeconfig"
  fi
}

# Prints the state of the cluster after a failure: pods, events, HeliosClusters, logs.
diagnose() {
  say "--- pods, volumes, clusters"
  kubectl get pods,pvc --all-namespaces --output wide >&2 || true
  kubectl get hc --all-namespaces >&2 || true
  say "--- events"
  kubectl get events --all-namespaces --field-selector involvedObject.kind!=Node --sort-by .lastTimestamp 2>/dev/null | tail -n 60 >&2 || true
  say "--- HeliosClusters"
  kubectl get hc --all-namespaces --output yaml >&2 || true
  kubectl get pods --all-namespaces --no-headers --output custom-columns=:.metadata.namespace,:.metadata.name |
    head -n 30 | while read -r namespace pod; do
    say "--- log of $namespace/$pod"
    kubectl logs --namespace "$namespace" "$pod" --all-containers --tail 120 >&2 || true
  done
}
