#!/usr/bin/env bash
# Installs the operator and a HeliosCluster, writes a key and reads it back, on the local Kubernetes or on the one that
# KUBECONFIG names. A second run changes only what differs.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=cluster.sh
source "$root/scripts/cluster.sh"

install_operator() {
  helm upgrade --install helios-operator "$root/helm/helios-operator" --namespace helios-system --create-namespace --wait --timeout 3m \
    --set image.repository="${HELIOS_OPERATOR_IMAGE%:*}" --set image.tag="${HELIOS_OPERATOR_IMAGE##*:}" \
    --set nodeImage.repository="${HELIOS_NODE_IMAGE%:*}" --set nodeImage.tag="${HELIOS_NODE_IMAGE##*:}" >/dev/null
}

start_demo() {
  kubectl apply --filename "$root/examples/kubernetes/demo.yaml" >&2
  kubectl wait --for=condition=Ready hc/demo --timeout=180s >&2
}

# Sets `client`, a redis-cli that reaches the Service `demo`, and `reach`, the command that a user has to start for that.
find_client() {
  client=(timeout 5 redis-cli -h "$(kubectl get service demo --output 'jsonpath={.spec.clusterIP}')" -p 6379) reach=
  cluster_is_foreign || return 0
  # The addresses of another cluster are not reachable from outside of it.
  coproc forward { exec kubectl port-forward service/demo :6379 2>&1; }
  # shellcheck disable=SC2154 # Set by coproc.
  at_end "kill $forward_PID"
  local line=
  read -rt 20 line <&"${forward[0]}" || true
  [[ $line =~ 127\.0\.0\.1:([0-9]+) ]] || die "kubectl port-forward service/demo: ${line:-no answer}"
  client=(timeout 5 redis-cli -p "${BASH_REMATCH[1]}") reach="kubectl port-forward service/demo ${BASH_REMATCH[1]}:6379 &"
}

write_and_read() {
  local command
  # redis-cli reads the password from this variable, so that it is in no argument.
  REDISCLI_AUTH=$(kubectl get secret demo-auth --output 'go-template={{.data.password | base64decode}}')
  export REDISCLI_AUTH
  # A Service has new endpoints a moment after they are ready.
  await 20 "answer of the Service demo (${client[*]:2} PING)" "${client[@]}" -e PING
  for command in "SET greeting hello-from-helios" "GET greeting"; do
    echo "\$ ${client[*]:2} $command"
    # shellcheck disable=SC2086 # Word splitting is intended.
    "${client[@]}" -e $command
  done
  [[ $("${client[@]}" GET greeting) == hello-from-helios ]] || die "the key did not come back"
}

what_next() {
  echo
  echo "Next, for instance:"
  if cluster_is_foreign; then
    echo "  $reach"
  else
    # shellcheck disable=SC2016 # Expanded by the shell of the user who types it.
    echo '  export KUBECONFIG=$(make -s kubeconfig)'
  fi
  echo "  export PATH=\$PATH:${missing_path:+$missing_path:}$(programs_path)   # heliosctl, kubectl helios${missing_path:+, kubectl, helm}"
  echo "  export REDISCLI_AUTH=\$(kubectl get secret demo-auth --output 'go-template={{.data.password | base64decode}}')"
  echo "  kubectl scale hc/demo --replicas=5 && kubectl get hc demo --watch"
  echo "  kubectl helios status demo"
  echo "  kubectl delete pod demo-0        # a member dies; no acknowledged write is lost"
  echo "  ${client[*]:2} GET greeting"
}

need_cargo
missing_path=
command -v kubectl >/dev/null || missing_path=$("$local_cluster" path)
use_cluster
images=$("$root/scripts/images.sh" heliosd helios-operator)
eval "$images"
step "building heliosctl" build_programs heliosctl kubectl-helios kubectl_complete-helios
at_failure diagnose
step "installing the operator" install_operator
step "starting the HeliosCluster demo" start_demo
find_client
write_and_read
echo "\$ kubectl get hc"
kubectl get hc
what_next
