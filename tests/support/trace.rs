//! Where do the bytes of a process's TCP sockets lie? A tracer that looks at each sendmsg and recvmsg from outside, by ptrace(2), and reads
//! the addresses of its iovecs, which strace does not print.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys::{self, Stop};

/// Whether this kernel has SO_PEEK_OFF on TCP sockets; where it has not, vonic peeks over scratch memory as well.
///
/// # Errors
/// If no socket can be made.
pub fn tcp_peek_offset_works() -> Result<bool> {
    Ok(sys::tcp_peek_offset_works()?)
}

/// What a [`Tracer`] saw on TCP sockets.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// sendmsg calls.
    pub sends: u64,
    /// recvmsg calls.
    pub receives: u64,
    /// Bytes of iovecs within guest memory.
    pub inside: u64,
    /// iovecs outside of it, the first few: call, address, length.
    pub outside: Vec<(String, u64, u64)>,
    /// Calls that move payload by a plain buffer (read, write, send, recv, …) with a length that is not 0, the first few.
    pub plain: Vec<(String, u64)>,
}

/// Traces every thread of a process until [`Tracer::finish`].
pub struct Tracer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

/// One mapping of a process.
struct Mapping {
    range: Range<u64>,
    shared: bool,
    file: String,
}

fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/maps")).with_context(|| format!("the mappings of {pid}"))?;
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (from, to) = words.first()?.split_once('-')?;
        let range = u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?;
        // Device and inode name the file, whatever its path.
        Some(Mapping {
            range,
            shared: words.get(1)?.ends_with('s'),
            file: format!("{} {}", words.get(3)?, words.get(4)?),
        })
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// Where `process` maps files that `vmm` maps as well, both shared: guest memory.
fn guest_memory(process: u32, vmm: u32) -> Result<Vec<Range<u64>>> {
    let shared = |mapping: &Mapping| mapping.shared && !mapping.file.ends_with(" 0");
    let files: BTreeSet<String> = mappings(vmm)?.into_iter().filter(shared).map(|mapping| mapping.file).collect();
    let here = mappings(process)?.into_iter().filter(shared);
    Ok(here.filter(|mapping| files.contains(&mapping.file)).map(|mapping| mapping.range).collect())
}

impl Tracer {
    /// Attaches to every thread of `process`; `vmm` is the process whose memory the payload has to lie in.
    ///
    /// # Errors
    /// If the two share no memory, or tracing is refused.
    pub fn start(process: u32, vmm: u32) -> Result<Tracer> {
        let memory = guest_memory(process, vmm)?;
        anyhow::ensure!(!memory.is_empty(), "{process} maps no memory of {vmm}");
        let stop = Arc::new(AtomicBool::new(false));
        let (attached, wait) = std::sync::mpsc::channel();
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let run = Run::attach(process, memory);
            let _ = attached.send(());
            run?.until(&flag)
        });
        let _ = wait.recv();
        Ok(Tracer { stop, thread })
    }

    /// Detaches and returns what was seen.
    ///
    /// # Errors
    /// If tracing failed.
    pub fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the tracer died"))?
    }
}

/// The tracer's own thread: ptrace ties tracees to it.
struct Run {
    process: u32,
    memory: Vec<Range<u64>>,
    bytes: File,
    /// Whether what a descriptor leads to is a TCP socket: looked up once, since the traced program is stopped meanwhile, and since the
    /// kernel's tables no longer have one that both ends have closed, whose payload may still wait.
    tcp: BTreeMap<PathBuf, bool>,
    tracees: BTreeSet<i32>,
    seen: Seen,
}

