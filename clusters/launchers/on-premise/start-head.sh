#!/usr/bin/env bash
# Start Ray's head on this machine: start-head.sh ADDRESS, the address that the workers reach it under.
set -euo pipefail

address=${1:?"usage: start-head.sh ADDRESS (of this machine, as the workers see it)"}
port=${HAPS_PORT:-6379}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}

if [ ! -s "$token" ]; then
    umask 077
    mkdir -p "$(dirname "$token")"
    python -c 'import secrets; print(secrets.token_hex(32))' >"$token"
    echo "made $token: copy it to every worker (README.md)"
fi
chmod 600 "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0
exec ray start --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 --block
