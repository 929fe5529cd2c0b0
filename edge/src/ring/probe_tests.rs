use super::*;
use std::mem::offset_of;
use std::thread;

#[test]
fn f42_each_refusal_has_its_reason_and_remedy() {
    let of = |errno, disabled| explain_with(&io::Error::from_raw_os_error(errno), disabled);
    assert!(of(libc::EPERM, Some("2")).contains("sysctl kernel.io_uring_disabled=0"));
    assert!(of(libc::EPERM, Some("0")).contains("seccomp"));
    assert!(of(libc::EPERM, None).contains("seccomp"));
    assert!(of(libc::ENOSYS, None).contains("not there"));
    assert!(of(libc::ENOMEM, None).contains("ulimit -l"));
    assert!(of(libc::EMFILE, None).contains("ulimit -n"));
}

#[test]
fn epoll_on_demand_needs_no_probe() {
    let Ok(Chosen::Epoll(why)) = choose(Wanted::Epoll) else { panic!("not epoll") };
    assert!(why.contains("--driver epoll"));
}

#[test]
fn f42_a_seccomp_filter_leads_to_epoll_with_its_reason() {
    let report = without(libc::SYS_io_uring_setup, libc::EPERM, || {
        let Err(Refused(demanded)) = choose(Wanted::Uring) else { panic!("io_uring in spite of the filter") };
        let Ok(Chosen::Epoll(why)) = choose(Wanted::Auto) else { panic!("io_uring in spite of the filter") };
        assert_eq!(demanded, why);
        assert!(why.contains("seccomp") || why.contains("io_uring_disabled"), "{why}");
        report(Wanted::Auto)
    });
    assert!(report.starts_with(r#"{"driver":"epoll","reason":""#), "{report}");
}

#[test]
fn f42_a_kernel_without_io_uring_leads_to_epoll() {
    without(libc::SYS_io_uring_setup, libc::ENOSYS, || {
        let Ok(Chosen::Epoll(why)) = choose(Wanted::Auto) else { panic!("io_uring in spite of the filter") };
        assert!(why.contains("not there"), "{why}");
    });
}

#[test]
fn f42_a_ring_that_may_not_register_buffers_leads_to_epoll() {
    without(libc::SYS_io_uring_register, libc::EPERM, || {
        assert!(matches!(choose(Wanted::Auto), Ok(Chosen::Epoll(_))));
    });
}

/// Runs `what` in a thread whose calls of one system call fail, as a container's seccomp profile makes them.
fn without<T: Send + 'static>(call: libc::c_long, errno: i32, what: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(move || {
        refuse(call, errno);
        what()
    })
    .join()
    .unwrap()
}

fn refuse(call: libc::c_long, errno: i32) {
    rustix::thread::set_no_new_privs(true).unwrap();
    let op = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let mut filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program points to `filter`, which outlives the call. It binds this thread alone, which ends soon.
    let r = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(r, 0, "{}", io::Error::last_os_error());
}
