. /lib/roost/end-to-end.sh
reached=$(tier_reached base)
[ -n "$reached" ] || fail "roost-gateway check names no tier"
[ "$reached" = base ] || skip end-to-end-base "this kernel reaches only tier $reached"
# A worker over TCP, one over a Unix socket, and the one inside.
echo_run base 2 127.0.0.1:7500
echo_run base 1 "unix:$dir/worker"
echo_run base 1
