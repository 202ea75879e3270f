//! Kernels and policies that refuse io_uring, in part or as such.

use std::thread;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};
use roost_ring::{Features, FeaturesMax};

/// Refuses one system call with an errno, for the calling thread and for good (seccomp(2)).
fn refuse(syscall: libc::c_long, errno: i32) {
    const NR_OFFSET: u32 = 0;
    let op = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, NR_OFFSET),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, u32::try_from(syscall).expect("a small number")),
        op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is valid for the call and lists `len` instructions.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// What detection says on a thread that may not use a system call.
fn detect_without(syscall: libc::c_long, errno: i32) -> Result<Features, String> {
    let detect = move || {
        refuse(syscall, errno);
        Features::detect(FeaturesMax::Direct).map_err(|error| error.to_string())
    };
    thread::spawn(detect).join().expect("detection never panics")
}

#[test]
fn a_seccomp_filter_is_named_with_its_remedy() {
    for syscall in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        let line = detect_without(syscall, libc::EPERM).expect_err("refused");
        assert!(line.contains("seccomp") && line.contains("profile"), "{line}");
        assert!(!line.contains('\n'), "{line}");
        let line = detect_without(syscall, libc::ENOSYS).expect_err("refused");
        assert!(line.contains("CONFIG_IO_URING") && line.contains("seccomp"), "{line}");
    }
}

#[test]
fn other_refusals_have_their_own_cause() {
    let line = detect_without(libc::SYS_io_uring_setup, libc::ENOMEM).expect_err("refused");
    assert!(line.contains("memlock"), "{line}");
    let line = detect_without(libc::SYS_io_uring_setup, libc::EMFILE).expect_err("refused");
    assert!(line.contains("RLIMIT_NOFILE"), "{line}");
    let line = detect_without(libc::SYS_io_uring_register, libc::EINVAL).expect_err("refused");
    assert!(line.contains("IORING_REGISTER_PROBE") && line.contains("5.10.162"), "{line}");
}

#[test]
fn every_feature_is_shown_on_a_line_of_its_own() {
    let features = Features::detect(FeaturesMax::Base).expect("io_uring");
    let lines: Vec<String> = features.findings().iter().map(ToString::to_string).collect();
    assert!(lines.iter().any(|line| line.contains("IORING_OP_ACCEPT, used")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("DEFER_TASKRUN, SUBMIT_ALL, masked")), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains('\n')));
}
