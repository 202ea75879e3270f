# kernel.io_uring_disabled = 2: one line that names it, and a bad exit code.
switch=/proc/sys/kernel/io_uring_disabled
if [ ! -e $switch ]; then
    echo "refusal-sysctl: this kernel has no kernel.io_uring_disabled" >> "$ROOST_SKIP_FILE"
    exit 77
fi
echo 2 > $switch
output=$(env -u ROOST_SKIP_FILE -u ROOST_FIGURES_FILE -u ROOST_CHURN -u ROOST_CLOSE_MS_MAX \
    roost-gateway --listen 127.0.0.1:0 2>&1 > /dev/null)
code=$?
echo 0 > $switch
echo "$output"
echo "refusal sysctl=kernel.io_uring_disabled exit_code=$code text=$output" >> "$ROOST_FIGURES_FILE"
[ $code -ne 0 ] && [ "$(echo "$output" | wc -l)" -eq 1 ] && echo "$output" | grep -q io_uring_disabled