impl Run {
    fn attach(process: u32, memory: Vec<Range<u64>>) -> Result<Run> {
        let mut tracees = BTreeSet::new();
        for entry in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let tid: i32 = entry?.file_name().to_string_lossy().parse()?;
            sys::trace(tid).with_context(|| format!("tracing thread {tid}"))?;
            tracees.insert(tid);
        }
        let bytes = File::open(format!("/proc/{process}/mem"))?;
        Ok(Run { process, memory, bytes, tcp: BTreeMap::new(), tracees, seen: Seen::default() })
    }

    fn until(mut self, stop: &AtomicBool) -> Result<Seen> {
        let mut asked = false;
        while !self.tracees.is_empty() {
            if stop.load(Ordering::Relaxed) && !asked {
                asked = true;
                self.tracees.iter().for_each(|tid| drop(sys::interrupt(*tid)));
            }
            let Some((tid, stopped)) = sys::next_stop()? else {
                thread::sleep(Duration::from_micros(50));
                continue;
            };
            if let Stop::Ended = stopped {
                self.tracees.remove(&tid);
                continue;
            }
            self.tracees.insert(tid);
            let signal = match stopped {
                Stop::Entry(entry) => {
                    self.look(&entry)?;
                    0
                }
                Stop::Other(signal) => signal,
                Stop::Ended => 0,
            };
            if asked {
                sys::detach(tid)?;
                self.tracees.remove(&tid);
            } else {
                sys::go_on(tid, signal)?;
            }
        }
        Ok(self.seen)
    }

    fn look(&mut self, entry: &sys::Entry) -> Result<()> {
        let number = entry.number as i64;
        let vectors = [(libc::SYS_sendmsg, "sendmsg"), (libc::SYS_recvmsg, "recvmsg")];
        let plain = [
            (libc::SYS_sendto, "sendto"),
            (libc::SYS_recvfrom, "recvfrom"),
            (libc::SYS_read, "read"),
            (libc::SYS_write, "write"),
            (libc::SYS_readv, "readv"),
            (libc::SYS_writev, "writev"),
        ];
        let name =
            |table: &[(i64, &'static str)]| table.iter().find(|(call, _)| *call == number).map(|(_, name)| *name);
        if let Some(name) = name(&vectors) {
            if self.is_tcp(entry.arguments[0]) {
                self.look_at_message(name, entry.arguments[1])?;
            }
        } else if let Some(name) = name(&plain)
            && self.is_tcp(entry.arguments[0])
        {
            self.look_at_plain(name, entry);
        }
        Ok(())
    }

    fn look_at_message(&mut self, name: &str, message: u64) -> Result<()> {
        // struct msghdr: msg_iov at 16, msg_iovlen at 24.
        let (vectors, count) = (self.word(message + 16)?, self.word(message + 24)?);
        if name == "sendmsg" {
            self.seen.sends += 1
        } else {
            self.seen.receives += 1
        }
        for index in 0..count {
            let (address, length) = (self.word(vectors + 16 * index)?, self.word(vectors + 16 * index + 8)?);
            let inside = |range: &Range<u64>| range.start <= address && address + length <= range.end;
            if self.memory.iter().any(inside) {
                self.seen.inside += length;
            } else if length > 0 && self.seen.outside.len() < 16 {
                self.seen.outside.push((name.to_string(), address, length));
            }
        }
        Ok(())
    }

    fn look_at_plain(&mut self, name: &str, entry: &sys::Entry) {
        // recv(MSG_TRUNC) with no buffer drops what the guest has acknowledged: no byte is moved.
        let drops = name == "recvfrom" && (entry.arguments[1] == 0 || entry.arguments[3] & libc::MSG_TRUNC as u64 != 0);
        if !drops && entry.arguments[2] > 0 && self.seen.plain.len() < 16 {
            self.seen.plain.push((name.to_string(), entry.arguments[2]));
        }
    }

    fn word(&self, address: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.bytes.read_exact_at(&mut bytes, address).context("the traced process's memory")?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn is_tcp(&mut self, fd: u64) -> bool {
        let process = self.process;
        let target = std::fs::read_link(format!("/proc/{process}/fd/{fd}")).unwrap_or_default();
        let name = target.to_string_lossy().into_owned();
        *self.tcp.entry(target).or_insert_with(|| {
            let Some(inode) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) else {
                return false;
            };
            ["tcp", "tcp6"].iter().any(|table| {
                let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
                text.lines().any(|line| line.split_ascii_whitespace().nth(9) == Some(inode))
            })
        })
    }
}
