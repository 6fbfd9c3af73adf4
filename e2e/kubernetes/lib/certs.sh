# shellcheck shell=bash
# The cluster's certificates and kubeconfigs: one authority for itself, one for the API server acting as a front proxy.

readonly api_server="https://$host_address:6443"

certs_up() {
  pki=$state/pki
  [[ -f $pki/complete ]] && return
  rm -rf "$pki"
  install -d -m 700 "$pki"
  authority ca "helios local cluster CA"
  authority front-proxy-ca "helios front proxy CA"
  certificate ca apiserver "/CN=kube-apiserver" \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$host_address,IP:198.19.0.1"
  certificate ca apiserver-kubelet "/O=system:masters/CN=kube-apiserver-kubelet-client"
  certificate front-proxy-ca front-proxy "/CN=front-proxy"
  client admin "/O=system:masters/CN=admin"
  client controller-manager "/CN=system:kube-controller-manager"
  client scheduler "/CN=system:kube-scheduler"
  client proxy "/CN=system:kube-proxy"
  local node
  for node in "${nodes[@]}"; do
    client "$node" "/O=system:nodes/CN=system:node:$node"
  done
  new_key service-account
  openssl pkey -in "$pki/service-account.key" -pubout -out "$pki/service-account.pub"
  touch "$pki/complete"
}

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1.key"; }

# authority NAME COMMON-NAME
authority() {
  new_key "$1"
  openssl req -x509 -new -key "$pki/$1.key" -subj "/CN=$2" -days 3650 -out "$pki/$1.crt"
}

# certificate AUTHORITY NAME SUBJECT [ALTERNATIVE-NAMES]
certificate() {
  local authority=$1 name=$2 subject=$3 names=${4:-}
  new_key "$name"
  openssl req -new -key "$pki/$name.key" -subj "$subject" |
    openssl x509 -req -CA "$pki/$authority.crt" -CAkey "$pki/$authority.key" -days 3650 -out "$pki/$name.crt" \
      -extfile <(
        echo "extendedKeyUsage=serverAuth,clientAuth"
        [[ -z $names ]] || echo "subjectAltName=$names"
      ) 2>/dev/null
}

# client NAME SUBJECT: makes a certificate and the kubeconfig that holds it.
client() {
  certificate ca "$1" "$2"
  (
    umask 077
    kubeconfig_of "$1" >"$pki/$1.kubeconfig"
  )
}

kubeconfig_of() {
  cat <<EOF
apiVersion: v1
kind: Config
clusters:
- name: helios
  cluster:
    server: $api_server
    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$pki/$1.crt")
    client-key-data: $(base64 -w0 "$pki/$1.key")
contexts:
- name: helios
  context: {cluster: helios, user: $1}
current-context: helios
EOF
}
