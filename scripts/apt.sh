# Read by other scripts: installs Debian packages, quietly unless that fails. Removes none for them.

apt_install() {
    if [ "$(id -u)" != 0 ]; then
        echo "these packages are missing and only root can install them: $*" >&2
        return 1
    fi
    log=$(mktemp)
    if ! { DEBIAN_FRONTEND=noninteractive apt-get update -q &&
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-remove --no-install-recommends "$@"; } \
        >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        echo "apt-get could not install: $*" >&2
        return 1
    fi
    rm -f "$log"
}
