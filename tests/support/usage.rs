//! What a process costs, as the kernel accounts it (proc(5)).

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Processor time of every thread that the process has now, to the nanosecond: the first field of each thread's schedstat.
///
/// # Errors
/// If the process is gone, or the kernel keeps no such account.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(account) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += account.split_ascii_whitespace().next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Names of its threads.
///
/// # Errors
/// If the process is gone.
pub fn threads(pid: u32) -> Result<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    let name = |path: &Path| fs::read_to_string(path.join("comm")).ok().map(|name| name.trim().to_string());
    Ok(tasks.filter_map(|task| name(&task.ok()?.path())).collect())
}

/// How many descriptors it has open.
///
/// # Errors
/// If the process is gone.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Bytes of memory that it alone has written to: Private_Dirty of all its mappings.
///
/// # Errors
/// If the process is gone.
pub fn private_dirty(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).context("Private_Dirty")?;
    Ok(1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?)
}
