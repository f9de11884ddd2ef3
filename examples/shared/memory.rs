//! How much memory the process took.

#![allow(dead_code, reason = "each program uses a part of it")]

/// The most memory that the process ever held; only Linux tells.
pub(crate) fn peak_resident_bytes() -> Option<u64> {
    line("/proc/self/status", "VmHWM:")
}

/// The memory that the process holds.
pub(crate) fn resident_bytes() -> Option<u64> {
    line("/proc/self/status", "VmRSS:")
}

/// The memory of the machine, and what of it is free.
pub(crate) fn of_machine() -> Option<[u64; 2]> {
    Some([line("/proc/meminfo", "MemTotal:")?, line("/proc/meminfo", "MemAvailable:")?])
}

/// The bytes that a line of the system's says, which counts in kilobytes.
fn line(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}
