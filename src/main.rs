//! Parses the command line, runs the command, and turns its end into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    return_large_buffers();
    haul::cmd::main(haul::cmd::parse(), return_free_memory)
}

/// Has the allocator return large buffers to the system as soon as they are freed.
///
/// glibc raises the size from which a buffer has pages of its own to that of the largest one that
/// was freed. What is smaller then stays with the process: after a dozen clients a server that
/// rests had three times the memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn return_large_buffers() {
    /// Bytes from which a buffer has pages of its own, fixed by being set: chunks have them, what
    /// is read from a socket has not.
    const OWN_PAGES: libc::c_int = 512 << 10;
    // SAFETY: mallopt(3) takes two numbers, and no other thread runs yet.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn return_large_buffers() {}

/// Returns to the system what is free among what is in use: small buffers leave it behind.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn return_free_memory() {
    // SAFETY: malloc_trim(3) takes a number, and may be called by any thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn return_free_memory() {}
