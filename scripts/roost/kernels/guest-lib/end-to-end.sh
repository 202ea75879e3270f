# Sourced by the end-to-end tests of the guest: gateway, worker and load generator as processes.

dir=$(mktemp -d)
gateway='' router=''

finish() {
    [ -n "$gateway" ] && kill -9 "$gateway" 2>/dev/null
    [ -n "$router" ] && kill -9 "$router" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 143' TERM

fail() {
    echo "FAILED: $*"
    for log in "$dir"/*.log; do
        echo "-- $log"
        tail -n 40 "$log"
    done
    exit 1
}

skip() {
    echo "$1: $2" >> "$ROOST_SKIP_FILE"
    exit 77
}

# number KEY: the first value of that key in the load generator's result.
number() {
    grep -o "\"$1\": *[0-9]*" "$dir/result.json" | head -n 1 | grep -o '[0-9]*$'
}

# The tier that this kernel reaches when told to use at most $1.
tier_reached() {
    roost-gateway check --features-max "$1" | sed -n 's/.*io_uring tier \([a-z]*\).*/\1/p' | head -n 1
}

wait_ready() {
    tries=0
    until wget -q -O /dev/null http://127.0.0.1:7401/readyz; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || fail "the gateway is not ready"
        kill -0 "$gateway" 2>/dev/null || fail "the gateway has ended"
        sleep 0.5
    done
}

# stop PID NAME: SIGTERM must end it with exit code 0.
stop() {
    kill -TERM "$1"
    wait "$1"
    code=$?
    [ $code -eq 0 ] || fail "$2 ended with exit code $code"
}

# echo_run TIER SHARDS [WORKER]: some hundred clients through the gateway, every reply checked; with
# WORKER (an address) the worker is a process of its own, otherwise it runs inside the gateway.
echo_run() {
    if [ -n "${3:-}" ]; then
        roost-router --listen "$3" --handler echo --drain-ms 5000 > "$dir/router.log" 2>&1 &
        router=$!
    fi
    roost-gateway --listen 127.0.0.1:7400 --admin-listen 127.0.0.1:7401 --shards "$2" --connections-max 2000 \
        --features-max "$1" --drain-ms 1000 ${3:+--worker "$3"} > "$dir/gateway.log" 2>&1 &
    gateway=$!
    wait_ready
    # The guest is smaller than what the generator keeps free by default.
    roost-loadgen echo --memory-floor-mib 128 --target 127.0.0.1:7400 --connections 300 --active 100 --rate 100 --payload 64 \
        --duration 6 --heartbeat-s 3 --warmup 100 --json "$dir/result.json" > "$dir/loadgen.log" 2>&1 ||
        fail "roost-loadgen: exit code $?"
    tail -n 30 "$dir/loadgen.log"
    echo "end-to-end tier=$1 shards=$2 worker=${3:-inside} clients=$(number connections_held_min)" \
        "messages_sent=$(number messages_sent) messages_right=$(number messages_received)" >> "$ROOST_FIGURES_FILE"
    stop "$gateway" roost-gateway
    gateway=''
    if [ -n "$router" ]; then
        stop "$router" roost-router
        router=''
    fi
}
