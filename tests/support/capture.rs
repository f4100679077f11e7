//! `vonic capture` as a test runs it, and its files read back by the rules of the format (draft-ietf-opsawg-pcapng), strictly.

use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::bed::Bed;
use crate::process::{Place, Process};
use crate::seconds;
use crate::vonicd::Vonicd;
use crate::wait::wait_for;

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// One frame of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// From guest to host, as the guest's NIC sees it.
    pub outbound: bool,
    /// Microseconds since 1970.
    pub at: u64,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Those that are there.
    pub bytes: Vec<u8>,
    /// epb_flags.
    pub flags: u32,
    /// Frames lost before it.
    pub lost: u64,
    /// Comments.
    pub comments: Vec<String>,
}

/// Everything in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pcapng {
    /// The interface's name.
    pub name: String,
    /// Its address.
    pub mac: Vec<u8>,
    /// The most bytes of each frame.
    pub snaplen: u32,
    /// In their order.
    pub frames: Vec<Frame>,
    /// The last statistics: frames seen, lost, accepted, written; and why the capture ended.
    pub counted: Option<([u64; 4], Option<String>)>,
}

/// `vonic capture VM -w FILE`, and more arguments.
fn command(bed: &Bed, vm: &str, file: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(Vonicd::client()?);
    command.arg("--socket").arg(bed.socket("api")).args(["capture", vm, "-w", file]).args(arguments);
    command.stdin(Stdio::null());
    Ok(command)
}

impl Capture {
    /// Captures VM `vm` to a file called `name` in the bed's directory; the worker does so already.
    ///
    /// # Errors
    /// If it does not begin within ten seconds; with what it said.
    pub fn start(bed: &Bed, vm: &str, name: &str, arguments: &[&str]) -> Result<Capture> {
        let file = bed.directory.path().join(name);
        let mut command = command(bed, vm, &file.display().to_string(), arguments)?;
        let log = bed.directory.path().join(format!("{name}.log"));
        let mut process = Process::start_in(name, &mut command, Place::default(), &log)?;
        wait_for("the capture's beginning", seconds(10), || {
            if process.ended().is_some() && !file.exists() {
                bail!("{}", process.log());
            }
            Ok(std::fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(()))
        })?;
        // What the API has told the worker of comes before what it asks now.
        bed.vonicd.vonic(&["conns", "--json"])?;
        Ok(Capture { process, file })
    }

    /// The same to standard output, which the test reads.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn piped(bed: &Bed, vm: &str, name: &str, arguments: &[&str]) -> Result<(Capture, ChildStdout)> {
        let mut command = command(bed, vm, "-", arguments)?;
        command.stdout(Stdio::piped());
        let log = bed.directory.path().join(format!("{name}.log"));
        let mut process = Process::start_console(name, &mut command, Place::default(), &log)?;
        let output = process.child().stdout.take().context("its standard output")?;
        Ok((Capture { process, file: PathBuf::new() }, output))
    }

    /// What is in the file now; a block that is just being written is left out.
    ///
    /// # Errors
    /// If it breaks the format's rules.
    pub fn read(&self) -> Result<Pcapng> {
        read_file(&self.file, false)
    }

    /// Waits until there are so many frames, at least.
    ///
    /// # Errors
    /// If there are not within ten seconds.
    pub fn wait_frames(&self, count: usize) -> Result<Pcapng> {
        let found =
            wait_for("the captured frames", seconds(10), || Ok(Some(self.read()?).filter(|f| f.frames.len() >= count)));
        found.with_context(|| format!("{count} frames; {:?}", self.read().map(|file| file.frames.len())))
    }

    /// Waits for its end: the exit code, what it said, and the file, which has to be whole.
    ///
    /// # Errors
    /// If it goes on for more than twenty seconds, or the file is not whole.
    pub fn wait(mut self) -> Result<(i32, String, Pcapng)> {
        let code = self.process.wait(seconds(20))?.code().context("ended by a signal")?;
        let file = if self.file.as_os_str().is_empty() { Pcapng::default() } else { read_file(&self.file, true)? };
        Ok((code, self.process.log(), file))
    }

    /// Interrupts it (SIGINT), and waits for its end in good order.
    ///
    /// # Errors
    /// As [`Capture::wait`], or if it says that it failed.
    pub fn interrupt(mut self) -> Result<(String, Pcapng)> {
        self.process.signal(libc::SIGINT)?;
        let (code, said, file) = self.wait()?;
        ensure!(code == 0, "exit code {code}: {said}");
        Ok((said, file))
    }
}

/// Reads a file; `whole`: nothing may be cut off.
fn read_file(path: &Path, whole: bool) -> Result<Pcapng> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    parse(&bytes, whole)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("a block is too short")?;
    Ok(u32::from_le_bytes(word.try_into()?))
}

