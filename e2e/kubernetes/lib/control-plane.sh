# shellcheck shell=bash
# etcd, API server, controller manager, scheduler, cluster DNS and volumes: processes of this machine, on the bridge's address.

# Not 2379: another etcd, such as one under measurement, may run on this machine.
readonly etcd_clients=http://127.0.0.1:23790 etcd_peers=http://127.0.0.1:23800

store_up() {
  start etcd control "$parts/kube" etcd --data-dir "$state/etcd" --log-level warn --unsafe-no-fsync \
    --listen-client-urls "$etcd_clients" --advertise-client-urls "$etcd_clients" \
    --listen-peer-urls "$etcd_peers" --initial-advertise-peer-urls "$etcd_peers" --initial-cluster "default=$etcd_peers"
  start apiserver control "$parts/kube" apiserver \
    --etcd-servers "$etcd_clients" --bind-address "$host_address" --advertise-address "$host_address" --secure-port 6443 \
    --service-cluster-ip-range "$service_range" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --allow-privileged --kubelet-preferred-address-types InternalIP \
    --feature-gates MutatingAdmissionPolicy=true --runtime-config admissionregistration.k8s.io/v1beta1=true \
    --client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
    --kubelet-client-certificate "$pki/apiserver-kubelet.crt" --kubelet-client-key "$pki/apiserver-kubelet.key" \
    --proxy-client-cert-file "$pki/front-proxy.crt" --proxy-client-key-file "$pki/front-proxy.key" \
    --requestheader-client-ca-file "$pki/front-proxy-ca.crt" --requestheader-allowed-names front-proxy \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$pki/service-account.pub" --service-account-signing-key-file "$pki/service-account.key"
}

api_ready() { curl -sf --max-time 2 --cacert "$pki/ca.crt" "$api_server/readyz"; }

managers_up() {
  start controller-manager control "$parts/kube" controller-manager --kubeconfig "$pki/controller-manager.kubeconfig" \
    --secure-port 0 --leader-elect=false --use-service-account-credentials --node-monitor-grace-period 20s \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key" --root-ca-file "$pki/ca.crt" \
    --service-account-private-key-file "$pki/service-account.key" --flex-volume-plugin-dir "$state/volume-plugins"
  start scheduler control "$parts/kube" scheduler --kubeconfig "$pki/scheduler.kubeconfig" --secure-port 0 --leader-elect=false
  start volumes control "$parts/kube" volumes --kubeconfig "$pki/admin.kubeconfig" --root "$state/volumes"
  dns_up
}

dns_up() {
  cat >"$state/Corefile" <<EOF
cluster.local {
  bind $host_address
  ready $host_address:8181
  errors
  cache 5
  kubernetes cluster.local {
    kubeconfig $pki/admin.kubeconfig helios
    ttl 5
  }
}
. {
  bind $host_address
  template ANY ANY {
    rcode NXDOMAIN
  }
}
EOF
  start dns control "$parts/coredns" -conf "$state/Corefile"
}

dns_ready() { curl -sf --max-time 2 "http://$host_address:8181/ready"; }
