# What the scripts of tests/real share: the folder of installed tools, a local stack on free
# ports, and checks that are counted. To be sourced by bash. Holds no check of Touchline itself.

: "${TOUCHLINE_TOOLS:=${XDG_CACHE_HOME:-$HOME/.cache}/touchline-tools}"
PROJECT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# How long a check waits for something that must happen. Nothing waits for it to pass.
: "${DEADLINE_SECONDS:=20}"

checks_passed=0
checks_failed=0
started_processes=()
scratch=""

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Ends the script unless a command can be had.
need() {
    command -v "$1" >/dev/null 2>&1 || die "$1 is not installed${2:+: $2}"
}

# Where cargo puts what it builds.
target_directory() {
    cargo metadata --manifest-path "$PROJECT/Cargo.toml" --format-version 1 --no-deps --locked |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

# The folder of the built binaries; ends the script unless they are there.
binaries() {
    local folder="${TOUCHLINE_BINARIES:-$(target_directory)/release}"
    [ -x "$folder/touchline" ] || die "no $folder/touchline: cargo build --release comes first"
    printf '%s\n' "$folder"
}

# A Python environment with these packages: python_with NAME PACKAGE==VERSION...
# Prints its interpreter. One environment for each set of versions.
python_with() {
    local name="$1" folder
    shift
    need python3
    folder="$TOUCHLINE_TOOLS/python-$name-$(printf '%s ' "$@" | cksum | cut -d' ' -f1)"
    if [ ! -e "$folder/complete" ]; then
        rm -rf "$folder"
        python3 -m venv "$folder" >&2 || die "python3 has no venv (Debian: apt-get install python3-venv)"
        "$folder/bin/pip" install --quiet --disable-pip-version-check "$@" >&2 ||
            die "cannot install $*"
        touch "$folder/complete"
    fi
    printf '%s\n' "$folder/bin/python"
}

# A folder with these packages of the npm registry: node_with NAME PACKAGE@VERSION...
# Prints its node_modules. One folder for each set of versions.
node_with() {
    local name="$1" folder
    shift
    need node
    need npm
    folder="$TOUCHLINE_TOOLS/node-$name-$(printf '%s ' "$@" | cksum | cut -d' ' -f1)"
    if [ ! -e "$folder/complete" ]; then
        rm -rf "$folder"
        mkdir -p "$folder"
        npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel error \
            "$@" >&2 || die "cannot install $*"
        touch "$folder/complete"
    fi
    printf '%s\n' "$folder/node_modules"
}

# A Go program, built where it is absent: go_program NAME PACKAGE VERSION. Prints its path.
go_program() {
    local folder="$TOUCHLINE_TOOLS/$1-$3"
    if [ ! -x "$folder/$1" ]; then
        need go "it builds $1"
        mkdir -p "$folder"
        GOBIN="$folder" GOFLAGS="-modcacherw ${GOFLAGS:-}" go install "$2@$3" >&2 || die "cannot install $1 $3"
    fi
    printf '%s\n' "$folder/$1"
}

# What more than one suite calls a server with.
grpcurl_program() {
    go_program grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl v1.9.3
}
ghz_program() {
    go_program ghz github.com/bojand/ghz/cmd/ghz v0.93.0
}

# A program of crates.io, built where it is absent: cargo_program NAME VERSION. Prints its path. Not optimised,
# since it is used for less time than optimising takes.
cargo_program() {
    local folder="$TOUCHLINE_TOOLS/$1-$2"
    if [ ! -x "$folder/bin/$1" ]; then
        need cargo "it builds $1"
        CARGO_PROFILE_DEV_DEBUG=none cargo install --debug --quiet --locked --version "$2" \
            --target-dir "$TOUCHLINE_TOOLS/build-$1" --root "$folder" "$1" >&2 || die "cannot install $1 $2"
        rm -rf "$TOUCHLINE_TOOLS/build-$1"
    fi
    printf '%s\n' "$folder/bin/$1"
}

# The files of Debian's packages, unpacked rather than installed: debian_files NAME PACKAGE... . Prints their
# folder.
debian_files() {
    local name="$1" folder="$TOUCHLINE_TOOLS/$1-debian"
    shift
    if [ ! -e "$folder/complete" ]; then
        need apt-get "it downloads $*"
        need dpkg-deb "it unpacks $*"
        rm -rf "$folder"
        mkdir -p "$folder"
        (
            # A list, since `set -e` is off in what is tested.
            cd "$folder" && {
                apt-get download --quiet "$@" || {
                    apt-get update --quiet || true
                    apt-get download --quiet "$@"
                }
            } && for package in *.deb; do
                dpkg-deb --fsys-tarfile "$package" | tar -x || exit 1
            done && rm ./*.deb && touch complete
        ) >&2 || die "cannot download Debian's $*"
    fi
    printf '%s\n' "$folder"
}

# Debian's Chromium, installed where it is absent. Prints its path.
chromium() {
    local chromium="${CHROMIUM:-/usr/bin/chromium}"
    if [ ! -x "$chromium" ]; then
        apt-get update --quiet >&2 || true
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet chromium >&2 ||
            die "no $chromium (Debian: apt-get install chromium; CHROMIUM names another)"
    fi
    printf '%s\n' "$chromium"
}

# As many free loopback ports as asked for, different ones, from below the range that the system
# gives to outgoing connections.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    one = socket.socket()
    try:
        one.bind(("127.0.0.1", random.randrange(15000, 32000)))
    except OSError:
        continue
    held.append(one)
print(*(one.getsockname()[1] for one in held))
PYTHON
}

# A folder for this run, gone at its end together with the processes that were started.
begin() {
    scratch="$(mktemp -d)"
    trap end_everything EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Starts a process in the background, its output in a file: started_as LOG COMMAND...
start() {
    local log="$1"
    shift
    "$@" >"$log" 2>&1 </dev/null &
    started_processes+=($!)
}

end_everything() {
    local process
    for process in "${started_processes[@]}"; do
        kill -TERM "$process" 2>/dev/null || true
    done
    for process in "${started_processes[@]}"; do
        end_one "$process"
    done
    [ -z "$scratch" ] || rm -rf "$scratch"
}

# Waits for a process that was asked to end, and ends it if it does not.
end_one() {
    local tries=0
    while kill -0 "$1" 2>/dev/null && [ "$tries" -lt 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# Whether something listens on a loopback port.
listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Tries a command until it succeeds: eventually COMMAND...
eventually() {
    local end=$((SECONDS + DEADLINE_SECONDS))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.02
    done
}

# Starts `touchline local` with these arguments on free ports and waits until it says that it is up
# and every port answers. Sets LOCAL_LOG, LOCAL_PROCESS, LOCAL_READY_MS and the ports.
start_touchline() {
    local bin port before
    bin="$(binaries)"
    read -r PAGE_PORT FANS_PORT MANAGEMENT_PORT GRPC_PORT PUSH_GRPC_PORT METRICS_PORT \
        PUSH_METRICS_PORT DYNAMODB_PORT <<<"$(free_ports 8)"
    export PAGE_PORT FANS_PORT MANAGEMENT_PORT GRPC_PORT PUSH_GRPC_PORT METRICS_PORT \
        PUSH_METRICS_PORT DYNAMODB_PORT
    LOCAL_LOG="$scratch/local.log"
    before="$(now_ms)"
    start "$LOCAL_LOG" "$bin/touchline" local \
        --page-port "$PAGE_PORT" --fans-port "$FANS_PORT" --management-port "$MANAGEMENT_PORT" \
        --grpc-port "$GRPC_PORT" --push-grpc-port "$PUSH_GRPC_PORT" \
        --metrics-port "$METRICS_PORT" --push-metrics-port "$PUSH_METRICS_PORT" \
        --dynamodb-port "$DYNAMODB_PORT" "$@"
    LOCAL_PROCESS="${started_processes[-1]}"
    eventually grep -q ' is up after ' "$LOCAL_LOG" || {
        cat "$LOCAL_LOG"
        die "touchline local does not say that it is up"
    }
    LOCAL_READY_MS=$(($(now_ms) - before))
    for port in "$PAGE_PORT" "$FANS_PORT" "$MANAGEMENT_PORT" "$GRPC_PORT" "$PUSH_GRPC_PORT" \
        "$METRICS_PORT" "$PUSH_METRICS_PORT" "$DYNAMODB_PORT"; do
        eventually listens "$port" || {
            cat "$LOCAL_LOG"
            die "touchline local does not listen on port $port"
        }
    done
}

# A stack with the demo's catalog and fans whose events come from the script alone.
start_local() {
    start_touchline --memory --no-replay "$@"
}

# Chooses a port for a DynamoDB that a script brings and ports for the services over it, and keeps
# the machine's own profile, region and metadata service out of it.
without_aws() {
    read -r DYNAMODB_PORT GRPC_PORT PUSH_GRPC_PORT FANS_PORT MANAGEMENT_PORT <<<"$(free_ports 5)"
    export DYNAMODB_PORT GRPC_PORT PUSH_GRPC_PORT FANS_PORT MANAGEMENT_PORT
    export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1
    export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
    export AWS_EC2_METADATA_DISABLED=true PYTHONDONTWRITEBYTECODE=1 DEADLINE_SECONDS
    unset AWS_PROFILE AWS_ENDPOINT_URL AWS_SESSION_TOKEN
    export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
    export TOUCHLINE_DYNAMODB_ENDPOINT="http://127.0.0.1:$DYNAMODB_PORT"
    export TOUCHLINE_SERVER="http://127.0.0.1:$GRPC_PORT" LOGS="$scratch"
    BINARIES="$(binaries)"
    export BINARIES
}

# Makes the tables, loads the demo's items, and starts both services as processes of their own.
start_services() {
    local port
    "$BINARIES/touchline" tables create >/dev/null
    "$BINARIES/touchline" items load "$PROJECT/clients/cli/demo/items.csv" >/dev/null
    start "$scratch/server.log" "$BINARIES/touchline-server" --listen "127.0.0.1:$GRPC_PORT" \
        --metrics-listen 127.0.0.1:0
    start "$scratch/push.log" "$BINARIES/touchline-push" --listen "127.0.0.1:$PUSH_GRPC_PORT" \
        --fans-listen "127.0.0.1:$FANS_PORT" --management-listen "127.0.0.1:$MANAGEMENT_PORT" \
        --metrics-listen 127.0.0.1:0
    for port in "$GRPC_PORT" "$PUSH_GRPC_PORT" "$FANS_PORT" "$MANAGEMENT_PORT"; do
        eventually listens "$port" || die "nothing listens on port $port"
    done
}

# Runs a file of checks, which prints them and ends with "PASSED FAILED":
# counted WHAT INTERPRETER FILE [ARGUMENT...]
counted() {
    local script_passed script_failed
    printf '%s\n' "-- $1"
    shift
    "$@" | tee "$scratch/counted" || true
    read -r script_passed script_failed < <(tail -n 1 "$scratch/counted") || true
    case "${script_passed:-}/${script_failed:-}" in
        *[!0-9/]* | /* | */) checks_failed=$((checks_failed + 1)) ;;
        *)
            checks_passed=$((checks_passed + script_passed))
            checks_failed=$((checks_failed + script_failed))
            ;;
    esac
}

now_ms() {
    printf '%s\n' "$((${EPOCHREALTIME/[.,]/} / 1000))"
}

# Counts a check: check WHAT COMMAND... . The command's output is shown when it fails.
check() {
    local what="$1" output
    shift
    if output="$("$@" 2>&1)"; then
        checks_passed=$((checks_passed + 1))
        printf 'ok      %s\n' "$what"
    else
        checks_failed=$((checks_failed + 1))
        printf 'FAILED  %s\n' "$what"
        printf '%s\n' "$output" | sed 's/^/        | /'
    fi
}

# Succeeds when a text contains each of the others: contains TEXT PART...
contains() {
    local text="$1" part
    shift
    for part in "$@"; do
        [[ "$text" == *"$part"* ]] || {
            printf 'missing: %s\nin: %s\n' "$part" "$text"
            return 1
        }
    done
}

# Prints the result and ends the script with it.
finish() {
    printf '%d passed, %d failed\n' "$checks_passed" "$checks_failed"
    if [ "$checks_failed" -gt 0 ]; then
        [ -z "${LOCAL_LOG:-}" ] || sed 's/^/touchline | /' "$LOCAL_LOG" | tail -n 60
        exit 1
    fi
    exit 0
}
