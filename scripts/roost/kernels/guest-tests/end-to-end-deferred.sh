. /lib/roost/end-to-end.sh
reached=$(tier_reached deferred)
[ -n "$reached" ] || fail "roost-gateway check names no tier"
[ "$reached" = deferred ] || skip end-to-end-deferred "this kernel reaches only tier $reached"
# A worker over TCP, one over a Unix socket, and the one inside.
echo_run deferred 2 127.0.0.1:7500
echo_run deferred 1 "unix:$dir/worker"
echo_run deferred 1
