//! The machine's memory: how much there is, and what the allocator does with large temporaries.

/// Every layer makes and drops tensors of some MiB. By default glibc gives them back to the kernel each time, which then
/// clears every page anew: a third of a long prefill. Ask it to keep what is freed.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The largest threshold glibc takes.
        const MAPPED_ALONE: libc::c_int = 32 << 20;
        const KEPT_AT_MOST: libc::c_int = 512 << 20;
        // SAFETY: mallopt sets two numbers of the allocator; it touches no memory of ours and may be called at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_ALONE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_AT_MOST);
        }
    }
}

/// Bytes of memory this machine has, where it says so.
pub fn total() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
}
