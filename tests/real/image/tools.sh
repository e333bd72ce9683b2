# What makes the images. To be sourced after lib.sh.

# Installs Debian's packages whose command is absent: debian COMMAND=PACKAGE...
debian() {
    local one packages=()
    for one in "$@"; do
        command -v "${one%=*}" >/dev/null || packages+=("${one#*=}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    need apt-get "it installs ${packages[*]}"
    apt-get update --quiet >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        "${packages[@]}" >&2 || die "cannot install ${packages[*]}"
}

# A folder with the packages of the images' base. Prints its path.
base_packages() {
    local debs="$TOUCHLINE_TOOLS/image-debs"
    if [ ! -e "$debs/complete" ]; then
        rm -rf "$debs"
        mkdir -p "$debs"
        (cd "$debs" && { apt-get download --quiet libc6 libgcc-s1 ca-certificates tzdata ||
            { apt-get update --quiet; apt-get download --quiet libc6 libgcc-s1 ca-certificates tzdata; }; }) >&2 ||
            die "cannot download the packages of the base"
        touch "$debs/complete"
    fi
    printf '%s\n' "$debs"
}
