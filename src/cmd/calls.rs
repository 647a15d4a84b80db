//! The third wall of the server: a seccomp filter with the system calls that it makes once it
//! serves, and no other.
//!
//! It starts no program and no process, and maps no memory that can be executed. It makes no
//! connection and no socket, unless it sends to other servers or serves an object store. What is
//! not listed fails with
//! ENOSYS, which a C library that is newer than this list takes as a reason to use an older call.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Calls with any arguments.
#[rustfmt::skip]
const FREE: &[c_long] = &[
    // memory and threads
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk, libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_prctl, libc::SYS_gettid,
    libc::SYS_tgkill, libc::SYS_exit,
    libc::SYS_exit_group, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_getcpu,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // time, chance, and what is known of the process
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_getrandom, libc::SYS_uname, libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getpid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    libc::SYS_getcwd,
    // files, which Landlock bounds
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_close, libc::SYS_close_range, libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl, libc::SYS_flock, libc::SYS_read, libc::SYS_write, libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2,
    libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_copy_file_range, libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs, libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_getdents64, libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_utimensat,
    libc::SYS_mknodat,
    // extended attributes of what is open, and of what a handle's own path in /proc leads to
    libc::SYS_flistxattr, libc::SYS_fgetxattr, libc::SYS_fsetxattr, libc::SYS_fremovexattr,
    libc::SYS_listxattr, libc::SYS_getxattr, libc::SYS_setxattr, libc::SYS_removexattr,
    libc::SYS_umask, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // events, and sockets that there are
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_accept, libc::SYS_accept4, libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_setsockopt, libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername, libc::SYS_shutdown,
];

#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
const FICLONE: u64 = libc::FICLONE as u64;

/// Older calls for the same, where there are any.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_link, libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_epoll_wait, libc::SYS_poll,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum NoFilter {
    /// It could not be made.
    #[error("the filter cannot be built: {0}")]
    Build(#[from] BackendError),
    /// The kernel does not take it.
    #[error("the kernel refuses the filter: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// The sockets that a server may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// None.
    None,
    /// Of TCP, to connect them.
    Tcp,
    /// Of TCP and UDP: names are looked up, too.
    Internet,
}

/// From now on the calling thread, and those that it starts, make no other system calls; those that
/// open connections only as far as it needs `sockets`. False where this architecture has no filter.
///
/// # Errors
/// Where there is one and the kernel refuses it.
pub fn restrict(sockets: Sockets) -> Result<bool, NoFilter> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let filter = SeccompFilter::new(
        rules(sockets)?,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        SeccompAction::Allow,
        arch,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(true)
}

/// The argument with this index has, of the bits in `mask`, these.
fn bits(index: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(index, mask, value)?])
}

fn condition(index: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    let equal = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, equal, value)
}

fn is(index: u8, value: u64) -> Result<SeccompRule, BackendError> {
    bits(index, u64::from(u32::MAX), value)
}

fn rules(sockets: Sockets) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<_, _> =
        FREE.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let unsigned = |flag: libc::c_int| u64::from(flag.unsigned_abs());
    let (executable, thread) = (unsigned(libc::PROT_EXEC), unsigned(libc::CLONE_THREAD));
    rules.insert(libc::SYS_mmap, vec![bits(2, executable, 0)?]);
    rules.insert(libc::SYS_mprotect, vec![bits(2, executable, 0)?]);
    // no process; clone3, whose flags no filter sees, is not there, and the C library uses this one
    rules.insert(libc::SYS_clone, vec![bits(0, thread, thread)?]);
    // limits are asked for, not set: the new one is a null pointer
    let null = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![null])?]);
    // a pair of sockets is how a signal reaches its task
    rules.insert(libc::SYS_socketpair, vec![is(0, unsigned(libc::AF_UNIX))?]);
    // above all not TIOCSTI, which types at the terminal that the server was started from
    // their type differs between C libraries
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    let ioctls = [libc::FIONBIO as u64, libc::FIOCLEX as u64, libc::TCGETS as u64, FICLONE];
    let ioctls = ioctls.iter().map(|request| is(1, *request));
    rules.insert(libc::SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    let kinds: &[libc::c_int] = match sockets {
        Sockets::None => return Ok(rules),
        Sockets::Tcp => &[libc::SOCK_STREAM],
        Sockets::Internet => &[libc::SOCK_STREAM, libc::SOCK_DGRAM],
    };
    let mut allowed = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6].map(unsigned) {
        for kind in kinds {
            let family = condition(0, u64::from(u32::MAX), family)?;
            allowed.push(SeccompRule::new(vec![family, condition(1, 0xf, unsigned(*kind))?])?);
        }
    }
    rules.insert(libc::SYS_socket, allowed);
    rules.insert(libc::SYS_connect, Vec::new());
    if sockets == Sockets::Internet {
        rules.insert(libc::SYS_sendmmsg, Vec::new());
        rules.insert(libc::SYS_bind, Vec::new());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::io::Error;
    use std::net::{TcpListener, TcpStream};

    /// The errno of what failed.
    fn errno<T>(result: Result<T, Error>) -> Option<i32> {
        result.err().and_then(|e| e.raw_os_error())
    }

    /// One that sends to other servers opens TCP connections, and no other socket.
    #[test]
    fn a_server_that_sends_to_others_makes_tcp_connections_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tried = std::thread::spawn(move || {
            assert!(restrict(Sockets::Tcp).unwrap());
            [
                errno(TcpStream::connect(address)),
                errno(std::net::UdpSocket::bind("127.0.0.1:0")),
                errno(std::os::unix::net::UnixDatagram::unbound()),
                errno(TcpListener::bind("127.0.0.1:0")),
            ]
        });
        let no = Some(libc::ENOSYS);
        assert_eq!(tried.join().unwrap(), [None, no, no, no]);
    }

    /// A thread behind the filter tries what a server that was taken over would try. Each works
    /// without the filter.
    #[test]
    fn what_a_server_never_does_is_not_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let attempts = move || {
            let program = std::process::Command::new("/bin/true").status().map(drop);
            let unix = std::os::unix::net::UnixDatagram::unbound().map(drop);
            let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
            let limited = rustix::process::setrlimit(rustix::process::Resource::Core, limit);
            let terminal = rustix::termios::tcgetwinsize(std::io::stdin());
            let memory = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC);
            [
                errno(program),
                errno(TcpStream::connect(address)),
                errno(TcpListener::bind("127.0.0.1:0")),
                errno(unix),
                limited.err().map(Errno::raw_os_error),
                memory.err().map(Errno::raw_os_error),
                terminal.err().map(Errno::raw_os_error).filter(|e| *e == libc::ENOSYS),
            ]
        };
        let free = std::thread::spawn(attempts).join().unwrap();
        assert_eq!(free[..6], [None; 6], "without the filter");
        let filtered = std::thread::spawn(move || {
            assert!(restrict(Sockets::None).unwrap());
            let tried = attempts();
            // and what a server does still works: threads, files, connections that come in
            let other = std::thread::spawn(|| std::fs::read("/proc/self/stat").unwrap().len());
            assert!(other.join().unwrap() > 0);
            listener.accept().unwrap();
            tried
        });
        assert_eq!(filtered.join().unwrap(), [Some(libc::ENOSYS); 7]);
    }
}
