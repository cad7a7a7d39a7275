#!/usr/bin/env bash
# Join the cluster of a head: start-worker.sh HEAD-ADDRESS.
set -euo pipefail

head=${1:?"usage: start-worker.sh HEAD-ADDRESS"}
port=${HAPS_PORT:-6379}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}

if [ ! -s "$token" ]; then
    echo "$token is missing: copy the head's there, with mode 0600 (README.md)" >&2
    exit 1
fi
chmod 600 "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0
exec ray start --address="$head:$port" --block
