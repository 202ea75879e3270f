. /lib/roost/end-to-end.sh
reached=$(tier_reached direct)
[ -n "$reached" ] || fail "roost-gateway check names no tier"
[ "$reached" = direct ] || skip end-to-end-direct "this kernel reaches only tier $reached"
# A worker over TCP, one over a Unix socket, and the one inside.
echo_run direct 2 127.0.0.1:7500
echo_run direct 1 "unix:$dir/worker"
echo_run direct 1
