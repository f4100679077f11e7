//! What a process costs, as the kernel accounts it (proc(5)).

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys;

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

/// The same of every process of a group that is there now: a user-mode Linux has several.
///
/// # Errors
/// If the group is gone.
pub fn processor_time_of_group(group: u32) -> Result<Duration> {
    let is_of = |pid: &u32| {
        // Behind the name, which may have anything in it: state, parent, group (proc_pid_stat(5)).
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        fields.split_ascii_whitespace().nth(2).and_then(|of| of.parse().ok()) == Some(group)
    };
    let all = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let own: Vec<u32> = all.filter(is_of).collect();
    anyhow::ensure!(!own.is_empty(), "no process of the group {group}");
    // One may have ended meanwhile.
    Ok(own.into_iter().filter_map(|pid| processor_time(pid).ok()).sum())
}

/// Processor time of the calling thread, by the same account.
///
/// # Errors
/// If the kernel keeps none.
pub fn thread_time() -> Result<Duration> {
    let account = fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = account.split_ascii_whitespace().next().context("schedstat")?;
    Ok(Duration::from_nanos(first.parse()?))
}

/// Has this process, and what it starts from now on, open at least so many descriptors, which takes root where the hard limit is lower.
///
/// # Errors
/// If it may not.
pub fn allow_descriptors(count: u64) -> Result<()> {
    sys::raise_descriptor_limit(count).with_context(|| format!("a limit of {count} descriptors"))
}

/// How many descriptors this process may have open.
///
/// # Errors
/// The system's.
pub fn descriptor_limit() -> Result<u64> {
    sys::descriptor_limit().context("the limit of descriptors")
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

/// Whether each of its threads sleeps: state S, the first field behind the name (proc_pid_stat(5)).
///
/// # Errors
/// If the process is gone.
pub fn sleeps(pid: u32) -> Result<bool> {
    let sleeps = |path: &Path| {
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, fields)| fields.starts_with(" S "))
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(tasks.filter_map(Result::ok).all(|task| sleeps(&task.path())))
}

/// How many descriptors it has open.
///
/// # Errors
/// If the process is gone.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// How many descriptors it has open once those are closed that are on their way there, as an answered client's connection is: the
/// fewest of several looks within half a second.
///
/// # Errors
/// If the process is gone.
pub fn settled_descriptors(pid: u32) -> Result<usize> {
    let mut fewest = descriptors(pid)?;
    for _ in 0..25 {
        thread::sleep(Duration::from_millis(20));
        fewest = fewest.min(descriptors(pid)?);
    }
    Ok(fewest)
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
