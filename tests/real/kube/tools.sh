# Kubernetes' programs and etcd, and an API server over it: what `kube` and `cluster` share. To be sourced after
# lib.sh.

# Of the minor that helm-unittest is built with, so that much of both is compiled once.
KUBERNETES_VERSION=1.37.0

# Debian's etcd, whose package would start a service. Prints its path.
etcd_program() {
    local folder
    folder="$(debian_files etcd etcd-server)" || return 1
    printf '%s\n' "$folder/usr/bin/etcd"
}

# All of Kubernetes' programs in one, of its modules as they are published. Prints its path; its first argument
# says which program it is.
kubernetes_program() {
    local folder="$TOUCHLINE_TOOLS/kubernetes-$KUBERNETES_VERSION"
    if [ ! -x "$folder/kubernetes" ]; then
        need go 'it builds Kubernetes'
        mkdir -p "$folder/source"
        cp "$PROJECT/tests/real/kube/main.go" "$folder/source"
        (
            cd "$folder/source"
            export GOFLAGS="-modcacherw ${GOFLAGS:-}"
            source_of="$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES_VERSION" |
                python3 -c 'import json, sys; print(json.load(sys.stdin)["GoMod"])')"
            # Its go.mod with the published version of each staging module in place of a folder.
            sed -E -e 's|^module .*|module touchline.test/kubernetes|' \
                -e "s#(k8s.io/[a-z0-9-]+) => \./staging/src/k8s.io/.*#\1 => \1 v0.${KUBERNETES_VERSION#1.}#" \
                "$source_of" >go.mod
            go mod edit -require "k8s.io/kubernetes@v$KUBERNETES_VERSION"
            go mod tidy >&2
            go build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$KUBERNETES_VERSION \
                -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${KUBERNETES_VERSION:2:2}" \
                -o ../kubernetes .
        ) >&2 || die "cannot build Kubernetes $KUBERNETES_VERSION"
        rm -rf "$folder/source"
    fi
    printf '%s\n' "$folder/kubernetes"
}

# Starts etcd and the API server over it: start_api ETCD KUBERNETES ADDRESS FLAG... . Adds who may call to
# $scratch/tokens.csv, which may hold others, and exports API, TOKEN and KUBECONFIG. $scratch/accounts.key signs
# the tokens of service accounts.
start_api() {
    local etcd="$1" kubernetes="$2" address="$3" etcd_port peer_port api_port
    shift 3
    need openssl
    read -r etcd_port peer_port api_port <<<"$(free_ports 3)"
    start "$scratch/etcd.log" "$etcd" --data-dir "$scratch/etcd" \
        --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
        --listen-peer-urls "http://127.0.0.1:$peer_port" \
        --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
        --initial-cluster "default=http://127.0.0.1:$peer_port"
    eventually listens "$etcd_port" || {
        cat "$scratch/etcd.log"
        die 'etcd does not start'
    }
    openssl genrsa -out "$scratch/accounts.key" 2048 2>/dev/null
    API="https://$address:$api_port"
    TOKEN="$(openssl rand -hex 16)"
    printf '%s,admin,1,"system:masters"\n' "$TOKEN" >>"$scratch/tokens.csv"
    start "$scratch/apiserver.log" "$kubernetes" kube-apiserver --bind-address "$address" --secure-port "$api_port" \
        --cert-dir "$scratch/certificates" --etcd-servers "http://127.0.0.1:$etcd_port" \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$scratch/accounts.key" \
        --service-account-signing-key-file "$scratch/accounts.key" --token-auth-file "$scratch/tokens.csv" \
        --service-cluster-ip-range 10.96.0.0/16 "$@"
    kubeconfig "$TOKEN" >"$scratch/kubeconfig"
    KUBECONFIG="$scratch/kubeconfig"
    export API TOKEN KUBECONFIG
}

# How whoever has this token reaches the API server: kubeconfig TOKEN
kubeconfig() {
    cat <<YAML
apiVersion: v1
kind: Config
clusters: [{ name: test, cluster: { server: "$API", insecure-skip-tls-verify: true } }]
users: [{ name: test, user: { token: $1 } }]
contexts: [{ name: test, context: { cluster: test, user: test, namespace: touchline } }]
current-context: test
YAML
}
