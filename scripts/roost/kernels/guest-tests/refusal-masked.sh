# Without a feature it needs the gateway says so in one line and ends.
output=$(env -u ROOST_SKIP_FILE -u ROOST_FIGURES_FILE -u ROOST_CHURN -u ROOST_CLOSE_MS_MAX \
    roost-gateway --features-max none --listen 127.0.0.1:0 2>&1 > /dev/null)
code=$?
echo "$output"
echo "refusal masked=all exit_code=$code text=$output" >> "$ROOST_FIGURES_FILE"
[ $code -ne 0 ] && [ "$(echo "$output" | wc -l)" -eq 1 ] && echo "$output" | grep -q io_uring
