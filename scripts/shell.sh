#!/bin/bash
# Leaves you in a shell in a fresh container of a private agent. Both are gone when you leave.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/agent.sh

start_agent
shell=sh
if [ -x /bin/bash ]; then
    shell=bash
fi
echo "A fresh container on the host's programs. Leave it with ctrl-d or exit." >&2
code=0
"$contictl" run --rm -it --name shell --hostname conti -- "$shell" || code=$?
exit "$code"
