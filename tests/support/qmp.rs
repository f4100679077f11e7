//! QEMU's monitor (QMP): what an operator does to a running VM.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::wait::wait_for;

/// One connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to the monitor at `path` and greets it.
    ///
    /// # Errors
    /// If nobody answers there within ten seconds.
    pub fn connect(path: &Path) -> Result<Qmp> {
        let stream = wait_for("QEMU's monitor", Duration::from_secs(10), || Ok(UnixStream::connect(path).ok()))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut qmp = Qmp { stream, lines, events: Vec::new() };
        qmp.receive(Duration::from_secs(10), |message| message.get("QMP").is_some())?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Carries a command out; what it returns.
    ///
    /// # Errors
    /// If QEMU refuses; with its message.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(format!("{request}\n").as_bytes())?;
        let is_answer = |message: &Value| message.get("return").is_some() || message.get("error").is_some();
        let mut answer = self.receive(Duration::from_secs(20), is_answer).context(command.to_string())?;
        if let Some(error) = answer.get("error") {
            bail!("{command} {arguments}: {error}");
        }
        Ok(answer["return"].take())
    }

    /// Waits for an event of this name, also one that came while a command was carried out.
    ///
    /// # Errors
    /// If none comes within `limit`.
    pub fn event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return Ok(self.events.remove(at));
        }
        self.receive(limit, |message| message["event"] == name).with_context(|| name.to_string())
    }

    /// Plugs `mebibytes` of memory in as a DIMM that the backend shares; it is called `id`.
    ///
    /// # Errors
    /// If QEMU refuses.
    pub fn plug_memory(&mut self, id: &str, mebibytes: u64) -> Result<()> {
        let object = format!("{id}-ram");
        let size = mebibytes << 20;
        let backend = json!({ "qom-type": "memory-backend-memfd", "id": object, "size": size, "share": true });
        self.execute("object-add", &backend)?;
        self.execute("device_add", &json!({ "driver": "pc-dimm", "id": id, "memdev": object })).map(drop)
    }

    /// Asks the guest to give a DIMM back, and takes it out.
    ///
    /// # Errors
    /// If the guest does not within `limit`.
    pub fn unplug_memory(&mut self, id: &str, limit: Duration) -> Result<()> {
        self.execute("device_del", &json!({ "id": id }))?;
        self.event("DEVICE_DELETED", limit)?;
        self.execute("object-del", &json!({ "id": format!("{id}-ram") })).map(drop)
    }

    /// Moves the VM to the QEMU behind the monitor `to`, which waits for one, by TCP on loopback; it runs there when this returns.
    ///
    /// # Errors
    /// If the migration fails, with QEMU's reason, or is not over within `limit`.
    pub fn migrate(&mut self, to: &mut Qmp, limit: Duration) -> Result<()> {
        to.execute("migrate-incoming", &json!({ "uri": "tcp:127.0.0.1:0" }))?;
        let listening = to.execute("query-migrate", &json!({}))?;
        let port = listening["socket-address"][0]["port"].as_str().context("where QEMU listens")?.to_string();
        self.execute("migrate", &json!({ "uri": format!("tcp:127.0.0.1:{port}") }))?;
        wait_for("the end of the migration", limit, || {
            let state = self.execute("query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("completed") => Ok(Some(())),
                Some("failed" | "cancelled") => bail!("the migration failed: {state}"),
                _ => Ok(None),
            }
        })?;
        to.event("RESUME", limit).map(drop)
    }

    /// Begins to move the VM to nobody, slowly, and gives that up once guest memory is being copied.
    ///
    /// # Errors
    /// If QEMU refuses, or does not come so far.
    pub fn migrate_in_vain(&mut self) -> Result<()> {
        self.execute("migrate-set-parameters", &json!({ "max-bandwidth": 1 << 20 }))?;
        self.execute("migrate", &json!({ "uri": "exec:cat >/dev/null" }))?;
        self.wait_migration("active")?;
        std::thread::sleep(Duration::from_millis(200));
        self.execute("migrate_cancel", &json!({}))?;
        self.wait_migration("cancelled")?;
        self.execute("migrate-set-parameters", &json!({ "max-bandwidth": 1u64 << 32 })).map(drop)
    }

    fn wait_migration(&mut self, status: &str) -> Result<()> {
        wait_for(&format!("a migration that is {status}"), Duration::from_secs(20), || {
            let state = self.execute("query-migrate", &json!({}))?;
            Ok((state["status"] == status).then_some(()))
        })
    }

    fn receive(&mut self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + limit;
        let mut line = String::new();
        loop {
            match self.lines.read_line(&mut line) {
                Ok(0) => bail!("QEMU's monitor has closed its connection"),
                Ok(_) if line.ends_with('\n') => {
                    let message: Value = serde_json::from_str(&std::mem::take(&mut line))?;
                    if wanted(&message) {
                        return Ok(message);
                    }
                    self.events.push(message);
                }
                // Half a line stays until the rest comes.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= end {
                bail!("no answer of QEMU's monitor within {limit:?}; it said {:?}", self.events);
            }
        }
    }
}
