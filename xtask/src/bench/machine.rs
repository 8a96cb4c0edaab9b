//! What the machine is, and what it spent: read from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// The machine in a few lines of Markdown.
pub fn describe() -> String {
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(['\t', ' ', ':']).to_owned())
    };
    let flags = field("flags").unwrap_or_default();
    let has = |flag: &str| flags.split(' ').any(|found| found == flag);
    let vectors: Vec<_> = ["avx2", "fma", "avx512f", "avx512_vnni"].into_iter().filter(|flag| has(flag)).collect();
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown");
    format!(
        "Machine: {} cores of {}{} ({}), {} GiB memory, Linux {}, {}.",
        cores(),
        field("model name").unwrap_or_else(|| "an unknown CPU".into()),
        if has("hypervisor") { ", virtual" } else { "" },
        vectors.join(", "),
        kib.unwrap_or(0_u64).div_ceil(1 << 20),
        read("/proc/sys/kernel/osrelease").trim(),
        system.trim_matches('"'),
    )
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// CPU time of a process so far, user and system, seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a process that is measured has ended")?;
    let ticks = process_ticks(&stat).with_context(|| format!("/proc/{pid}/stat cannot be read: {stat}"))?;
    Ok(ticks as f64 / ticks_per_second())
}

/// utime and stime: fields 14 and 15, counted from behind the name, which may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(|field| field.parse::<u64>().ok());
    Some(fields.next()?? + fields.next()??)
}

/// CPU time that all processes took so far, and what the hypervisor gave to other machines, seconds. Interrupts are
/// nobody's: the loopback's packets are handled in them.
pub fn busy_seconds() -> f64 {
    let stat = read("/proc/stat");
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what guests take is in user and nice.
    let busy: u64 = [0, 1, 2, 7].iter().filter_map(|i| ticks.get(*i)).sum();
    busy as f64 / ticks_per_second()
}

fn ticks_per_second() -> f64 {
    // SAFETY: asks for a number and touches no memory.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// Resident memory of a process, KiB.
pub fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// The most that has been resident of a process at once, KiB; pages of files that it maps count too.
pub fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = read(&format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_hides_no_field() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0";
        assert_eq!(process_ticks(stat), Some(42));
        let own = std::process::id();
        // In this order: the process may grow in between.
        let (resident, peak) = (resident_kib(own), peak_kib(own));
        assert!(cpu_seconds(own).is_ok() && (100..=peak).contains(&resident), "{resident} of {peak} KiB");
    }
}