/// Reads a file's bytes; `whole`: nothing may be cut off.
///
/// # Errors
/// If they break the format's rules.
pub fn parse(mut bytes: &[u8], whole: bool) -> Result<Pcapng> {
    let mut file = Pcapng::default();
    let mut first = true;
    while !bytes.is_empty() {
        let Some(length) = bytes.get(4..8).map(|_| u32_at(bytes, 4)).transpose()? else { break };
        let Some(block) = bytes.get(..length as usize) else { break };
        ensure!(length >= 12 && length % 4 == 0, "a block of {length} bytes");
        ensure!(u32_at(block, block.len() - 4)? == length, "a block whose lengths differ");
        let body = &block[8..block.len() - 4];
        let kind = u32_at(block, 0)?;
        ensure!(first == (kind == 0x0a0d_0d0a), "one section, which comes first");
        match kind {
            0x0a0d_0d0a => ensure!(u32_at(body, 0)? == 0x1a2b_3c4d && u32_at(body, 4)? == 1, "byte order, version"),
            1 => file.interface(body)?,
            6 => file.frame(body)?,
            5 => file.statistics(body)?,
            other => bail!("a block of type {other}"),
        }
        first = false;
        bytes = &bytes[block.len()..];
    }
    ensure!(bytes.is_empty() || !whole, "{} bytes of a block that is cut off", bytes.len());
    Ok(file)
}

/// A block's options, up to their end, which has to be there and last.
fn options(mut bytes: &[u8]) -> Result<Vec<(u16, Vec<u8>)>> {
    let mut options = Vec::new();
    loop {
        let head = u32_at(bytes, 0)?;
        let (code, length) = (head as u16, (head >> 16) as usize);
        let value = bytes.get(4..4 + length).context("an option is cut off")?;
        bytes = bytes.get(4 + length.next_multiple_of(4)..).context("an option's padding")?;
        if code == 0 {
            ensure!(length == 0 && bytes.is_empty(), "bytes behind the last option");
            return Ok(options);
        }
        options.push((code, value.to_vec()));
    }
}

fn number(value: &[u8]) -> u64 {
    value.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

impl Pcapng {
    fn interface(&mut self, body: &[u8]) -> Result<()> {
        ensure!(self.name.is_empty() && u32_at(body, 0)? == 1, "one interface, of Ethernet");
        self.snaplen = u32_at(body, 4)?;
        for (code, value) in options(&body[8..])? {
            match code {
                2 => self.name = text(&value),
                6 => self.mac = value,
                9 => ensure!(value == [6], "a resolution of {value:?}"),
                _ => {}
            }
        }
        Ok(())
    }

    fn frame(&mut self, body: &[u8]) -> Result<()> {
        ensure!(!self.name.is_empty() && u32_at(body, 0)? == 0, "a frame of no interface");
        let at = u64::from(u32_at(body, 4)?) << 32 | u64::from(u32_at(body, 8)?);
        let (captured, length) = (u32_at(body, 12)? as usize, u32_at(body, 16)?);
        let bytes = body.get(20..20 + captured).context("a frame is cut off")?.to_vec();
        ensure!(captured <= length as usize && captured <= self.snaplen as usize, "{captured} of {length} bytes");
        let mut frame = Frame { outbound: false, at, length, bytes, flags: 0, lost: 0, comments: Vec::new() };
        for (code, value) in options(&body[20 + captured.next_multiple_of(4)..])? {
            match code {
                1 => frame.comments.push(text(&value)),
                2 => frame.flags = number(&value) as u32,
                4 => frame.lost = number(&value),
                _ => {}
            }
        }
        frame.outbound = match frame.flags & 3 {
            1 => false,
            2 => true,
            other => bail!("a direction of {other}"),
        };
        self.frames.push(frame);
        Ok(())
    }

    fn statistics(&mut self, body: &[u8]) -> Result<()> {
        let options = options(&body[12..])?;
        let value = |wanted: u16| options.iter().find(|(code, _)| *code == wanted).map(|(_, value)| value.as_slice());
        let count = |wanted| value(wanted).map(number).with_context(|| format!("statistics without option {wanted}"));
        self.counted = Some(([count(4)?, count(5)?, count(6)?, count(8)?], value(1).map(text)));
        Ok(())
    }

    /// The bytes of all frames that went one way.
    pub fn way(&self, outbound: bool) -> Vec<Vec<u8>> {
        self.frames.iter().filter(|frame| frame.outbound == outbound).map(|frame| frame.bytes.clone()).collect()
    }

    /// Frames that were lost, as the frames behind them tell.
    pub fn lost(&self) -> u64 {
        self.frames.iter().map(|frame| frame.lost).sum()
    }
}
